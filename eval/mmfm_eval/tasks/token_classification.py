"""The tags that a checkpoint's head gives the tokens of one source.

    type: token_classification
    source: val
    train: train       # a dictionary of this source's entities is the baseline, with or without
                       # regard to capital letters, whichever is better

With BIO tags: precision, recall and F1 of entities, as conlleval and seqeval count them; the table
by type goes to the details. With other tags: the share of tokens that are right, and macro F1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmfm.config import ConfigError
from mmfm.data.reader import SampleReader
from mmfm.data.transforms._tagged_text import OTHER_TAGS
from mmfm.data.transforms.base import BadSample
from mmfm.entities import OUTSIDE, repaired
from mmfm.entities import entities as entities_of
from mmfm.types import IGNORE_INDEX
from mmfm_eval.metrics import bootstrap, classification, entities
from mmfm_eval.mistakes import Mistake, Span, worst
from mmfm_eval.readings import Ints, OwnPass, Predictor, Reading
from mmfm_eval.tasks.base import Evaluator, Score
from mmfm_eval.tasks.head import HeadReading


@dataclass(kw_only=True)
class Config:
    """`train`: a source with tagged tokens, from which the dictionary is made."""

    source: str
    train: str | None = None

    def build(self) -> TokenClassification:
        return TokenClassification(self)


@dataclass(frozen=True)
class TaggedTexts(OwnPass):
    """By sample id the tokens, and the tags of the `field`, of every sample shown that has both."""

    field: str = "tags"

    def run(self, predictor: Any, data: Mapping[str, Any]) -> Any:
        manifest = data[self.source].manifest
        reader = SampleReader([(self.source, manifest)])
        found = {}
        for shard in range(len(manifest.shards)):
            for index in np.flatnonzero(manifest.index(shard).has_some()).tolist():
                try:
                    raw = reader.read(0, shard, index)
                except BadSample:
                    continue
                tokens, tags = raw.meta.get("tokens"), raw.meta.get(self.field)
                if tokens and tags and len(tokens) == len(tags):
                    found[raw.sample_id] = (tokens, tags)
        return found


class TokenClassification(Evaluator):
    """See the module's text."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._reading = HeadReading(config.source)
        self._field = "tags"
        self._names: list[str] = []

    @property
    def readings(self) -> tuple[Reading, ...]:
        texts = [TaggedTexts(s, field=self._field) for s in self._with_dictionary()]
        return (self._reading, *texts)

    def check_model(self, predictor: Predictor) -> None:
        label = getattr(predictor, "label", None)
        if label is None or label.kind != "tags":
            raise ConfigError(
                "a token_classification task needs a checkpoint with a head of that name: "
                "fine-tune one first (mmfm finetune)"
            )
        self._field, self._names = label.field, list(label.names)

    def score(self, encoded: Mapping[Reading, Any]) -> Iterable[Score]:
        judged = encoded[self._reading]
        if not self._are_entities():
            yield from self._token_scores(judged)
            return
        truth, predicted = self._tags(judged.target), self._tags(judged.predicted["tags"])
        statistics = entities.micro(entities.count(truth, predicted))
        estimates = bootstrap.estimate(statistics, judged.groups, seed=self.seed)
        chance = {"entity_f1": entities.f1_by_chance(truth)}
        beside = self._by_dictionary(encoded, judged.row_ids, truth)
        for name, found in estimates.items():
            score = Score(name, found.value, len(truth), found.ci95, chance.get(name))
            if name in beside:
                score = score._replace(baseline=beside[name], baseline_name="dictionary")
            yield score

    def details(self, encoded: Mapping[Reading, Any]) -> dict[str, Any]:
        judged = encoded[self._reading]
        if not self._are_entities():
            truth, predicted, _ = self._tokens(judged)
            table = classification.per_class(truth, predicted, self._all_names)
            confusion = classification.confusion(truth, predicted, self._all_names)
            return {
                "per_class": table,
                "averages": classification.averages(table),
                **confusion,
            }
        tags, told = self._tags(judged.target), self._tags(judged.predicted["tags"])
        return {
            "per_entity": entities.table(entities.count(tags, told)),
            # Tags that go on with what hadn't begun: entities begin there.
            "begun_inside": {"told": sum(map(repaired, told)), "right": sum(map(repaired, tags))},
        }

    def mistakes(self, encoded: Mapping[Reading, Any], most: int) -> list[Mistake]:
        """The texts with most entities, or tokens, that are wrong, missing or made up."""
        judged = encoded[self._reading]
        truth, told = self._tags(judged.target), self._tags(judged.predicted["tags"])
        spans = [self._spans(*pair) for pair in zip(truth, told, strict=True)]
        wrong = np.array([len(set(right) ^ set(said)) for right, said in spans])
        found = []
        for i in worst(wrong, most):
            right, said = spans[i]
            hits = len(set(right) & set(said))
            found.append(
                Mistake(
                    source=self.config.source,
                    id=judged.row_ids[i],
                    right=f"{len(right)} marked",
                    said=f"{len(said)} marked, {hits} of them right",
                    wrong=float(wrong[i]),
                    spans={"right": right, "said": said},
                )
            )
        return found

    def _spans(self, truth: list[str], told: list[str]) -> tuple[list[Span], list[Span]]:
        """What to mark in a text: its entities; with other tags the tokens that are wrong."""
        if self._are_entities():
            return entities_of(truth), entities_of(told)
        off = [i for i, (a, b) in enumerate(zip(truth, told, strict=True)) if a != b]
        return [(truth[i], i, i + 1) for i in off], [(told[i], i, i + 1) for i in off]

    @property
    def _all_names(self) -> list[str]:
        return [*self._names, *OTHER_TAGS]

    def _are_entities(self) -> bool:
        return all(n == OUTSIDE or n.startswith(("B-", "I-")) for n in self._names)

    def _tags(self, numbers: Any) -> list[list[str]]:
        """The names of tags [n,W], of each text as many as it has tokens."""
        names = self._all_names
        return [
            [names[n] if n >= 0 else OUTSIDE for n in row if n != IGNORE_INDEX]
            for row in numbers.tolist()
        ]

    def _with_dictionary(self) -> list[str]:
        return [] if self.config.train is None else [self.config.train, self.config.source]

    def _by_dictionary(
        self, encoded: Mapping[Reading, Any], ids: list[str], truth: list[list[str]]
    ) -> dict[str, float]:
        if self.config.train is None:
            return {}
        known, own = (encoded[TaggedTexts(s, field=self._field)] for s in self._with_dictionary())
        tokens, tags = zip(*known.values(), strict=True) if known else ((), ())
        ones, reached = np.ones((1, len(ids))), []
        for any_case in (False, True):
            dictionary = entities.Dictionary(tokens, tags, any_case)
            found = [dictionary.tag(own[name][0]) for name in ids]
            statistics = entities.micro(entities.count(truth, found))
            reached.append({name: float(of(ones)[0]) for name, of in statistics.items()})
        return max(reached, key=lambda scores: scores["entity_f1"])

    def _token_scores(self, judged: Any) -> Iterable[Score]:
        truth, predicted, text = self._tokens(judged)
        groups = judged.groups[text]
        statistics = {
            "accuracy": classification.accuracy(truth, predicted),
            "macro_f1": classification.macro_f1(truth, predicted),
        }
        chance = classification.by_chance(truth, len(self._names))
        reached = classification.by_constant(truth, classification.majority(truth))
        for name, found in bootstrap.estimate(statistics, groups, seed=self.seed).items():
            told = "token_accuracy" if name == "accuracy" else name
            beside = (chance[name], reached[name], "majority tag")
            yield Score(told, found.value, len(truth), found.ci95, *beside)

    def _tokens(self, judged: Any) -> tuple[Ints, Ints, Ints]:
        """Of every token that has a tag: its number, the one that is predicted (negative: none),
        and the place of its text.
        """
        text, token = np.nonzero(judged.target != IGNORE_INDEX)
        return judged.target[text, token], judged.predicted["tags"][text, token], text
