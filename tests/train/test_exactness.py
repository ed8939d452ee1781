"""The equality matrix: ranks × ZeRO stages × micro-batches × a modality missing, with every
objective, against plain PyTorch in double precision.

Each rank count is one run of the real launcher with one process group for all cases. Gradients must
agree to 1e-6 of each tensor's norm, weights after three SGD steps too, losses to 1e-6 under AdamW.
Here is a part of the matrix; all of it, each objective also alone, is in
benchmarks/equality_matrix.py.
"""

from __future__ import annotations

import pytest

from tests.train.exactness import Plain, differences, first_gradients
from tests.train.exactness_worker import SOME, STILL, Case

CASES = [
    pytest.param(ranks, case, id=f"{ranks}ranks-{case.name}")
    for ranks, cases in SOME.items()
    for case in cases
]


@pytest.mark.parametrize(("ranks", "case"), CASES)
def test_equals_plain_pytorch(ranks: int, case: Case, trained, plain: Plain) -> None:
    """Where plain PyTorch in fp32 is itself further than a third of 1e-6 from double, for gradients
    in which large terms cancel, the trainer may be as far as three times that.
    """
    found = differences(case, trained(ranks), plain)
    assert max(found.losses.values()) <= 1e-6, worst(found.losses)
    if case.optimizer == "sgd":
        assert max(found.noise.values()) < 1e-5, "the model is too badly conditioned to tell"
        above = {k: d for k, d in found.gradients.items() if d > max(1e-6, 3 * found.noise[k])}
        assert not above, worst(above)
        assert max(found.weights.values()) <= 1e-6, worst(found.weights)


def worst(found: dict[str, float]) -> str:
    return ", ".join(f"{k} {found[k]:.1e}" for k in sorted(found, key=found.__getitem__)[-5:])


def test_every_parameter_has_a_gradient_to_compare(plain: Plain) -> None:
    found, _ = first_gradients(plain, Case(0, 1, False, "sgd").recipe, 0)
    assert not [name for name, gradient in found.items() if not gradient.any()]


def test_a_missing_modality_leaves_parts_without_gradient(plain: Plain) -> None:
    """So that a gradient of the step before would be seen."""
    found, _ = first_gradients(plain, Case(0, 1, True, "sgd").recipe, STILL - 1)
    without = {name for name, gradient in found.items() if not gradient.any()}
    assert any(name.startswith("model.encoders.audio") for name in without)
