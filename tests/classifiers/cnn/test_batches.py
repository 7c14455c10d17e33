"""Order of images, shifts, and reading ahead."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from classifiers.cnn.augment import draw_shifts, shift
from classifiers.cnn.batches import ahead, deal, draws


@given(st.integers(1, 200), st.integers(2, 70), st.integers(1, 4), st.integers(0, 3))
def test_every_image_once_in_batches_that_no_worker_goes_short_of(n: int, batch: int, world: int, epoch: int) -> None:
    rows = np.arange(n) * 3
    batches = deal(rows, batch, world, draws(0, epoch, 0))
    assert sorted(np.concatenate(batches).tolist()) == rows.tolist()
    sizes = [len(b) for b in batches]
    assert max(sizes) - min(sizes) <= 1
    if n >= 2 * world:
        assert min(sizes) >= 2 * world
    if batch >= 4 * world:
        assert max(sizes) <= batch


def test_the_order_is_the_epochs_own() -> None:
    first, again, second = (np.concatenate(deal(np.arange(50), 8, 1, draws(7, epoch, 0))) for epoch in (0, 0, 1))
    assert first.tolist() == again.tolist() != second.tolist()


def test_reading_ahead_keeps_order_and_errors() -> None:
    assert list(ahead(range(5), lambda k: k * k)) == [0, 1, 4, 9, 16]
    assert list(ahead([], abs)) == []
    with pytest.raises(ZeroDivisionError):
        list(ahead([1, 0, 1], lambda k: 1 / k))


def test_a_shift_moves_pixels_and_repeats_the_edge() -> None:
    grey = np.arange(16, dtype=np.uint8).reshape(1, 4, 4)
    moved = shift(grey, np.array([[1, -2]]))
    assert moved[0].tolist() == [[2, 3, 3, 3], [2, 3, 3, 3], [6, 7, 7, 7], [10, 11, 11, 11]]
    assert shift(grey, np.zeros((1, 2), np.int64)) is grey


def test_shifts_are_off_unless_named() -> None:
    assert not draw_shifts("none", 100, 96, draws(0, 0, 2)).any()
    drawn = draw_shifts("shift-v1", 1000, 96, draws(0, 0, 2))
    assert (drawn.min(), drawn.max()) == (-6, 6)
