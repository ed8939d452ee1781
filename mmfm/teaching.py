"""Distillation of a head: the student's answers become those of a fine-tuned teacher's (Hinton et
al. 2015, arXiv:1503.02531), and its tokens too, if asked for (TinyBERT, arXiv:1909.10351).

    teacher: {path: runs/ner, weight: 0.5, temperature: 2.0, hidden: 1.0}

The loss of the head stays and counts 1 beside. Every sample that the head reads teaches, with or
without a label. The teacher is needed to train and to resume, not to use what was trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmfm.checkpoint import Checkpoint
from mmfm.config import Component, component
from mmfm.heads.base import Head
from mmfm.heads.classification import ClassificationHead, MultiLabelHead
from mmfm.heads.regression import RegressionHead
from mmfm.heads.token_classification import TokenClassificationHead
from mmfm.model import Model
from mmfm.objectives._distillation.feature import FeatureDistillation
from mmfm.objectives._distillation.teacher import Teacher
from mmfm.objectives.base import Objective, ReadFeatures, zero_term
from mmfm.types import Batch, Label, LossTerms, Read
from mmfm.weights import load_named

HEAD = "objectives.head.head."
TEACHER = "teacher"


@dataclass(kw_only=True)
class TeacherConfig:
    """`path`: the checkpoint of a fine-tuned model whose head learnt the same labels. `weight` of
    the divergence from its answers at a `temperature`; `hidden`: of the difference from the tokens
    of its encoders.
    """

    path: str
    weight: float = 0.5
    temperature: float = 2.0
    hidden: float = 0.0

    def __post_init__(self) -> None:
        if min(self.weight, self.hidden) < 0 or not max(self.weight, self.hidden) > 0:
            raise ValueError(
                f"weight = {self.weight}, hidden = {self.hidden}: neither may be negative, and one "
                "must be above 0"
            )
        if not self.temperature > 0:
            raise ValueError(f"temperature = {self.temperature} must be above 0")


def teacher_objectives(
    config: TeacherConfig, model: Model, head: Head
) -> dict[str, tuple[Objective, float]]:
    """By name the objectives that learn from the teacher, with their weights.

    Raises:
        ValueError: for a teacher that can't be opened, reads something else, or learnt other
            labels.
    """
    answers_of(head)
    teacher = HeadTeacher(config.path, model, head)
    objectives: dict[str, tuple[Objective, float]] = {}
    if config.weight:
        taught = AnswerDistillation(teacher, config.temperature)
        objectives[TEACHER] = (taught, config.weight)
    if config.hidden:
        for modality in teacher.hidden:
            feature = FeatureDistillation(config.path, modality, "tokens", model)
            feature.teacher = teacher
            start_as_identity(feature.project)
            objectives[_hidden(modality)] = (feature, config.hidden)
        if not teacher.hidden:
            raise ValueError("hidden teaches the head's encoders, but all of them are frozen")
    return objectives


class HeadTeacher(Teacher):
    """A fine-tuned model and its head, which run once for each micro-batch whoever asks.

    `hidden`: the modalities that the `student`'s head reads and whose encoders train.
    """

    def __init__(self, path: str, student: Model, head: Head) -> None:
        read = {m for r in head.reads for m in r.modalities}
        self.hidden = [m for m in student.encoders if m in read and not student.encoder(m).frozen]
        found = Checkpoint.open(path)
        settings, told = found.config.get("head"), found.preprocessing["label"]
        if settings is None:
            raise ValueError(f"teacher {path} has no head: it was pretrained, not fine-tuned")
        label = Label(*told) if told else Label("")
        if label.field != head.label:
            raise ValueError(f"teacher {path} learnt {label.field!r}, the head {head.label!r}")
        shared = tuple(Read("clean", (m,)) for m in self.hidden)
        super().__init__(path, (*head.reads, *shared), student)
        with torch.random.fork_rng(devices=[]):
            marker = Component("mmfm.heads")
            self.head: Head = component(settings, marker, "head").build(self.model, label.names)
        weights = found.model_tensors(HEAD)
        load_named(self.head, {k.removeprefix(HEAD): v for k, v in weights.items()}, path)
        self.head.eval().requires_grad_(False)
        if {m for r in self.head.reads for m in r.modalities} != read:
            raise ValueError(f"teacher {path}: its head reads other modalities than this one")
        self.answers = answers_of(head)
        theirs = answers_of(self.head)
        if self.answers != theirs:
            apart = ", ".join(sorted(self.answers.names ^ theirs.names)[:5])
            more = f": only one of them has {apart}" if apart else ""
            raise ValueError(f"teacher {path}: its head gives other answers than this one{more}")
        self.pupil = head
        self.wanted = tuple(dict.fromkeys((*self.head.reads, *shared)))
        self._last: tuple[Batch, ReadFeatures] | None = None

    def features(self, batch: Batch, reads: Sequence[Read]) -> ReadFeatures:
        """As of every teacher, of all that will be asked for of this batch."""
        if self._last is None or self._last[0] is not batch:
            self._last = (batch, super().features(batch, self.wanted))
        return {read: self._last[1][read] for read in reads}

    @torch.no_grad()
    def outputs(self, batch: Batch) -> dict[str, Tensor]:
        """Those of its head, the logits in the order of the student's labels, or in its units."""
        found = self.features(batch, self.head.reads)
        first = next(self.model.parameters())
        self.head.to(first.device)
        for parameter in self.head.parameters():  # its units are buffers, and stay as they are
            parameter.data = parameter.data.to(first.dtype)
        outputs: dict[str, Tensor] = self.head(found, batch)
        pupil, head, logits = self.pupil, self.head, outputs["logits"]
        if isinstance(pupil, ClassificationHead | TokenClassificationHead):
            assert isinstance(head, ClassificationHead | TokenClassificationHead)
            columns = [head.label_names.index(name) for name in pupil.label_names]
            return {**outputs, "logits": logits[..., columns]}
        assert isinstance(pupil, RegressionHead)
        assert isinstance(head, RegressionHead)
        if pupil.kind == "ordinal":
            return outputs
        value = logits.float() * head.deviation + head.mean
        return {**outputs, "logits": (value - pupil.mean) / pupil.deviation}


