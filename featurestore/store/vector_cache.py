"""A disposable copy of one spec's vectors, mapped into memory, which answers similarity faster than Parquet.

An Arrow file that needs no decoding: all cosines are one matrix product (docs/adr/0009). Its name holds what it was
made of: a copy is used only where the spec's files are the very same, and one of other files is removed by the next
that is made. Vectors are stored with length one, so that the cosine is an inner product.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TextIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from featurestore.errors import UsageError
from featurestore.store.cache_files import local_cache
from featurestore.store.matrix import read_blocks
from featurestore.store.snapshot import Snapshot
from featurestore.store.store import Store

_FORMAT = "2"
"""Part of every name: a copy that another version of this module made is not read."""
_BATCH = 16_384
"""Vectors that lie side by side in the file, and so go into one product."""
_ROUNDING = 1e-5
"""More than a product in float32 can be wrong by; whoever may be among the nearest is computed again in float64."""


@dataclass(frozen=True)
class _Vectors:
    """The stored vectors of one spec at one moment."""

    spec_id: str
    n_features: int
    snapshot: Snapshot

    @classmethod
    def of(cls, store: Store, backbone_or_spec: str) -> _Vectors:
        backbone, spec_id, n_features = store.resolve_spec(backbone_or_spec)
        mine = store.snapshot("embeddings").limited(backbone=[backbone], spec_id=[spec_id])
        return cls(spec_id, n_features, mine)

    @property
    def file_name(self) -> str:
        """Return the name of the copy that is made of exactly these files."""
        digest = hashlib.sha256("\n".join([_FORMAT, *sorted(self.snapshot.paths())]).encode())
        return f"{self.spec_id}-{digest.hexdigest()[:32]}.arrow"


@dataclass(frozen=True)
class VectorCache:
    """An opened copy.

    Parameters
    ----------
    ids : pyarrow.ChunkedArray of string
    units : list of numpy.ndarray of shape (n, n_features), float32
        Vectors of length one, in the order of the ids; of length zero where the vector was.
    spec_id : str
    """

    ids: pa.ChunkedArray
    units: list[NDArray[np.float32]]
    spec_id: str

    def nearest(self, image_id: str, k: int) -> pa.Table:
        """Return the images whose vectors have the largest cosine with an image's.

        Parameters
        ----------
        image_id : str
        k : int
            Most rows.

        Returns
        -------
        pyarrow.Table
            ``image_id`` and ``similarity`` in [-1, 1], float32, the largest first, equal ones by ``image_id``; without
            the image itself. A vector of zeros has similarity 0 to all; one that is not finite is no neighbour.

        Raises
        ------
        UsageError
            If the image has no vector, or one without a direction.
        """
        place = pc.index(self.ids, image_id).as_py()
        vector = self._vector(image_id, place)
        rough = np.concatenate([unit @ vector for unit in self.units])
        rough[place] = -np.inf
        k = min(k, len(rough) - 1)
        floor = np.partition(rough, len(rough) - k)[len(rough) - k] - _ROUNDING if k > 0 else np.inf
        near = np.flatnonzero(rough >= floor)
        near = near[near != place]
        # Equal vectors have equal similarities only if each is summed up in the same order, which a product's are not.
        exact = np.array(
            [np.dot(self._row(row).astype(np.float64), vector.astype(np.float64)) for row in near.tolist()]
        )
        found = pa.table(
            {"image_id": self.ids.take(pa.array(near)), "similarity": np.clip(exact, -1, 1).astype(np.float32)}
        )
        return found.sort_by([("similarity", "descending"), ("image_id", "ascending")]).slice(0, max(k, 0))

    def _vector(self, image_id: str, place: int) -> NDArray[np.float32]:
        if place < 0:
            message = f"image {image_id} has no finite vector of spec {self.spec_id!r}; ask cxr why, run cxr extract"
            raise UsageError(message)
        vector = self._row(place)
        if not vector.any():
            message = f"the vector of image {image_id} under spec {self.spec_id!r} is all zeros: it is like no other"
            raise UsageError(message)
        return vector

    def _row(self, place: int) -> NDArray[np.float32]:
        """Return one vector; all batches but the last have the same length."""
        row: NDArray[np.float32] = self.units[place // _BATCH][place % _BATCH]
        return row


@contextmanager
def open_vectors(store: Store, backbone_or_spec: str) -> Iterator[VectorCache]:
    """Open the copy of the newest vectors, making it first where there is none.

    Whoever reads holds a shared lock, whoever makes or removes an exclusive one. It spares work: a copy appears under
    its name only when it is whole.

    Parameters
    ----------
    store : Store
    backbone_or_spec : str
        A spec_id, or a backbone that has one spec.

    Raises
    ------
    UsageError
        If it names no spec, several, or one without vectors.
    HarmError
        If a stored vector does not fit its spec.
    """
    _, spec_id, n_features = store.resolve_spec(backbone_or_spec)
    folder = local_cache(store.location)
    with (folder / f"{spec_id}.lock").open("a") as lock:
        path = _current(store, spec_id, folder, lock)
        with pa.memory_map(str(path)) as mapped:
            table = pa.ipc.open_file(mapped).read_all()
            units = [chunk.flatten().to_numpy().reshape(-1, n_features) for chunk in table["vector"].chunks]
            yield VectorCache(table["image_id"], units, spec_id)


def _current(store: Store, spec_id: str, folder: Path, lock: TextIO) -> Path:
    """Return the copy of the newest vectors, with ``lock`` shared."""
    fcntl.flock(lock, fcntl.LOCK_SH)
    while True:
        # Looked at again after making: somebody may have been forgotten meanwhile.
        vectors = _Vectors.of(store, spec_id)
        if not vectors.snapshot.files:
            _remove_others(folder, vectors)
            message = f"spec {spec_id!r} has no vectors; run cxr extract first"
            raise UsageError(message)
        path = folder / vectors.file_name
        if path.exists():
            return path
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            _make(path, vectors)
        _remove_others(folder, vectors)
        fcntl.flock(lock, fcntl.LOCK_SH)


def _make(path: Path, vectors: _Vectors) -> None:
    with TemporaryDirectory(prefix=f".{vectors.spec_id}-", dir=path.parent) as scratch:
        made = Path(scratch) / "vectors.arrow"
        _write(made, vectors)
        made.chmod(0o600)
        made.replace(path)


def _remove_others(folder: Path, vectors: _Vectors) -> None:
    """Remove copies of other files of the spec, and what somebody left who was killed while making one."""
    for path in folder.glob(f"{vectors.spec_id}-*"):
        if path.name != vectors.file_name:
            path.unlink(missing_ok=True)
    for scratch in folder.glob(f".{vectors.spec_id}-*"):
        shutil.rmtree(scratch)


def _write(path: Path, vectors: _Vectors) -> None:
    location, paths, n_features = vectors.snapshot.location, vectors.snapshot.paths(), vectors.n_features
    schema = pa.schema({"image_id": pa.string(), "vector": pa.list_(pa.float32(), n_features)})
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, schema) as writer:
        waiting: list[pa.Table] = []
        for ids, block in read_blocks(location, paths, n_features):
            waiting.append(_of_length_one(ids, block, schema))
            while sum(part.num_rows for part in waiting) >= _BATCH:
                together = pa.concat_tables(waiting)
                writer.write_table(together.slice(0, _BATCH).combine_chunks())
                waiting = [together.slice(_BATCH)]
        if waiting:
            writer.write_table(pa.concat_tables(waiting).combine_chunks())


def _of_length_one(ids: pa.Array, block: NDArray[np.float32], schema: pa.Schema) -> pa.Table:
    """Return the finite vectors with length one; one of zeros stays what it is."""
    length = np.sqrt(np.einsum("ij,ij->i", block, block, dtype=np.float64))
    finite = np.isfinite(length)
    length[length == 0] = 1
    unit = (block[finite] / length[finite, None]).astype(np.float32)
    vector = pa.FixedSizeListArray.from_arrays(pa.array(unit.ravel()), block.shape[1])
    return pa.table({"image_id": ids.filter(pa.array(finite)), "vector": vector}, schema=schema)
