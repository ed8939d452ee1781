"""Checkpoints: folders of named tensors that are either whole or not there.

    step_00001000/
      manifest.json          step, samples_seen, sizes and sha256 of every file
      config.yaml            the complete recipe
      preprocessing.json     what the data pipeline must know of each modality, and the label names
      assets/<modality>/     tokenizer and the like
      model-*.safetensors    weights by parameter name, in fp32
      optimizer-*.safetensors  the optimiser's state by ``parameter/key``
      ema-*.safetensors      the average of the weights that train, where the recipe keeps one

Every rank writes its part of the tensors into a hidden folder, which is renamed when all is there;
the file ``latest`` beside it moves after that. ``best`` names the one with the best score of an
evaluation, and the score. Nothing is ever unpickled.
"""

from mmfm.checkpoint.folder import best, latest, mark_best, name_of, prune
from mmfm.checkpoint.reading import FORMAT, Checkpoint, CheckpointError, Weights
from mmfm.checkpoint.writing import check_writable, share_of_rank, write

__all__ = [
    "FORMAT",
    "Checkpoint",
    "CheckpointError",
    "Weights",
    "best",
    "check_writable",
    "latest",
    "mark_best",
    "name_of",
    "prune",
    "share_of_rank",
    "write",
]
