"""What in a sample's files holds which modality: the endings of files, and fields of its JSON.

    modality_endings()  # {"audio": ("wav", …), "text": ("txt", "json:texts"), …}
    modality_endings({"video": my_package.video.Config()})  # with what `ENDINGS` there names

``json:texts`` is the field ``texts`` of ``<key>.json``; every other ending is that of a file, all
that follows the first dot of its name.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Endings = Mapping[str, Sequence[str]]
"""modality ▶ the endings that hold it."""

JSON = "json:"


def modality_endings(transforms: Mapping[str, Any] | None = None) -> dict[str, tuple[str, ...]]:
    """modality ▶ its endings, from the `ENDINGS` of every module in `mmfm.data.transforms`.

    `transforms`: settings by modality (``data.transforms``), whose modules, also those from
    elsewhere, say what holds that modality.
    """
    package = importlib.import_module("mmfm.data.transforms")
    modules = {
        info.name: importlib.import_module(f"{package.__name__}.{info.name}")
        for info in sorted(pkgutil.iter_modules(package.__path__), key=lambda m: m.name)
    }
    modules |= {m: sys.modules[type(config).__module__] for m, config in (transforms or {}).items()}
    return {m: tuple(module.ENDINGS) for m, module in modules.items() if hasattr(module, "ENDINGS")}


def endings_text(endings: Endings) -> str:
    """`endings` as one string: an index made with others may count other modality sets."""
    return " ".join(f"{m}={','.join(sorted(endings[m]))}" for m in sorted(endings))


@dataclass(frozen=True)
class Holders:
    """`files`: ending ▶ modality; `fields`: field of the JSON ▶ modality."""

    files: Mapping[str, str]
    fields: Mapping[str, str]

    @classmethod
    def of(cls, endings: Endings) -> Holders:
        """The same as `endings`, from the other side; ValueError where an ending holds two."""
        both: dict[str, str] = {}
        for modality, listed in endings.items():
            for ending in listed:
                other = both.setdefault(ending, modality)
                if other != modality:
                    raise ValueError(
                        f"the ending {ending!r} holds both {other!r} and {modality!r}: give one of "
                        "them another, such as depth.png, in the ENDINGS of its transform"
                    )
        return cls(
            {ending: m for ending, m in both.items() if not ending.startswith(JSON)},
            {e.removeprefix(JSON): m for e, m in both.items() if e.startswith(JSON)},
        )

    def in_json(self, data: Mapping[str, Any]) -> set[str]:
        """The modalities that a sample's JSON holds."""
        return {m for field, m in self.fields.items() if is_there(data.get(field))}


def is_there(value: Any) -> bool:
    """Whether a field of a sample's JSON holds anything: 0 is a number, but "" and [] are not."""
    return bool(value) or isinstance(value, int | float)
