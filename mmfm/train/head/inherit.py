"""What a head takes over from the objectives of its checkpoint `init`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmfm.checkpoint import Checkpoint
from mmfm.heads.base import Head
from mmfm.weights import load_named


def inherit(head: Head, found: Checkpoint) -> list[str]:
    """Copy the weights of objectives that are the same as a part of `head`; a sentence for the log
    on each part that might be known.
    """
    told = []
    fine_tuned = "head" in found.config
    objectives = _beside_head(found) if fine_tuned else found.config.get("objectives") or {}
    for kind, known in head.known_before().items():
        if fine_tuned and kind not in head.beside():
            continue  # `mmfm.train.head.refit` takes the head itself over
        of_kind = {n: o for n, o in objectives.items() if o.get("type") == kind}
        same = [n for n, o in of_kind.items() if _equal(o, known.settings)]
        if not same:
            why = (
                f"objectives.{next(iter(of_kind))} of {found.path} has other settings"
                if of_kind
                else f"{found.path} has no {kind} objective"
            )
            told.append(f"its {kind} part begins anew: {why}")
            continue
        prefix = f"objectives.{same[0]}."
        tensors = found.model_tensors(prefix)
        load_named(
            known.part, {k.removeprefix(prefix): v for k, v in tensors.items()}, str(found.path)
        )
        told.append(f"its {kind} part goes on from objectives.{same[0]} of {found.path}")
    return told


def _beside_head(found: Checkpoint) -> Mapping[str, Any]:
    """The objectives that were trained along with the head of a fine-tuned checkpoint."""
    matching = found.config["head"].get("matching")
    return {} if matching is None else {"matching": {"type": "matching"}}


def _equal(there: Mapping[str, Any], here: Mapping[str, Any]) -> bool:
    return all(_plain(there.get(name)) == _plain(value) for name, value in here.items())


def _plain(value: Any) -> Any:
    """Lists here name sets."""
    return sorted(value) if isinstance(value, list | tuple) else value
