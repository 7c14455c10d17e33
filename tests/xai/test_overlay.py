"""The overlay: colours where the map is signed, grey where it is zero, the outline, and equal bytes."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from featurestore.errors import UsageError
from xai.overlay import render

GREY = np.full((64, 80), 120, dtype=np.uint8)
LEFT_UP_RIGHT_DOWN = np.array([[1.0, 0.0, -1.0]])
BOX = np.zeros(GREY.shape, dtype=bool)
BOX[20:40, 30:50] = True


def picture(png: bytes) -> np.ndarray:
    """Return the PNG as signed RGB, the colour bar on the right cut off."""
    with Image.open(io.BytesIO(png)) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"), dtype=np.int16)[:, :380]


def columns(where: np.ndarray) -> np.ndarray:
    return np.nonzero(where)[1]


def test_what_raises_is_red_and_what_lowers_is_blue_each_in_its_place() -> None:
    red, _, blue = np.moveaxis(picture(render(GREY, LEFT_UP_RIGHT_DOWN, None, "signed")), 2, 0)
    raised, lowered = columns(red - blue > 60), columns(blue - red > 60)
    assert len(raised) > 1000
    assert len(lowered) > 1000
    assert raised.max() < 190 < lowered.min()


def test_the_middle_where_the_map_is_zero_keeps_the_radiographs_grey() -> None:
    shown = picture(render(GREY, LEFT_UP_RIGHT_DOWN, None, "signed"))
    middle = shown[shown.shape[0] // 2, 185:200]
    assert (np.ptp(middle, axis=1) < 12).all()
    assert (np.abs(middle - 120).max(axis=1) < 12).all()


def yellow(shown: np.ndarray) -> np.ndarray:
    red, green, blue = np.moveaxis(shown, 2, 0)
    return (red > 200) & (green > 170) & (blue < 120)


def test_the_roi_is_outlined_and_only_outlined() -> None:
    with_roi, without = (yellow(picture(render(GREY, LEFT_UP_RIGHT_DOWN, mask, "roi"))) for mask in (BOX, None))
    assert not without.any()
    rows, found = np.nonzero(with_roi)
    assert with_roi.any()
    inside = with_roi[rows.min() + 6 : rows.max() - 5, found.min() + 6 : found.max() - 5]
    assert not inside.any()
    assert (found.max() - found.min()) / (rows.max() - rows.min()) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("mask", [np.ones(GREY.shape, dtype=bool), np.eye(64, 80, dtype=bool)])
def test_an_roi_that_touches_the_edge_is_outlined_without_a_warning(mask: np.ndarray) -> None:
    assert yellow(picture(render(GREY, LEFT_UP_RIGHT_DOWN, mask, "edge"))).any()


def test_an_empty_roi_draws_no_outline() -> None:
    assert not yellow(picture(render(GREY, LEFT_UP_RIGHT_DOWN, np.zeros_like(BOX), "none"))).any()


def caption_lines(shown: np.ndarray) -> int:
    """Count the bands of dark rows above the radiograph, which is grey 120."""
    dark = (shown < 100).all(axis=2).any(axis=1)
    return int((np.diff(dark.astype(int)) == 1).sum())


def test_a_map_that_is_zero_everywhere_colours_nothing_and_says_so_under_the_caption() -> None:
    shown = picture(render(GREY, np.zeros((2, 2)), None, "dead"))
    assert not np.ptp(shown, axis=2).any()
    assert caption_lines(shown) == 2
    assert caption_lines(picture(render(GREY, LEFT_UP_RIGHT_DOWN * 1e-9, None, "dead"))) == 1


def test_equal_arguments_give_equal_bytes_and_the_caption_is_taken_literally() -> None:
    caption = "a caption with $\\frac{$ in it, which is no formula, and " + "many words " * 12
    first = render(GREY, LEFT_UP_RIGHT_DOWN, BOX, caption, "probability")
    assert first == render(GREY, LEFT_UP_RIGHT_DOWN, BOX, caption, "probability")
    assert first != render(GREY, LEFT_UP_RIGHT_DOWN, BOX, "other", "probability")
    assert b"matplotlib" not in first.lower()


def test_no_figure_is_left_behind() -> None:
    from matplotlib import pyplot

    render(GREY, LEFT_UP_RIGHT_DOWN, BOX, "none left")
    assert pyplot.get_fignums() == []


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: render(GREY / 255, LEFT_UP_RIGHT_DOWN, None, ""), r"radiograph is float64 \(64, 80\); expected uint8"),
        (lambda: render(np.stack([GREY] * 3, 2), LEFT_UP_RIGHT_DOWN, None, ""), r"uint8 \(64, 80, 3\)"),
        (lambda: render(GREY, LEFT_UP_RIGHT_DOWN, BOX[:9], ""), r"shape \(9, 80\); expected bool \(64, 80\)"),
        (lambda: render(GREY, LEFT_UP_RIGHT_DOWN, BOX * 1, ""), "region of interest is int64"),
        (lambda: render(GREY, LEFT_UP_RIGHT_DOWN * np.nan, None, ""), "NaN or infinite"),
        (lambda: render(GREY, LEFT_UP_RIGHT_DOWN[0], None, ""), r"saliency map has shape \(3,\)"),
    ],
)
def test_bad_arguments_are_named(call: Callable[[], bytes], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        call()
