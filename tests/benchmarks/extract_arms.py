"""The four ways of getting seven embeddings of an image that `make bench-extract` compares."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from featurestore.backbones.catalogue import CATALOGUE, IMAGENET_MEAN, IMAGENET_STD, BackboneSpec
from featurestore.backbones.network import Network, load_network
from featurestore.backbones.runtimes import Choice
from featurestore.backbones.runtimes.base import Runtime, Setting, Unavailable
from featurestore.backbones.runtimes.build import build_runtime, trial_images
from featurestore.backbones.weights import WeightsRequest
from featurestore.cachefolder import cache_folder
from featurestore.extraction.decode_pool import DecodedShard
from featurestore.extraction.plan import Plan, PlannedSpec, make_plan
from featurestore.extraction.worker import Extractor
from featurestore.extraction.worker_config import WorkerConfig
from featurestore.store import Store
from featurestore.store.commit import Committer
from featurestore.store.schema import TABLES
from jobs.runners.outcome import Finished
from jobs.specs import ResolvedSpec
from jobs.workers import Workers

SIZE = 224
THREADS = 2
SEED = WeightsRequest("random", seed=0)
CPU = torch.device("cpu")


def seconds_of(action: Callable[[], object]) -> float:
    """Return the seconds something takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


@contextmanager
def torch_threads(count: int) -> Any:
    """Use so many threads in the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# --- (a) the ceiling ---------------------------------------------------------------------------------------------


@dataclass
class Ceiling:
    """The networks alone, on images that lie in memory, each in the fastest runtime and batch found for it.

    Parameters
    ----------
    images : int
    batches : sequence of int
    compiled : sequence of str
        Networks that PyTorch's compiler is tried on; it takes a minute or two for each.
    """

    images: int
    batches: Sequence[int]
    compiled: Sequence[str]
    best: dict[str, tuple[Runtime, int, float]] = field(default_factory=dict)
    tried: list[dict[str, Any]] = field(default_factory=list)

    def probe(self, names: Sequence[str]) -> None:
        """Try every runtime and batch size on some 20 images of each network."""
        for name in names:
            network = load_network(CATALOGUE[name], SEED).network.to(memory_format=torch.channels_last)
            for kind, batch in self._candidates(name):
                self._try(name, network, kind, batch)

    def try_also(self, name: str, kind: str) -> None:
        """Try one more runtime for a network, at the batch that the product uses."""
        self._try(name, load_network(CATALOGUE[name], SEED).network.to(memory_format=torch.channels_last), kind, 16)

    def _candidates(self, name: str) -> list[tuple[str, int]]:
        fixed = [16] if name in self.compiled else []
        return [(kind, b) for kind in ("eager", "openvino") for b in self.batches] + [("compiled", b) for b in fixed]

    def _try(self, name: str, network: Network, kind: str, batch: int) -> None:
        cache = cache_folder("benchmark") / name
        cache.mkdir(exist_ok=True)
        start = time.perf_counter()
        try:
            runtime = build_runtime(kind, network, CPU, Setting(SIZE, batch, THREADS, cache))
        except Unavailable as reason:
            self.tried.append({"backbone": name, "runtime": kind, "batch": batch, "unavailable": str(reason)})
            return
        built = time.perf_counter() - start
        grey = trial_images(batch, SIZE)
        runtime(grey)
        rounds = max(3, round(20 / batch))
        rate = batch / min(seconds_of(lambda: runtime(grey)) for _ in range(rounds))
        self.tried.append(
            {"backbone": name, "runtime": kind, "batch": batch, "images_per_second": rate, "build_seconds": built}
        )
        if name not in self.best or rate > self.best[name][2]:
            self.best[name] = (runtime, batch, rate)

    def run(self) -> float:
        """Return images per second through all networks."""
        stock = {batch: trial_images(batch, SIZE) for _, batch, _ in self.best.values()}
        return self.images / sum(self._seconds(runtime, stock[batch]) for runtime, batch, _ in self.best.values())

    def _seconds(self, runtime: Runtime, grey: np.ndarray) -> float:
        whole = max(1, self.images // len(grey))
        spent = seconds_of(lambda: [runtime(grey) for _ in range(whole)])
        # A last batch that is not full costs its share: the ceiling knows no leftovers.
        return spent * self.images / (whole * len(grey))


# --- (b) by hand -------------------------------------------------------------------------------------------------


class Files(Dataset[torch.Tensor]):
    """What a tutorial would write: open, resize, normalise, three channels."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        image = Image.open(self._paths[index]).convert("L").resize((SIZE, SIZE), Image.Resampling.BILINEAR)
        return to_tensor(np.asarray(image))