class Answers(NamedTuple):
    """What the logits [n,C] of a head are: one of C "classes", a yes or no for each ("set"), or a
    "number"; and what they are of, in any order or in this one.
    """

    are: Literal["classes", "set", "number"]
    names: frozenset[str] = frozenset()
    order: tuple[str, ...] = ()


def answers_of(head: Head) -> Answers:
    """ValueError for a head whose outputs are no logits."""
    if isinstance(head, RegressionHead):
        return Answers("set" if head.kind == "ordinal" else "number", order=tuple(head.order or ()))
    if isinstance(head, ClassificationHead | TokenClassificationHead):
        several = isinstance(head, MultiLabelHead)
        return Answers("set" if several else "classes", frozenset(head.label_names))
    raise ValueError("this kind of head learns no label, so there are no answers to take over")


class AnswerDistillation(Objective):
    """The divergence of the student's answers from the teacher's, counted in rows of logits:
    samples, or the tokens that have a tag of their own.
    """

    def __init__(self, teacher: HeadTeacher, temperature: float) -> None:
        super().__init__()
        self.teacher, self.temperature = teacher, temperature
        self.reads = teacher.pupil.reads
        self.raw = tuple(dict.fromkeys(m for read in self.reads for m in read.modalities))

    def counts(self, batch: Batch, masks: dict[str, Tensor]) -> dict[str, Tensor]:
        if isinstance(self.teacher.pupil, TokenClassificationHead):
            begins = batch["text_words"] >= 0 if "text" in batch["rows"] else batch["group"][:0]
            return {"answers": begins.sum().double()}
        present = torch.zeros_like(batch["group"], dtype=torch.bool)
        for modality in self.raw:
            if modality in batch["rows"]:
                present[batch["rows"][modality]] = True
        return {"answers": present.sum().double()}

    def forward(self, features: ReadFeatures, batch: Batch) -> LossTerms:
        if not any(m in batch["rows"] for m in self.raw):
            return {"answers": zero_term(batch["group"])}
        ours = self.teacher.pupil(features, batch)["logits"]
        theirs = self.teacher.outputs(batch)["logits"]
        error = answer_error(ours, theirs, self.teacher.answers.are, self.temperature)
        return {"answers": (error.sum(), torch.tensor(len(error), device=error.device))}


def answer_error(student_NC: Tensor, teacher_NC: Tensor, are: str, temperature: float) -> Tensor:
    """[N]: the Kullback-Leibler divergence of the student's from the teacher's distribution at the
    temperature T, times T² so that gradients keep their size; of a set of labels the mean over
    their distributions, of numbers the squared difference. See `Answers` for what they `are`.
    """
    assert student_NC.shape == teacher_NC.shape, "both read the same samples"
    ours, theirs = student_NC.float(), teacher_NC.float()
    if are == "number":
        return F.mse_loss(ours, theirs, reduction="none").mean(1)
    ours, theirs = ours / temperature, theirs / temperature
    if are == "set":
        # log p and log (1 - p) of each label
        one, other = (torch.stack([F.logsigmoid(x), F.logsigmoid(-x)], -1) for x in (ours, theirs))
        divergence = F.kl_div(one, other, reduction="none", log_target=True).sum(-1).mean(-1)
    else:
        one, other = F.log_softmax(ours, -1), F.log_softmax(theirs, -1)
        divergence = F.kl_div(one, other, reduction="none", log_target=True).sum(-1)
    return divergence * temperature**2


def start_as_identity(project: nn.Linear) -> None:
    """A student of the teacher's width, made of its layers, speaks its language already."""
    if project.in_features == project.out_features:
        nn.init.eye_(project.weight)
        nn.init.zeros_(project.bias)


def taught_names(model: Model) -> list[str]:
    """What the objectives of a teacher of `model` may be called."""
    return [TEACHER, *(_hidden(modality) for modality in model.encoders)]


def _hidden(modality: str) -> str:
    return f"{TEACHER}_{modality}"
