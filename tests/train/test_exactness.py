"""The equality matrix: ranks × ZeRO stages × micro-batches × a modality missing, with every
objective, against plain PyTorch in double precision.

Each rank count is one run of the real launcher with one process group for all cases. Gradients must
agree to 1e-6 of each tensor's norm, weights after three SGD steps too, losses to 1e-6 under AdamW.
A part of the matrix runs always, all of it, each objective also alone, with the slow tests;
benchmarks/equality_matrix.py shows it as tables.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.train.exactness import (
    Differences,
    Plain,
    differences,
    first_gradients,
    too_far,
    train,
)
from tests.train.exactness_worker import SOME, STILL, Case, all_cases

CASES = [
    pytest.param(ranks, case, id=f"{ranks}ranks-{case.name}")
    for ranks, cases in SOME.items()
    for case in cases
]


@pytest.mark.parametrize(("ranks", "case"), CASES)
def test_equals_plain_pytorch(ranks: int, case: Case, trained, plain: Plain) -> None:
    check(differences(case, trained(ranks), plain))


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_the_whole_matrix(ranks: int, plain: Plain, tmp_path: Path) -> None:
    """Every objective, together and alone."""
    cases = all_cases(plain.objectives)
    train(ranks, cases, plain, tmp_path)
    for case in cases:
        check(differences(case, tmp_path, plain))


@pytest.mark.gpu
def test_equals_plain_pytorch_on_a_gpu(plain: Plain, tmp_path: Path) -> None:
    cases = [*SOME[1], *SOME[2]]
    train(1, cases, plain, tmp_path, gpu=True)
    for case in cases:
        check(differences(case, tmp_path, plain))


def check(found: Differences) -> None:
    assert max(found.noise.values(), default=0.0) < 1e-5, "the model is too badly conditioned"
    assert not too_far(found)


def test_every_parameter_has_a_gradient_to_compare(plain: Plain) -> None:
    found, _ = first_gradients(plain, Case(0, 1, False, "sgd").recipe, 0)
    assert not [name for name, gradient in found.items() if not gradient.any()]


def test_a_missing_modality_leaves_parts_without_gradient(plain: Plain) -> None:
    """So that a gradient of the step before would be seen."""
    found, _ = first_gradients(plain, Case(0, 1, True, "sgd").recipe, STILL - 1)
    without = {name for name, gradient in found.items() if not gradient.any()}
    assert any(name.startswith("model.encoders.audio") for name in without)
