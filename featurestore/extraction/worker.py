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

from featurestore import failpoints
from featurestore.errors import ImageRejected
from featurestore.extraction.computer import Computer, batch_images, choose_device, load_computer
from featurestore.extraction.decode_pool import DecodedShard, decode_item, rejected
from featurestore.extraction.plan import Shard, WorkItem
from featurestore.extraction.result import RejectedPair, ShardResult, Timing
from featurestore.extraction.worker_config import WorkerConfig
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
        self._device = choose_device()
        self._batch = batch_images(config, self._device)
        # A Ray actor with 0 or 1 CPU would get a single thread; a GPU's default of TF32 is not float32.
        torch.set_num_threads(config.threads)
        torch.backends.cudnn.allow_tf32 = False
        self._store = Store(config.store_uri)
        self._pool = ThreadPoolExecutor(config.decode_threads, "decode", initializer=_be_nice)
        start = perf_counter()
        self._computers = {
            spec_id: load_computer(config, spec_id, backbone, request, sha256)
            for backbone, request, sha256, spec_id in config.backbones
        }
        self._load_seconds = perf_counter() - start

    @property
    def runtimes(self) -> dict[str, str]:
        """Return what computed the vectors of each spec: provenance, not part of the key."""
        return {spec_id: computer.runtime.name for spec_id, computer in self._computers.items()}

    def run(self, shard: Shard, decoded: DecodedShard | None = None) -> ShardResult:
        """Run one shard and stage its files; nothing is committed here.

        Parameters
        ----------
        shard : Shard
        decoded : DecodedShard, optional
            Its pixels, where somebody else decoded them.

        Returns
        -------
        ShardResult
            Every item is either in the files of all its specs, or among the rejects.
        """
        timing, rejects, start = Timing(), list[RejectedPair](), perf_counter()
        timing.add("load", self._load_seconds)
        self._load_seconds = 0.0
        outputs = {spec_id: _Output() for spec_id in shard.spec_ids}
        images = 0
        for batch in self._batches(self._pixels(shard, decoded, rejects, timing)):
            images += len(batch)
            failpoints.reach("worker.after-decode")
            self._infer(batch, outputs, rejects, timing)
            failpoints.reach("worker.after-infer")
        with timing.stage("write"):
            embeddings, scores = self._stage(outputs)
        failpoints.reach("worker.after-stage")
        return ShardResult(embeddings, scores, rejects, images, timing, self.describe(), perf_counter() - start)

    def describe(self) -> dict[str, str]:
        """Return where this worker runs."""
        return {
            "host": socket.gethostname(),
            "pid": str(os.getpid()),
            "device": self._device.type,
            "runtime": "; ".join(sorted(set(self.runtimes.values()))),
            "cuda_visible_devices": os.environ.get("CUDA_VISIBLE_DEVICES", ""),
        }

    def _pixels(
        self, shard: Shard, decoded: DecodedShard | None, rejects: list[RejectedPair], timing: Timing
    ) -> Iterator[Decoded]:
        if decoded is None:
            return self._decoded(shard.items, rejects, timing)
        rejects.extend(decoded.rejects)
        timing.add("decode", decoded.seconds)
        return iter(decoded)

    def _batches(self, decoded: Iterator[Decoded]) -> Iterator[list[Decoded]]:
        while batch := list(islice(decoded, self._batch)):
            yield batch

    def _decoded(self, items: Sequence[WorkItem], rejects: list[RejectedPair], timing: Timing) -> Iterator[Decoded]:
        """Yield decoded images in order, keeping the decode threads some batches ahead and no further."""
        ahead: deque[tuple[WorkItem, Future[tuple[NDArray[np.uint8], float]]]] = deque()
        waiting = iter(items)
        while True:
            room = _BATCHES_AHEAD * self._batch - len(ahead)
            ahead.extend((item, self._pool.submit(self._decode, item)) for item in islice(waiting, room))
            if not ahead:
                return
            item, future = ahead.popleft()
            try:
                with timing.stage("wait"):
                    pixels, seconds = future.result()
            except ImageRejected as error:
                rejects.append(rejected(item, error))
                continue
            timing.add("decode", seconds)
            yield item, pixels

    def _decode(self, item: WorkItem) -> tuple[NDArray[np.uint8], float]:
        return decode_item(item, self._config.preprocess, self._config.size)

    def _infer(
        self, batch: list[Decoded], outputs: dict[str, _Output], rejects: list[RejectedPair], timing: Timing
    ) -> None:
        grey = np.stack([pixels for _, pixels in batch])
        for spec_id, output in outputs.items():
            computer = self._computers[spec_id]
            start = perf_counter()
            embeddings, probabilities = computer.run(grey)
            timing.add_batch(computer.spec.name, len(batch), perf_counter() - start)
            finite: NDArray[np.bool_] = np.logical_and.reduce(np.isfinite(embeddings), axis=1)
            for (item, _), good in zip(batch, finite.tolist(), strict=True):
                if good:
                    output.ids.append(item.image_id)
                else:
                    reason = f"{computer.spec.name} gave NaN or infinite features; look at the weights and the image"
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
            computer = self._computers[spec_id]
            embeddings += self._stage_table("embeddings", self._embedding_rows(spec_id, computer, output))
            if output.probabilities:
                scores += self._stage_table("scores", self._score_rows(spec_id, computer, output))
        return embeddings, scores

    def _stage_table(self, name: str, rows: pa.Table) -> list[StagedFile]:
        return stage(self._store.location, TABLES[name], conform(rows, TABLES[name]))

    def _embedding_rows(self, spec_id: str, computer: Computer, output: _Output) -> pa.Table:
        X = np.concatenate(output.embeddings)
        offsets = np.arange(0, X.size + 1, X.shape[1], dtype=np.int32)
        return pa.table(
            {
                **_constant(len(X), backbone=computer.spec.name, spec_id=spec_id),
                "image_id": output.ids,
                **_constant(len(X), run_id=self._config.run_id, runtime=computer.runtime.name),
                "embedding": pa.ListArray.from_arrays(pa.array(offsets), pa.array(X.reshape(-1))),
            }
        )

    def _score_rows(self, spec_id: str, computer: Computer, output: _Output) -> pa.Table:
        P = np.concatenate(output.probabilities)
        n_labels = len(computer.labels)
        return pa.table(
            {
                **_constant(P.size, backbone=computer.spec.name, spec_id=spec_id, run_id=self._config.run_id),
                "image_id": np.repeat(output.ids, n_labels),
                "label": computer.labels * len(P),
                "probability": P.reshape(-1),
            }
        )


def _constant(rows: int, **values: str) -> dict[str, pa.Array]:
    return {name: pa.repeat(value, rows) for name, value in values.items()}


def _be_nice() -> None:
    # One busy neighbour halves two-thread torch on two cores: decoding yields to the networks (field notes).
    if hasattr(os, "setpriority"):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _DECODE_NICENESS)
