"""A disposable native DuckDB copy of one spec's vectors, which answers similarity faster than Parquet (docs/adr/0009).

Its name holds what it was made of: a copy is used only where the spec's files are the very same, and one of other files
is removed by the next that is made. Vectors are stored with length one, so that the cosine is an inner product.
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

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from featurestore.errors import UsageError
from featurestore.store.cache_files import local_cache
from featurestore.store.matrix import read_blocks
from featurestore.store.snapshot import Snapshot
from featurestore.store.store import Store

_FORMAT = "1"
"""Part of every name: a copy that another version of this module made is not read."""
_CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
}
# Outside of the ranking, rounding is cut off for k rows instead of for all.
_NEAREST = """
SELECT image_id, greatest(-1, least(1, inner_product)) AS similarity FROM (
    SELECT image_id, array_inner_product(vector, $vector::FLOAT[{n}]) AS inner_product
    FROM vectors WHERE image_id <> $image_id ORDER BY inner_product DESC, image_id LIMIT $k
) ORDER BY similarity DESC, image_id
"""


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
        return f"{self.spec_id}-{digest.hexdigest()[:32]}.duckdb"


@dataclass(frozen=True)
class VectorCache:
    """An opened copy.

    Parameters
    ----------
    con : duckdb.DuckDBPyConnection
        With one table, ``vectors``.
    spec_id : str
    n_features : int
    """

    con: duckdb.DuckDBPyConnection
    spec_id: str
    n_features: int

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
        parameters = {"vector": self._vector(image_id), "image_id": image_id, "k": k}
        return self.con.sql(_NEAREST.format(n=self.n_features), params=parameters).to_arrow_table()

    def _vector(self, image_id: str) -> list[float]:
        rows: list[tuple[list[float]]] = self.con.execute(
            "SELECT vector FROM vectors WHERE image_id = ?", [image_id]
        ).fetchall()
        if not rows:
            message = f"image {image_id} has no finite vector of spec {self.spec_id!r}; ask cxr why, run cxr extract"
            raise UsageError(message)
        if not any(rows[0][0]):
            message = f"the vector of image {image_id} under spec {self.spec_id!r} is all zeros: it is like no other"
            raise UsageError(message)
        return list(rows[0][0])


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
        with duckdb.connect(str(path), read_only=True, config=_CONFIG) as con:
            con.execute("SET enable_progress_bar = false")
            yield VectorCache(con, spec_id, n_features)


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
        made = Path(scratch) / "vectors.duckdb"
        _write(made, vectors)
        made.chmod(0o600)
        made.replace(path)


def _remove_others(folder: Path, vectors: _Vectors) -> None:
    """Remove copies of other files of the spec, and what somebody left who was killed while making one."""
    for path in folder.glob(f"{vectors.spec_id}-*.duckdb*"):
        if path.name != vectors.file_name:
            path.unlink(missing_ok=True)
    for scratch in folder.glob(f".{vectors.spec_id}-*"):
        shutil.rmtree(scratch)


def _write(path: Path, vectors: _Vectors) -> None:
    location, paths, n_features = vectors.snapshot.location, vectors.snapshot.paths(), vectors.n_features
    with duckdb.connect(str(path), config=_CONFIG) as con:
        con.execute("SET enable_progress_bar = false")
        # Looking for a compression takes most of the time, and finds none for such numbers.
        con.execute("PRAGMA force_compression = 'uncompressed'")
        con.execute(f"CREATE TABLE vectors (image_id VARCHAR, vector FLOAT[{n_features}])")
        con.begin()
        # Part by part from here, not one stream that DuckDB pulls from: it would wrap a HarmError into one of its own.
        for ids, block in read_blocks(location, paths, n_features):
            con.from_arrow(_of_length_one(ids, block)).insert_into("vectors")
        con.commit()


def _of_length_one(ids: pa.Array, block: NDArray[np.float32]) -> pa.Table:
    """Return the finite vectors with length one; one of zeros stays what it is."""
    length = np.sqrt(np.einsum("ij,ij->i", block, block, dtype=np.float64))
    finite = np.isfinite(length)
    length[length == 0] = 1
    unit = (block[finite] / length[finite, None]).astype(np.float32)
    return pa.table({"image_id": ids.filter(pa.array(finite)), "vector": _fixed(unit)})


def _fixed(block: NDArray[np.float32]) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(block.ravel()), block.shape[1])
