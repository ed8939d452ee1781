"""A trained model for use: embeddings and predictions, on one process or over many.

    predictor = mmfm.load("runs/quickstart")
    predictor.encode(images=["cat.png"], texts=["a cat"])["image"]   # [1, embed_dim], length 1
    mmfm.load("runs/quickstart-subcategory").predict(images=["cat.png"], texts=["a cat"])

`encode_batches`, `logits_batches` and the like run over whole data sets; they are collective, and
give every rank all rows.
"""

from mmfm.predictor.core import Predictor
from mmfm.predictor.loading import build, load, transforms_of, untrained
from mmfm.predictor.outputs import Encoded, Judged, Predictions

__all__ = [
    "Encoded",
    "Judged",
    "Predictions",
    "Predictor",
    "build",
    "load",
    "transforms_of",
    "untrained",
]