class Pixels(Dataset[torch.Tensor]):
    """The same from pixels that were decoded before."""

    def __init__(self, grey: np.ndarray) -> None:
        self._grey = grey

    def __len__(self) -> int:
        return len(self._grey)

    def __getitem__(self, index: int) -> torch.Tensor:
        return to_tensor(self._grey[index])


def to_tensor(grey: np.ndarray) -> torch.Tensor:
    """Return ``(3, h, w)`` float32, normalised, of uint8 ``(h, w)``."""
    image = torch.from_numpy(np.repeat(grey[None].astype(np.float32) / 255, 3, axis=0))
    return (image - torch.tensor(IMAGENET_MEAN)[:, None, None]) / torch.tensor(IMAGENET_STD)[:, None, None]


@dataclass
class ByHand:
    """One network after the other: timm in eager float32, a DataLoader, mean over positions, one .npy each.

    Parameters
    ----------
    folder : pathlib.Path
        For the results.
    """

    folder: Path
    workers: int = 0
    threads: int = THREADS
    batch: int = 16

    def __post_init__(self) -> None:
        self._models = {name: _timm_model(spec) for name, spec in CATALOGUE.items()}

    def seconds(self, dataset: Files | Pixels, limit: float = float("inf")) -> float:
        """Return the seconds for all networks, or infinity once ``limit`` is passed."""
        spent = 0.0
        with torch_threads(self.threads):
            for name in self._models:
                spent += seconds_of(partial(self._one, name, dataset))
                if spent > limit:
                    return float("inf")
        return spent

    def _one(self, name: str, dataset: Files | Pixels) -> None:
        loader = DataLoader(dataset, batch_size=self.batch, num_workers=self.workers)
        with torch.no_grad():
            vectors = [self._models[name].forward_features(batch).mean((2, 3)) for batch in loader]
        np.save(self.folder / f"{name}.npy", torch.cat(vectors).numpy())

    def probe(self, dataset: Files | Pixels) -> dict[str, float | None]:
        """Choose workers and threads by a short run; return images per second, None for one that was given up."""
        rates: dict[str, float | None] = {}
        best = float("inf")
        for workers, threads in ((0, 2), (1, 2), (2, 2), (1, 1), (2, 1), (0, 1)):
            arm = replace(self, workers=workers, threads=threads)
            spent = arm.seconds(dataset, limit=best)
            rates[f"{workers} workers, {threads} threads"] = None if math.isinf(spent) else len(dataset) / spent
            if spent < best:
                best, self.workers, self.threads = spent, workers, threads
        return rates


def _timm_model(spec: BackboneSpec) -> torch.nn.Module:
    return timm.create_model(spec.timm_name, pretrained=False, num_classes=0).eval().requires_grad_(False)


# --- (c) Ray Data ------------------------------------------------------------------------------------------------


class RayDataModel:
    """The callable class of Ray Data's batch-inference guide, for one network."""

    def __init__(self, timm_name: str, threads: int, clock: str) -> None:
        torch.set_num_threads(threads)
        self._clock = Path(clock)
        self._model = timm.create_model(timm_name, pretrained=False, num_classes=0).eval()

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        if not self._clock.exists():
            self._clock.write_text(str(time.time()))
        grey = torch.from_numpy(batch["image"].astype(np.float32) / 255)
        rgb = grey.unsqueeze(1).repeat(1, 3, 1, 1)
        mean, std = torch.tensor(IMAGENET_MEAN)[:, None, None], torch.tensor(IMAGENET_STD)[:, None, None]
        with torch.inference_mode():
            vectors = self._model.forward_features((rgb - mean) / std).mean((2, 3))
        return {"path": batch["path"], "embedding": vectors.numpy()}


