"""Pictures: composed onto white, fitted, and blank ones found."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from mmfm_prep import pictures

WHITE = (255, 255, 255)


def encoded(picture: Image.Image, kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    picture.save(out, kind)
    return out.getvalue()


def test_hidden_colours_of_transparent_pixels_stay_hidden() -> None:
    # Fully transparent red, which convert("RGB") would show.
    square = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    square.paste((0, 0, 255, 255), (0, 0, 4, 8))
    out = np.asarray(pictures.on_white(square, 8))
    assert (out[:, :4] == (0, 0, 255)).all()
    assert (out[:, 4:] == WHITE).all()


def test_half_transparent_is_mixed_with_white() -> None:
    out = pictures.on_white(Image.new("RGBA", (4, 4), (0, 0, 0, 128)), 4)
    assert np.abs(np.asarray(out).astype(int) - 127).max() <= 1


def test_no_dark_edge_from_hidden_black_when_resized() -> None:
    ball = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    ball.paste((255, 255, 255, 255), (16, 16, 48, 48))
    assert np.asarray(pictures.on_white(ball, 20)).min() >= 254


@pytest.mark.parametrize("mode", ["P", "LA", "L", "1", "RGB", "CMYK", "I;16"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    picture = Image.new(mode, (5, 3))
    data = encoded(picture, "TIFF" if mode == "CMYK" else "PNG")
    assert pictures.on_white(pictures.decode(data), 16).mode == "RGB"


def test_a_palette_picture_keeps_its_transparency() -> None:
    picture = Image.new("P", (4, 4), 0)
    picture.putpalette([0, 0, 0, 255, 0, 0])
    out = io.BytesIO()
    picture.save(out, "PNG", transparency=0)
    assert (np.asarray(pictures.on_white(pictures.decode(out.getvalue()), 4)) == WHITE).all()


def test_proportions_are_kept_and_the_picture_centred() -> None:
    out = np.asarray(pictures.on_white(Image.new("RGB", (20, 10)), 40))
    black = np.argwhere((out == 0).all(-1))
    assert black.min(0).tolist() == [10, 0]
    assert black.max(0).tolist() == [29, 39]


def test_framed_is_what_is_seen_with_a_margin() -> None:
    canvas = Image.new("RGBA", (64, 48), (255, 0, 0, 0))  # hidden red
    canvas.paste((255, 255, 255, 255), (0, 0, 30, 30))  # white on white is not seen
    canvas.paste((0, 0, 255, 255), (40, 20, 60, 30))
    framed = pictures.framed(canvas, margin=0.1)
    assert framed.size == (24, 24)
    out = np.asarray(pictures.on_white(framed, 24))
    blue = np.argwhere((out == (0, 0, 255)).all(-1))
    assert blue.min(0).tolist() == [7, 2]
    assert blue.max(0).tolist() == [16, 21]
    assert (out == WHITE).all(-1).sum() == 24 * 24 - 200
    nothing = Image.new("RGBA", (5, 4), (0, 0, 0, 0))
    assert pictures.framed(nothing) is nothing


def test_framed_is_the_same_however_much_canvas_there_is() -> None:
    small, large = (Image.new("RGBA", (side, side), (0, 0, 0, 0)) for side in (40, 90))
    for canvas, left in ((small, 10), (large, 55)):
        canvas.paste((9, 9, 9, 255), (left, left, left + 20, left + 15))
    assert pictures.framed(small).tobytes() == pictures.framed(large).tobytes()


def test_svg_is_rendered_at_the_size_and_onto_white() -> None:
    pytest.importorskip("resvg_py")
    for box in ("0 0 10 10", "0 0 20 10", "0 0 10 20"):
        w, h = box.split()[2:]
        svg = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}">'
            f'<rect width="{w}" height="{h}" fill="#0f0"/></svg>'
        )
        out = np.asarray(pictures.on_white(pictures.render_svg(svg, 32), 32))
        green = np.argwhere((out == (0, 255, 0)).all(-1))
        sides = (green.max(0) - green.min(0) + 1).tolist()
        assert sides == {"10 10": [32, 32], "20 10": [16, 32], "10 20": [32, 16]}[f"{w} {h}"]


def test_svg_whose_size_is_in_points() -> None:
    pytest.importorskip("resvg_py")
    size = 'width="128pt" height="128pt"'
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" {size}><rect width="99"/></svg>'
    assert pictures.render_svg(svg, 24).size == (24, 24)


def test_what_is_no_picture_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="not a readable picture"):
        pictures.decode(b"nothing")
    whole = encoded(Image.effect_noise((64, 64), 50))
    with pytest.raises(ValueError, match="not a readable picture"):
        pictures.decode(whole[: len(whole) // 2])
    pytest.importorskip("resvg_py")
    with pytest.raises(ValueError, match=r"\w"):
        pictures.render_svg("<svg", 32)


def test_too_many_pixels_are_refused_before_they_are_decoded() -> None:
    with pytest.raises(ValueError, match="too many"):
        pictures.decode(encoded(Image.new("1", (8001, 8001))))


def test_blank() -> None:
    assert pictures.is_blank(Image.new("RGB", (8, 8), WHITE))
    almost = Image.new("RGB", (8, 8), WHITE)
    almost.putpixel((3, 3), (255, 255, 240))
    assert not pictures.is_blank(almost)
    white_glyph = Image.new("RGBA", (8, 8), (255, 255, 255, 0))
    white_glyph.paste((255, 255, 255, 255), (2, 2, 6, 6))
    assert pictures.is_blank(pictures.on_white(white_glyph, 8))
