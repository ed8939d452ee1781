"""Random changes of training pictures, by torchvision's transforms v2.

`AugmentConfig` names them, ``config.build_augment(size)(picture, rng)`` makes them. All that is
random comes from `rng`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image


@dataclass(kw_only=True)
class AugmentConfig:
    """What is changed, in this order. `policy`: torchvision's RandAugment or TrivialAugmentWide."""

    policy: Literal["rand_augment", "trivial_augment"] | None = None
    rand_augment: tuple[int, int] = (2, 9)
    """Operations for each picture, and their magnitude, from 0 to 30."""
    colour_jitter: tuple[float, float, float, float] | None = None
    """Greatest changes of brightness, contrast, saturation and hue; a hue turns by 0.5 at most."""
    jitter: float = 0.8
    """Probability of the jitter, where `colour_jitter` is set."""
    grey: float = 0.0
    """Probability of a picture without colours."""
    blur: float = 0.0
    """Probability of a Gaussian blur, with a window of a tenth of the picture."""
    blur_sigma: tuple[float, float] = (0.1, 2.0)

    def __post_init__(self) -> None:
        for name in ("jitter", "grey", "blur"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} = {getattr(self, name)} is a probability, from 0 to 1")
        operations, magnitude = self.rand_augment
        if operations < 1 or not 0 <= magnitude <= 30:
            raise ValueError(
                f"rand_augment = {self.rand_augment}: at least 1 operation, of magnitude 0 to 30"
            )
        changes = self.colour_jitter
        if changes is not None and not (min(changes) >= 0 and changes[3] <= 0.5):
            raise ValueError(f"colour_jitter = {changes}: four changes from 0, of the hue to 0.5")
        if not 0 < self.blur_sigma[0] <= self.blur_sigma[1]:
            raise ValueError(f"blur_sigma = {self.blur_sigma} must be (low, high), 0 < low <= high")

    def build_augment(self, size: int) -> Augment | None:
        """What changes pictures of `size` x `size`; None where nothing is asked for."""
        if not (self.policy or self.colour_jitter or self.grey or self.blur):
            return None
        from torchvision.transforms import v2  # seconds to import

        steps: list[Callable[[Any], Any]] = []
        if self.policy == "rand_augment":
            steps.append(v2.RandAugment(*self.rand_augment))
        elif self.policy == "trivial_augment":
            steps.append(v2.TrivialAugmentWide())
        if self.colour_jitter is not None:
            steps.append(v2.RandomApply([v2.ColorJitter(*self.colour_jitter)], self.jitter))
        if self.grey > 0:
            steps.append(v2.RandomGrayscale(self.grey))
        if self.blur > 0:
            window = max(3, size // 20 * 2 + 1)
            blur = v2.GaussianBlur(window, list(self.blur_sigma))
            steps.append(v2.RandomApply([blur], self.blur))
        return Augment(steps)


@dataclass
class Augment:
    """One transform of torchvision after the other."""

    steps: list[Callable[[Any], Any]]

    def __call__(self, picture: Image.Image, rng: np.random.Generator) -> Image.Image:
        """`picture` (RGB), changed."""
        # torchvision draws from torch's own generator. torch.manual_seed would seed GPUs too.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(int(rng.integers(2**63)))
            for step in self.steps:
                picture = step(picture)
        return picture
