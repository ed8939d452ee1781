"""Shows what a dataset holds: what ``mmfm data inspect`` does.

    mmfm data inspect data/shop                       # tables
    mmfm data inspect data/shop --html shop.html      # and a page to look at, in one file

Reads every sample, of a dataset with a manifest or of any folder of WebDataset tars, and prints
counts per split and modality set, sizes, durations, labels, texts and words, what is missing, what
was left out when it was made, and what the held-out splits share with the others.
"""

from __future__ import annotations

from pathlib import Path

from mmfm_prep.dataset.inspect.page import Contact, write_page
from mmfm_prep.dataset.inspect.summary import Summary
from mmfm_prep.dataset.inspect.tables import show
from mmfm_prep.dataset.reading import Dataset
from mmfm_prep.progress import say, stdout_console, track


def inspect(folder: Path, html: Path | None = None, samples: int = 24, seed: int = 0) -> Summary:
    """Print what the dataset in `folder` holds, to stdout, and write a page with so many `samples`
    of each split, drawn by `seed`, to the file `html`. PrepError where there is none.
    """
    dataset = Dataset.open(folder)
    summary = Summary()
    contact = Contact(samples if html else 0, seed)
    for sample in track(dataset.samples(), "read samples", len(dataset.manifest)):
        summary.add(sample)
        contact.offer(sample)
    show(summary, dataset.about, stdout_console())
    if html:
        write_page(html, dataset, summary, contact)
        say(f"page: {html}")
    return summary
