"""Decoding once, or each time; nothing stays behind."""

from __future__ import annotations

import stat
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from classifiers.cnn import image_cache
from classifiers.cnn.image_cache import CachedImages, DecodedImages, Reader, open_images
from classifiers.cnn.place import Place
from classifiers.cnn.training_set import ImageFile
from featurestore.images.decode import read_image


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Reader:
    """Return a reader of six images, of which the third is gone and the fifth was changed."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    files = []
    for k in range(6):
        path = tmp_path / f"{k}.png"
        Image.fromarray(np.full((40, 40), 30 * k, np.uint8)).save(path)
        files.append(ImageFile(f"i{k}", str(path), read_image(str(path)).file_hash))
    (tmp_path / "2.png").unlink()
    Image.fromarray(np.zeros((40, 40), np.uint8)).save(tmp_path / "4.png")
    return Reader(files, "bilinear-v1", 32, 2)


ROWS = np.array([5, 2, 0, 4, 1])


def _check(images: CachedImages | DecodedImages) -> None:
    squares, good = images.take(ROWS)
    assert good.tolist() == [True, False, True, False, True]
    assert squares.shape == (3, 32, 32)
    assert [int(square.mean()) for square in squares] == [150, 0, 30]
    assert {row: (u.stage, u.retryable) for row, u in images.unusable.items()} == {
        2: ("path", True), 4: ("changed", True),
    }  # fmt: skip


def test_a_cache_holds_every_square_and_leaves_no_file(reader: Reader, tmp_path: Path) -> None:
    images = open_images(reader, Place(), "run")
    assert isinstance(images, CachedImages)
    assert images.bytes == 6 * 32 * 32
    _check(images)
    assert list((tmp_path / "tmp").iterdir()) == []


def test_beyond_the_limit_each_is_decoded_when_asked_for(reader: Reader, tmp_path: Path) -> None:
    images = open_images(reader, Place(), "run", limit=6 * 32 * 32 - 1)
    assert isinstance(images, DecodedImages)
    assert images.bytes == 0
    _check(images)
    assert images.take(np.array([2]))[0].shape == (0, 32, 32)


def test_only_the_owner_may_look(reader: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}
    real = np.load

    def look(path: Path, **how: object) -> object:
        seen.update({p.name: stat.S_IMODE(p.stat().st_mode) for p in (path, path.parent)})
        return real(path, **how)

    monkeypatch.setattr(image_cache.np, "load", look)
    open_images(reader, Place(), "run")
    assert seen == {"grey.npy": 0o600, "cxrstore-training-run": 0o700}


def test_a_killed_attempts_leftovers_are_replaced(reader: Reader, tmp_path: Path) -> None:
    left = tmp_path / "tmp" / "cxrstore-training-run"
    left.mkdir()
    (left / "grey.npy").write_bytes(b"half")
    _check(open_images(reader, Place(), "run"))
