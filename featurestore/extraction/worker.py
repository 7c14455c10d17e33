"""The loop inside a worker: read, decode once, run every network, write. Built in the worker, never sent to it."""

from __future__ import annotations

import os
import socket
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from time import perf_counter

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from featurestore.backbones.catalogue import BackboneSpec
from featurestore.backbones.network import Network, load_network, run_batch
from featurestore.backbones.weights import WeightsRequest
from featurestore.errors import HarmError, ImageRejected
from featurestore.extraction.plan import Shard, WorkItem
from featurestore.extraction.result import RejectedPair, ShardResult, Timing
from featurestore.extraction.worker_config import WorkerConfig
from featurestore.images.decode import read_image
from featurestore.images.preprocess import get_preprocess
from featurestore.store import Store
from featurestore.store.files import StagedFile, conform, stage
from featurestore.store.schema import TABLES

_DECODE_NICENESS = 10
_BATCHES_AHEAD = 3
Decoded = tuple[WorkItem, NDArray[np.uint8]]


@dataclass
class _Output:
    """What one spec has produced of a shard."""

    ids: list[str] = field(default_factory=list)
    embeddings: list[NDArray[np.float32]] = field(default_factory=list)
    probabilities: list[NDArray[np.float32]] = field(default_factory=list)


class Extractor:
    """Holds the requested networks on one device and runs shards through them.

    Parameters
    ----------
    config : WorkerConfig

    Raises
    ------
    HarmError
        If weights changed since the plan was made.
    """

    def __init__(self, config: WorkerConfig) -> None:
        self._config = config
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        # A Ray actor with 0 or 1 CPU would get a single thread; a GPU's default of TF32 is not float32.
        torch.set_num_threads(config.threads)
        torch.backends.cudnn.allow_tf32 = False
        self._store = Store(config.store_uri)
        self._preprocess = get_preprocess(config.preprocess)
        self._pool = ThreadPoolExecutor(config.decode_threads, "decode", initializer=_be_nice)
        start = perf_counter()
        self._networks = {
            spec_id: self._load(backbone, request, sha256) for backbone, request, sha256, spec_id in config.backbones
        }
        self._load_seconds = perf_counter() - start

    def _load(self, backbone: BackboneSpec, request: WeightsRequest, expected: str) -> Network:
        loaded = load_network(backbone, request)
        if loaded.sha256 != expected:
            message = (
                f"weights of {backbone.name} changed while the job started ({expected[:12]} became "
                f"{loaded.sha256[:12]}); start it again once they are settled"
            )
            raise HarmError(message)
        return loaded.network.to(self._device).to(memory_format=torch.channels_last)

    @property
    def runtime(self) -> str:
        """Return what computed the vectors: provenance, not part of the key."""
        name = torch.cuda.get_device_name() if self._device.type == "cuda" else "cpu"
        return f"eager channels_last float32, torch {torch.__version__}, {name}"

    def run(self, shard: Shard) -> ShardResult:
        """Run one shard and stage its files; nothing is committed here.

        Parameters
        ----------
        shard : Shard

        Returns
        -------
        ShardResult
            Every item is either in the files of all its specs, or among the rejects.
        """
        timing, rejects = Timing(), list[RejectedPair]()
        timing.add("load", self._load_seconds)
        self._load_seconds = 0.0
        outputs = {spec_id: _Output() for spec_id in shard.spec_ids}
        images = 0
        for batch in self._batches(shard.items, rejects, timing):
            images += len(batch)
            self._infer(batch, outputs, rejects, timing)
        with timing.stage("write"):
            embeddings, scores = self._stage(outputs)
        return ShardResult(embeddings, scores, rejects, images, timing, self.describe())

    def describe(self) -> dict[str, str]:
        """Return where this worker runs."""
        return {
            "host": socket.gethostname(),
            "pid": str(os.getpid()),
            "device": self._device.type,
            "runtime": self.runtime,
            "cuda_visible_devices": os.environ.get("CUDA_VISIBLE_DEVICES", ""),
        }

    def _batches(
        self, items: Sequence[WorkItem], rejects: list[RejectedPair], timing: Timing
    ) -> Iterator[list[Decoded]]:
        decoded = self._decoded(items, rejects, timing)
        while batch := list(islice(decoded, self._config.batch_images)):
            yield batch

    def _decoded(self, items: Sequence[WorkItem], rejects: list[RejectedPair], timing: Timing) -> Iterator[Decoded]:
        """Yield decoded images in order, keeping the decode threads some batches ahead and no further."""
        ahead: deque[tuple[WorkItem, Future[tuple[NDArray[np.uint8], float]]]] = deque()
        waiting = iter(items)
        while True:
            room = _BATCHES_AHEAD * self._config.batch_images - len(ahead)
            ahead.extend((item, self._pool.submit(self._decode, item)) for item in islice(waiting, room))
            if not ahead:
                return
            item, future = ahead.popleft()
            try:
                with timing.stage("wait"):
                    pixels, seconds = future.result()
            except ImageRejected as error:
                rejects.append(RejectedPair(item.image_id, item.uri, error.stage, error.reason, error.retryable))
                continue
            timing.add("decode", seconds)
            yield item, pixels

    def _decode(self, item: WorkItem) -> tuple[NDArray[np.uint8], float]:
        start = perf_counter()
        image = read_image(item.uri, expected=item.file_hash)
        return self._preprocess.apply(image.pixels, self._config.size), perf_counter() - start

    def _infer(
        self, batch: list[Decoded], outputs: dict[str, _Output], rejects: list[RejectedPair], timing: Timing
    ) -> None:
        grey = np.stack([pixels for _, pixels in batch])
        for spec_id, output in outputs.items():
            network = self._networks[spec_id]
            start = perf_counter()
            embeddings, probabilities = _run_halving(network, grey, self._device)
            seconds = perf_counter() - start
            timing.add("infer", seconds)
            timing.add_backbone(network.spec.name, seconds)
            finite: NDArray[np.bool_] = np.logical_and.reduce(np.isfinite(embeddings), axis=1)
            for (item, _), good in zip(batch, finite.tolist(), strict=True):
                if good:
                    output.ids.append(item.image_id)
                else:
                    reason = f"{network.spec.name} gave NaN or infinite features; look at the weights and the image"
                    rejects.append(RejectedPair(item.image_id, item.uri, "model", reason, False, spec_id))
            output.embeddings.append(embeddings[finite])
            if probabilities is not None:
                output.probabilities.append(probabilities[finite])

    def _stage(self, outputs: dict[str, _Output]) -> tuple[list[StagedFile], list[StagedFile]]:
        embeddings: list[StagedFile] = []
        scores: list[StagedFile] = []
        for spec_id, output in outputs.items():
            if not output.ids:
                continue
            network = self._networks[spec_id]
            embeddings += self._stage_table("embeddings", self._embedding_rows(spec_id, network, output))
            if output.probabilities:
                scores += self._stage_table("scores", self._score_rows(spec_id, network, output))
        return embeddings, scores

    def _stage_table(self, name: str, rows: pa.Table) -> list[StagedFile]:
        return stage(self._store.location, TABLES[name], conform(rows, TABLES[name]))

    def _embedding_rows(self, spec_id: str, network: Network, output: _Output) -> pa.Table:
        X = np.concatenate(output.embeddings)
        offsets = np.arange(0, X.size + 1, X.shape[1], dtype=np.int32)
        return pa.table(
            {
                **_constant(len(X), backbone=network.spec.name, spec_id=spec_id),
                "image_id": output.ids,
                **_constant(len(X), run_id=self._config.run_id, runtime=self.runtime),
                "embedding": pa.ListArray.from_arrays(pa.array(offsets), pa.array(X.reshape(-1))),
            }
        )

    def _score_rows(self, spec_id: str, network: Network, output: _Output) -> pa.Table:
        P = np.concatenate(output.probabilities)
        n_labels = len(network.labels)
        return pa.table(
            {
                **_constant(P.size, backbone=network.spec.name, spec_id=spec_id, run_id=self._config.run_id),
                "image_id": np.repeat(output.ids, n_labels),
                "label": network.labels * len(P),
                "probability": P.reshape(-1),
            }
        )


def _constant(rows: int, **values: str) -> dict[str, pa.Array]:
    return {name: pa.repeat(value, rows) for name, value in values.items()}


def _run_halving(
    network: Network, grey: NDArray[np.uint8], device: torch.device
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """Run a batch; where the GPU's memory does not hold it, run its halves."""
    try:
        return run_batch(network, grey, device)
    except torch.OutOfMemoryError:
        if len(grey) == 1:
            raise
        torch.cuda.empty_cache()
    middle = len(grey) // 2
    first, second = (_run_halving(network, half, device) for half in (grey[:middle], grey[middle:]))
    scores = None if first[1] is None or second[1] is None else np.concatenate([first[1], second[1]])
    return np.concatenate([first[0], second[0]]), scores


def _be_nice() -> None:
    # One busy neighbour halves two-thread torch on two cores: decoding yields to the networks (field notes).
    if hasattr(os, "setpriority"):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _DECODE_NICENESS)
