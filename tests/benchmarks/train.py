"""`make bench-train`: our training loop beside a plain PyTorch loop, same model, batch, precision, threads, optimiser.

The plain loop has everything in memory before it starts: normalised float32 images in batches, targets without a mask.
Ours reads the uint8 cache, draws the order, masks the loss and looks at it. Both train one epoch a round, in turns.
Prints a table, writes build/bench/train.json.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

# As in `cxr` itself, for both arms: threads that wait must not spin on one of two cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from torch import Tensor

from classifiers.cnn.image_cache import Reader, open_images
from classifiers.cnn.layers import train_mode
from classifiers.cnn.loop import Trainer
from classifiers.cnn.memory import Peak
from classifiers.cnn.place import Place
from classifiers.cnn.recipe import Recipe, get_preset
from classifiers.cnn.session import add_head
from classifiers.cnn.training_set import ImageFile, TrainingSet
from featurestore.backbones.catalogue import parse_backbones
from featurestore.backbones.network import Network, load_network
from featurestore.backbones.weights import WeightsRequest
from featurestore.images.decode import read_image
from tests.benchmarks.interleaved import Timed, interleave
from tests.benchmarks.radiographs import write_radiographs
from tests.benchmarks.table import print_table, write_json

LABELS = tuple(f"label{k}" for k in range(14))
TARGET = 0.95


def main() -> int:
    """Measure, print, write."""
    options = _options()
    place = Place.alone()
    torch.set_num_threads(place.threads)
    with tempfile.TemporaryDirectory(prefix="cxr-bench-") as scratch:
        data = _data(write_radiographs(Path(scratch), options.images))
        found = {spec.name: _measure(spec.name, data, options, place) for spec in parse_backbones(options.backbones)}
    print_table(
        f"{options.images} images at {options.size} px, batch {options.batch}, {place.threads} threads, "
        f"{place.device.type}, median of {options.rounds} rounds",
        [row for rows, _ in found.values() for row in rows],
    )
    by_backbone = {name: figures for name, (_, figures) in found.items()}
    worst = min(figures["throughput_over_plain"] for figures in by_backbone.values())
    reached = "reached" if worst >= TARGET else "missed"
    print(f"\nthroughput_over_plain: {worst:.3f}, the lowest of them (target {TARGET}: {reached})")
    flat = {f"{name}_{key}": value for name, figures in by_backbone.items() for key, value in figures.items()}
    write_json("train", {"throughput_over_plain": worst, "rounds": options.rounds, "device": place.device.type, **flat})
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--backbones", default="densenet121,xception,vgg16", help="one of each kind by default")
    return parser.parse_args()


def _data(paths: list[Path]) -> TrainingSet:
    files = [ImageFile(path.name, str(path), read_image(str(path)).file_hash) for path in paths]
    n, names = len(files), [file.image_id for file in files]
    codes = np.random.default_rng(0).integers(0, 2, (n, len(LABELS))).astype(np.int8)
    rows = np.arange(n)
    return TrainingSet("bench", "all", LABELS, files, names, names, codes, rows, rows[:0], "")


def _network(name: str) -> Network:
    (spec,) = parse_backbones(name)
    network = load_network(spec, WeightsRequest("random")).network
    add_head(network, LABELS, 0, "the benchmark")
    return network


def _measure(
    name: str, data: TrainingSet, options: argparse.Namespace, place: Place
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    recipe = Recipe(
        "bench", "random:0", options.size, options.batch, 1, get_preset("paper").rate, get_preset("paper").rate
    )
    peak = Peak(place.device)
    timed = interleave(
        {"plain": _plain(name, data, recipe, place), "ours": _ours(name, data, recipe, place)}, options.rounds
    )
    n = len(data.files)
    rows = [{"backbone": name, **row, "images/s": n / timed.median(row["arm"])} for row in timed.rows("plain")]
    return rows, _figures(timed, n) | {f"peak_{key}_mib": value for key, value in peak.mib().items()}


def _figures(timed: Timed, images: int) -> dict[str, float]:
    return {
        "plain_img_s": images / timed.median("plain"),
        "ours_img_s": images / timed.median("ours"),
        "throughput_over_plain": timed.ratio("plain", "ours"),
    }


def _ours(name: str, data: TrainingSet, recipe: Recipe, place: Place) -> Callable[[], object]:
    images = open_images(Reader(data.files, recipe.preprocess, recipe.size, place.threads), place, f"bench-{name}")
    trainer = Trainer(_network(name), data, images, recipe, place)
    (phase,) = recipe.phases(name)
    trainer.begin(phase)
    return lambda: trainer.train_epoch(phase, 0, 0)


def _plain(name: str, data: TrainingSet, recipe: Recipe, place: Place) -> Callable[[], object]:
    network = _network(name).requires_grad_(True).to(place.device).to(memory_format=torch.channels_last)
    train_mode(network)
    adam = torch.optim.Adam(network.parameters(), lr=recipe.rate.start, fused=True)
    batches = _preloaded(network, data, recipe, place)

    def epoch() -> None:
        for x, y in batches:
            adam.zero_grad(set_to_none=True)
            with torch.autocast(place.device.type, torch.bfloat16, enabled=place.mixed_precision):
                maps = network.features.forward_features(x)  # type: ignore[operator]
            logits = network.head(maps.float().mean((2, 3)))  # type: ignore[misc]
            torch.nn.functional.binary_cross_entropy_with_logits(logits, y).backward()
            adam.step()
        if place.device.type == "cuda":
            torch.cuda.synchronize()

    return epoch


def _preloaded(network: Network, data: TrainingSet, recipe: Recipe, place: Place) -> list[tuple[Tensor, Tensor]]:
    reader = Reader(data.files, recipe.preprocess, recipe.size, place.threads)
    grey = torch.from_numpy(np.stack([square for _, square in reader.read(range(len(data.files)))])).to(place.device)
    targets = torch.from_numpy(data.codes.astype(np.float32)).to(place.device)
    starts = range(0, len(grey), recipe.batch)
    return [(network.normalise(grey[i : i + recipe.batch]), targets[i : i + recipe.batch]) for i in starts]


if __name__ == "__main__":
    raise SystemExit(main())
