"""Pictures in and out of bytes: decode, render SVG, compose onto white, frame, fit a square, encode
as PNG.

Transparent pictures are composed onto white: converting them to RGB would show the colours that
transparency hides.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from mmfm_prep.errors import PrepError

FORMATS = (
    *("AVIF", "BMP", "GIF", "ICO", "JPEG", "JPEG2000", "PNG", "PPM", "TGA", "TIFF", "WEBP", "XPM"),
)
"""What is opened: of what Pillow knows, EPS would be run by another program."""
MAX_PIXELS = 64_000_000
WHITE = (255, 255, 255, 255)


def decode(data: bytes) -> Image.Image:
    """The picture in `data`, as RGBA. ValueError where there is none, or it is larger than 64
    million pixels.
    """
    try:
        picture = Image.open(io.BytesIO(data), formats=FORMATS)
        if picture.width * picture.height > MAX_PIXELS:
            raise ValueError(f"{picture.width} x {picture.height} pixels are too many")
        return picture.convert("RGBA")
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(f"not a readable picture: {error}") from None


def render_svg(svg: str, size: int) -> Image.Image:
    """The drawing, as RGBA, its longer side `size` pixels. ValueError where it is no drawing."""
    try:
        import resvg_py
    except ModuleNotFoundError:
        raise PrepError("drawing SVG needs resvg-py: pip install 'mmfm[quickstart]'") from None
    # System fonts would make the pictures depend on the machine; sizes in pt or cm need a dpi.
    options: dict[str, Any] = {"svg_string": svg, "skip_system_fonts": True, "dpi": 96}
    picture = decode(bytes(resvg_py.svg_to_bytes(width=size, **options)))
    if picture.height > size:
        picture = decode(bytes(resvg_py.svg_to_bytes(height=size, **options)))
    return picture


def is_blank(picture: Image.Image, tolerance: int = 8) -> bool:
    """Whether nothing is seen of an RGB `picture`: all of it within `tolerance` of one colour."""
    assert picture.mode == "RGB"
    pixels = np.asarray(picture).reshape(-1, 3)
    return bool((np.ptp(pixels, axis=0) <= tolerance).all())


def framed(picture: Image.Image, margin: float = 0.1, tolerance: int = 8) -> Image.Image:
    """What is seen of an RGBA `picture` on white, centred in a transparent square with `margin`
    (relative to the longer side) around it; a blank picture as it is.

    Art styles differ in how much of their canvas they use, which says nothing about what they show.
    """
    assert picture.mode == "RGBA"
    white = Image.new("RGBA", picture.size, WHITE)
    seen = np.asarray(Image.alpha_composite(white, picture))[..., :3].min(axis=2) < 255 - tolerance
    rows, columns = seen.any(axis=1).nonzero()[0], seen.any(axis=0).nonzero()[0]
    if not len(rows):
        return picture
    part = picture.crop((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
    side = round(max(part.size) * (1 + 2 * margin))
    square = Image.new("RGBA", (side, side), (255, 255, 255, 0))
    square.paste(part, ((side - part.width) // 2, (side - part.height) // 2))
    return square


def on_white(picture: Image.Image, size: int) -> Image.Image:
    """`picture` on a white square of `size` pixels: shrunk or enlarged to fit, centred, RGB."""
    if picture.mode != "RGBA":
        picture = picture.convert("RGBA")
    scale = size / max(picture.size)
    width, height = (max(1, round(side * scale)) for side in picture.size)
    fitted = (width, height)
    if fitted != picture.size:
        # Premultiplied, so that hidden colours of transparent pixels don't bleed into the edges.
        picture = picture.convert("RGBa").resize(fitted, Image.Resampling.LANCZOS).convert("RGBA")
    canvas = Image.new("RGBA", (size, size), WHITE)
    corner = ((size - picture.width) // 2, (size - picture.height) // 2)
    canvas.alpha_composite(picture, corner)
    return canvas.convert("RGB")


def png(picture: Image.Image) -> bytes:
    """`picture` as PNG."""
    out = io.BytesIO()
    picture.save(out, format="PNG", compress_level=6)
    return out.getvalue()
