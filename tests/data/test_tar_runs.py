"""The quick reading of a sample's run of tar members against tarfile's."""

import io
import tarfile

import pytest

from mmfm.data import tar

KEY = "a/b 7"
FILES = {"json": b'{"id": 1}', "SEG.png": b"x" * 1000, "txt": b"", "wav": bytes(range(256)) * 4}


def run(files, format=tarfile.PAX_FORMAT, key=KEY, **headers):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as archive:
        for ending, content in files.items():
            info = tarfile.TarInfo(f"{key}.{ending}")
            info.size = len(content)
            info.mtime = 1.5  # a pax header of its own, as webdataset's writer makes
            info.pax_headers = headers
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue().rstrip(b"\0") + b"\0" * 1024


def bare(data):
    """Without the archive's end, as an index gives it."""
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        last = archive.getmembers()[-1]
    return data[: last.offset_data + -(-last.size // 512) * 512].ljust(
        last.offset_data + -(-last.size // 512) * 512, b"\0"
    )


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT])
def test_plain_runs_read_as_tarfile_reads_them(format):
    data = bare(run(FILES, format))
    plain = tar._plain_run(data, KEY)
    assert plain == {ending.lower(): content for ending, content in FILES.items()}
    assert plain == tar.parse_run(data, KEY)


@pytest.mark.parametrize(
    ("data", "key"),
    [
        (bare(run(FILES)), "a/b"),
        (bare(run(FILES, key="a/" + "b" * 120)), "a/" + "b" * 120),
        (bare(run(FILES, path=f"{KEY}.other")), KEY),
        (bare(run(FILES))[:-700], KEY),
        (b"\0" * 1024, KEY),
        (b"", KEY),
        (bare(run(FILES)).replace(b"ustar", b"usxar"), KEY),
    ],
    ids=["another key", "long name", "path in pax", "cut", "zeros", "empty", "checksum"],
)
def test_what_is_not_plain_is_left_to_tarfile(data, key):
    assert tar._plain_run(data, key) is None
