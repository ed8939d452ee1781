"""Things with hidden attributes, and how they look, what is said of them and how they sound.

    thing = Thing("star", "red", 2, "large")
    captions(thing); draw(thing, 32, rng); play(thing, 8000, 0.5, rng)

Place, background, angle, detune, phase and noise are drawn from `rng` and mean nothing.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from mmfm_prep.sample import Texts
from mmfm_prep.sound import Wave

COLOURS = {
    "red": (228, 40, 40),
    "yellow": (245, 205, 40),
    "green": (50, 170, 70),
    "blue": (45, 95, 220),
    "purple": (150, 60, 185),
    "grey": (140, 140, 140),
}
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
COUNTS = (1, 2, 3)
SIZES = ("small", "large")

GERMAN_COLOURS = dict(zip(COLOURS, ("rot", "gelb", "grün", "blau", "violett", "grau"), strict=True))
GERMAN_SIZES = {"small": "klein", "large": "groß"}
# singular, plural, ending of the adjective after "ein"
GERMAN_SHAPES = {
    "circle": ("Kreis", "Kreise", "er"),
    "square": ("Quadrat", "Quadrate", "es"),
    "triangle": ("Dreieck", "Dreiecke", "es"),
    "star": ("Stern", "Sterne", "er"),
    "cross": ("Kreuz", "Kreuze", "es"),
    "ring": ("Ring", "Ringe", "er"),
}
# Strength of the harmonics 1, 2, 3 … of each shape's timbre
TIMBRES = {
    "circle": (1.0,),
    "square": (1.0, 0.0, 0.6, 0.0, 0.4, 0.0, 0.3),
    "triangle": (0.2, 1.0, 0.2),
    "star": (1.0, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3),
    "cross": (0.3, 0.0, 0.3, 1.0),
    "ring": (0.6, 0.0, 1.0, 0.0, 0.0, 0.6),
}
PITCHES = dict(zip(COLOURS, (220.0, 262.0, 311.0, 370.0, 440.0, 523.0), strict=True))


class Thing(NamedTuple):
    """The hidden attributes; equal ones mean the same."""

    shape: str
    colour: str
    number: int
    size: str

    @property
    def group(self) -> str:
        return f"{self.number}-{self.size}-{self.colour}-{self.shape}"


def all_things() -> list[Thing]:
    """Every combination of the attributes, in a fixed order."""
    return [Thing(*t) for t in itertools.product(SHAPES, COLOURS, COUNTS, SIZES)]


def captions(thing: Thing) -> Texts:
    """What may be said of `thing`, in English and German."""
    words = {1: "one", 2: "two", 3: "three"}
    noun = (
        thing.shape
        if thing.number == 1
        else f"{thing.shape}{'es' if thing.shape == 'cross' else 's'}"
    )
    what = f"{thing.size} {thing.colour} {noun}"
    english = [
        f"{words[thing.number]} {what}",
        f"a picture of {'a' if thing.number == 1 else words[thing.number]} {what}",
        f"there {'is' if thing.number == 1 else 'are'} {words[thing.number]} {what} here",
        f"{what}, {words[thing.number]} of them" if thing.number > 1 else f"{what}, just one",
    ]
    singular, plural, ending = GERMAN_SHAPES[thing.shape]
    size, colour = GERMAN_SIZES[thing.size], GERMAN_COLOURS[thing.colour]
    if thing.number == 1:
        german = f"ein {size}{ending} {colour}{ending} {singular}"
    else:
        german = f"{({2: 'zwei', 3: 'drei'})[thing.number]} {size}e {colour}e {plural}"
    return {
        "en": english,
        "de": [german, f"hier {'ist' if thing.number == 1 else 'sind'} {german}"],
    }


def draw(thing: Thing, size: int, rng: np.random.Generator) -> Image.Image:
    """`thing` on a pale or dark background, at random places and angles that don't overlap."""
    scale = 4  # drawn larger and shrunk: smooth edges
    background = int(rng.choice([15, 235])) + int(rng.integers(-15, 16))
    canvas = Image.new("RGB", (size * scale, size * scale), (background,) * 3)
    pen = ImageDraw.Draw(canvas)
    cells = rng.permutation(4)[: thing.number]  # one quarter of the picture each
    jittered = [
        c + int(n) for c, n in zip(COLOURS[thing.colour], rng.integers(-12, 13, 3), strict=True)
    ]
    fill = tuple(min(255, max(0, c)) for c in jittered)
    cell = size * scale / 2
    radius = cell * (0.47 if thing.size == "large" else 0.3)
    for place in cells:
        room = cell / 2 - radius
        x = (place % 2 + 0.5) * cell + rng.uniform(-room, room)
        y = (place // 2 + 0.5) * cell + rng.uniform(-room, room)
        _shape(pen, thing.shape, float(x), float(y), radius, rng.uniform(-0.25, 0.25), fill)
        if thing.shape == "ring":
            r = radius * 0.5
            pen.ellipse((x - r, y - r, x + r, y + r), fill=(background,) * 3)
    return canvas.resize((size, size), Image.Resampling.BOX)


def _shape(
    pen: ImageDraw.ImageDraw,
    shape: str,
    x: float,
    y: float,
    radius: float,
    angle: float,
    fill: tuple[int, ...],
) -> None:
    if shape in ("circle", "ring"):
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)
        return
    corners: list[tuple[float, float]] = {  # (radius, angle in turns) of each corner
        "square": [(1.0, (2 * i + 1) / 8) for i in range(4)],
        "triangle": [(1.0, i / 3) for i in range(3)],
        "star": [(1.0 if i % 2 == 0 else 0.42, i / 10) for i in range(10)],
        "cross": [
            (1.0 if i % 3 else 0.42, (i // 3) / 4 + (-0.125, -0.05, 0.05)[i % 3]) for i in range(12)
        ],
    }[shape]
    pen.polygon(
        [
            (
                x + radius * r * math.sin(2 * math.pi * a + angle),
                y - radius * r * math.cos(2 * math.pi * a + angle),
            )
            for r, a in corners
        ],
        fill=fill,
    )


def play(thing: Thing, rate: int, seconds: float, rng: np.random.Generator) -> Wave:
    """`thing` as beeps: [rate · seconds] samples."""
    time = np.arange(round(rate * seconds)) / rate
    pitch = PITCHES[thing.colour] * 2 ** (rng.uniform(-0.2, 0.2) / 12)
    tone = np.zeros_like(time)
    for number, strength in enumerate(TIMBRES[thing.shape], 1):
        if number * pitch < 0.45 * rate:
            phase = rng.uniform(0, 2 * math.pi)
            tone += strength * np.sin(2 * math.pi * number * pitch * time + phase)
    slot = seconds / max(COUNTS)
    envelope = np.zeros_like(time)
    start = rng.uniform(0, 0.1) * slot + (max(COUNTS) - thing.number) * slot * rng.uniform(0, 1)
    for beep in range(thing.number):
        since = time - start - beep * slot
        length = slot * (0.8 if thing.size == "large" else 0.3)
        inside = (since >= 0) & (since < length)
        ramp = np.minimum(1, np.minimum(since, length - since) / 0.008)
        envelope[inside] = ramp[inside]
    wave = tone * envelope
    wave *= rng.uniform(0.4, 0.8) / np.abs(wave).max()
    wave += rng.normal(0, 0.005, len(time))
    return wave.astype(np.float32)
