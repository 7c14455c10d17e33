"""Images for timing: 8-bit PNGs of 1024 x 1024 pixels as NIH's, with the noise that makes them as slow to decode."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image

from featurestore.images.phantoms import generate_patient

SIDE = 1024
_PATTERNS = 4


def write_radiographs(folder: Path, count: int) -> list[Path]:
    """Write ``count`` different PNGs and a ``table.csv`` that names them: a few phantoms, noise of its own in each."""
    folder.mkdir(parents=True, exist_ok=True)
    patterns = [_pattern(index) for index in range(min(_PATTERNS, count))]
    paths = [folder / f"image{k:04d}.png" for k in range(count)]
    for k, path in enumerate(paths):
        noise = np.random.default_rng(k).integers(-3, 4, (SIDE, SIDE), dtype=np.int16)
        pixels = np.clip(patterns[k % len(patterns)] + noise, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(path)
    with (folder / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path"], *([path.name] for path in paths)])
    return paths


def _pattern(index: int) -> np.ndarray:
    film = generate_patient(seed=0, hospital="a", index=index, size=SIDE // 2)[0].pixels.astype(np.float32)
    low, high = np.percentile(film, (0.5, 99.5))
    shown = np.clip((film - low) / (high - low), 0, 1) * 255
    return np.asarray(Image.fromarray(shown).resize((SIDE, SIDE), Image.Resampling.BILINEAR)).astype(np.int16)
