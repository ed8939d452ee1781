"""The options of `interactions`, and the tables that they tell of."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import ClassVar, Literal

from mmfm_prep.making.choose import SplitBy
from mmfm_prep.sources._interactions import movielens, recbole
from mmfm_prep.sources._interactions.events import EventColumns
from mmfm_prep.sources._interactions.histories import Duplicates
from mmfm_prep.sources._interactions.tables import ItemColumns, Table, Tables, tables_of_columns
from mmfm_prep.sources.base.files import FilesSource
from mmfm_prep.tables import Layout

_READ = (
    *("user", "item", "time", "time_format", "rating"),
    *("items", "items_id", "image", "audio", "texts", "labels"),
)


@dataclass(kw_only=True)
class Options(FilesSource, Layout):
    """`user`, `item`, `time`, `rating`: columns of the events; without `time` it is the rows that
    are in order. Times are ISO dates, or numbers since 1970, or what `time_format` says. `items`:
    the table of items, with `items_id` (default: as `item`) and, as in `table`, `image`, `audio`,
    `texts`, `labels`, `root`. `items_layout` is to it what the options of `Layout` are to the
    events.

    Events rated below `min_rating` are in no history. Of several events of one person on one item
    `duplicates` stay. Then people with less than `min_user` events and items with less than
    `min_item` go, again and again until all have so many.
    """

    # People are one split and items the other: there is nothing to share out, nothing held out.
    shares: ClassVar[dict[str, float]] = {"items": 1.0}  # type: ignore[misc]
    split_by: ClassVar[SplitBy] = "group"  # type: ignore[misc]
    drop_leaks: ClassVar[bool] = False  # type: ignore[misc]

    preset: Literal["movielens", "recbole"] | None = None
    user: str | None = None
    item: str | None = None
    time: str | None = None
    time_format: str | None = None
    rating: str | None = None
    items: Path | None = None
    items_layout: Layout = field(default_factory=Layout)
    items_id: str | None = None
    image: str | None = None
    audio: str | None = None
    texts: dict[str, list[str]] = field(default_factory=dict)
    labels: list[str] = field(default_factory=list)
    root: Path | None = None
    min_rating: float | None = None
    duplicates: Duplicates = "all"
    min_user: int = 0
    min_item: int = 0

    def __post_init__(self) -> None:
        FilesSource.__post_init__(self)
        Layout.__post_init__(self)
        if self.preset:
            self._check_preset()
        else:
            self._check_columns()
        if self.min_user < 0 or self.min_item < 0:
            raise ValueError("min_user and min_item must be 0 or more")

    def tables(self) -> Tables:
        """What is read; PrepError where a preset's files aren't there."""
        if self.preset == "movielens":
            return movielens.tables(self.input)
        usual = recbole.EVENTS if self.preset == "recbole" else EventColumns("", "")
        columns = EventColumns(
            self.user or usual.user,
            self.item or usual.item,
            self.time or usual.time,
            self.rating or usual.rating,
            self.time_format,
        )
        items = ItemColumns(
            id=self.items_id or columns.item,
            image=self.image,
            audio=self.audio,
            texts=self.texts,
            labels=self.labels,
        )
        if self.preset == "recbole":
            return recbole.tables(self.input, columns, items, self.root)
        of_items = Table(self.items, self.items_layout) if self.items else None
        return tables_of_columns(Table(self.input, self), columns, of_items, items, self.root)

    def _check_preset(self) -> None:
        given = [name for name in (*_READ, "root") if getattr(self, name)]
        if self.preset == "movielens" and given:
            raise ValueError(f"preset=movielens knows its columns: leave out {', '.join(given)}")
        if self.items:
            raise ValueError("preset=recbole reads the items beside the events: leave out items")
        usual = Layout()
        laid_out = [
            f.name for f in fields(Layout) if getattr(self, f.name) != getattr(usual, f.name)
        ]
        laid_out += ["items_layout"] if self.items_layout != usual else []
        if laid_out:
            told = ", ".join(laid_out)
            raise ValueError(
                f"preset={self.preset} knows how its files are laid out: leave out {told}"
            )

    def _check_columns(self) -> None:
        content = bool(self.image or self.audio or any(self.texts.values()))
        if not self.user or not self.item:
            raise ValueError("name columns of the events: user=…, item=… (or a preset=…)")
        if self.items and not content:
            raise ValueError("name columns of the items: image=…, audio=… or 'texts.en=[…]'")
        of_items = content or self.items_id or self.labels or self.root
        if not self.items and (of_items or self.items_layout != Layout()):
            raise ValueError("name the table of items, too: items=…")
        if self.time_format and not self.time:
            raise ValueError("time_format needs the column: time=…")
        if self.min_rating is not None and not self.rating:
            raise ValueError("min_rating needs the column: rating=…")