def shrink(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row with its image at the networks' size."""
    image = Image.fromarray(row["image"]).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    return {"path": row["path"], "image": np.asarray(image)}


@dataclass
class RayData:
    """``read_images -> map -> map_batches -> write_parquet``, one network per pass, as its documentation shows it.

    The time counts from a network's first batch: starting actors and loading is left out, reading before it as well.

    Parameters
    ----------
    paths : list of str
    folder : pathlib.Path
    batch : int
    """

    paths: list[str]
    folder: Path
    batch: int = 16

    def seconds(self, names: Sequence[str] = tuple(CATALOGUE)) -> float:
        """Return the seconds for all networks."""
        return sum(self._one(name) for name in names)

    def _one(self, name: str) -> float:
        import ray

        out = self.folder / "ray_data"
        shutil.rmtree(out, ignore_errors=True)
        clock = self.folder / "first_batch"
        clock.unlink(missing_ok=True)
        images = ray.data.read_images(self.paths, mode="L", include_paths=True)
        images.map(shrink).map_batches(
            RayDataModel,
            fn_constructor_args=(CATALOGUE[name].timm_name, THREADS, str(clock)),
            batch_size=self.batch,
            concurrency=1,
            num_cpus=1,
        ).write_parquet(str(out))
        return time.time() - float(clock.read_text())

    def probe(self, count: int) -> dict[str, float]:
        """Choose the batch size by a short run of the smallest network."""
        rates: dict[str, float] = {}
        for batch in (8, 16, 32):
            arm = replace(self, paths=self.paths[:count], batch=batch)
            rates[f"batch {batch}"] = count / arm.seconds(["densenet121"])
        self.batch = int(max(rates, key=lambda words: rates[words]).split()[1])
        return rates


# --- (d) ours ----------------------------------------------------------------------------------------------------


@dataclass
class Ours:
    """What `cxr extract` does: plan, Ray actor, decode once, all networks, stage, commit.

    The time counts from the first shard's start to the last commit: starting the actor and loading is left out.

    Parameters
    ----------
    store : Store
        With the images ingested.
    dataset : str
    specs : list of ResolvedSpec
    choices : sequence of Choice
        Runtimes.
    """

    store: Store
    dataset: str
    specs: list[ResolvedSpec]
    choices: Sequence[Choice]

    def seconds(self, workers: Workers) -> float:
        """Return the seconds for all images, into empty tables of vectors."""
        self.empty()
        todo = self.plan()
        committer = Committer(self.store.location, TABLES["embeddings"], todo.known_files)
        start = 0.0
        for outcome in workers.run(self.config(), todo, deadline=1800):
            assert isinstance(outcome, Finished), outcome
            start = start or time.perf_counter() - outcome.result.seconds
            committer.commit(outcome.result.embeddings)
        spent = time.perf_counter() - start
        left = self.plan().pending_pairs
        assert not left, f"{left} pairs are still pending"
        return spent

    def load(self) -> float:
        """Build a worker in this process; return the seconds it took."""
        start = time.perf_counter()
        self._extractor = Extractor(self.config())
        return time.perf_counter() - start

    def seconds_on(self, pixels: np.ndarray) -> float:
        """Return the seconds for images that were decoded before, ``(n, size, size)`` uint8, in this process."""
        self.empty()
        shard = next(self.plan(len(pixels)).shards())
        decoded = DecodedShard(shard.items, pixels, (), 0.0)
        committer = Committer(self.store.location, TABLES["embeddings"], ())
        return seconds_of(lambda: committer.commit(self._extractor.run(shard, decoded).embeddings))

    def empty(self) -> None:
        """Forget all vectors."""
        shutil.rmtree(Path(self.store.uri) / "embeddings", ignore_errors=True)

    def config(self) -> WorkerConfig:
        """Return how to build its worker."""
        backbones = tuple((s.backbone, s.request, s.spec.weights_sha256, s.spec.spec_id) for s in self.specs)
        runtimes = tuple((choice.spec_id, choice.kind) for choice in self.choices)
        return WorkerConfig(
            self.store.uri, "bench", backbones, "bilinear-v1", SIZE, runtimes=runtimes, threads=THREADS,
            decode_threads=THREADS,
        )  # fmt: skip

    def plan(self, shard_images: int = 64) -> Plan:
        """Return what is pending."""
        planned = [PlannedSpec(s.backbone.name, s.spec.spec_id, s.backbone.n_features) for s in self.specs]
        return make_plan(self.store, self.dataset, planned, shard_images=shard_images)
