"""The store: append rows once, read one snapshot, ask SQL, take matrices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.errors import UsageError
from featurestore.store.catalogue import open_catalogue
from featurestore.store.commit import Committer
from featurestore.store.files import conform, stage
from featurestore.store.lease import writing
from featurestore.store.location import Location
from featurestore.store.matrix import Matrix, read_matrix
from featurestore.store.rewrite import rewrite
from featurestore.store.schema import TABLES
from featurestore.store.snapshot import Snapshot, read_snapshot


class Store:
    """A chest-radiograph feature store: Delta tables under one root.

    Parameters
    ----------
    uri : str or Path
        The root: a folder, or ``s3://bucket/prefix`` with the usual ``AWS_*`` variables set. It need not exist yet, but
        a bucket must; the first append makes it.

    Examples
    --------
    >>> import pyarrow as pa, tempfile
    >>> store = Store(tempfile.mkdtemp())
    >>> rows = pa.table({"image_id": ["a"], "dataset": ["demo"], "label": ["Edema"], "value": [1]})
    >>> store.append("labels", rows), store.append("labels", rows)
    (1, 0)
    >>> store.query("SELECT label, value FROM labels").to_pylist()
    [{'label': 'Edema', 'value': 1}]
    """

    def __init__(self, uri: str | Path) -> None:
        self.location = Location.parse(uri)

    @property
    def uri(self) -> str:
        """Return the root."""
        return self.location.root

    def exists(self) -> bool:
        """Return whether anything was ever stored here."""
        return self.location.exists()

    def require(self) -> Store:
        """Return self, or raise UsageError where no store was ever written."""
        if not self.exists():
            message = f"no store at {self.uri}; run cxr ingest first, or name another with --store"
            raise UsageError(message)
        return self

    def require_dataset(self, dataset: str) -> None:
        """Raise UsageError, naming the data sets there are, unless the store holds images of this one."""
        known = self.query("SELECT DISTINCT dataset FROM images ORDER BY dataset")["dataset"].to_pylist()
        if dataset not in known:
            there = f"it has {', '.join(known)}" if known else "it has none: run cxr ingest first"
            message = f"no data set {dataset!r} in the store at {self.uri}; {there}"
            raise UsageError(message)

    def snapshot(self, table: str) -> Snapshot:
        """Return the files of a table's newest version."""
        return read_snapshot(self.location, TABLES[table])

    def versions(self) -> dict[str, int]:
        """Return {table: version} of every table that was written, for results to cite."""
        found = {name: self.snapshot(name).version for name in TABLES}
        return {name: version for name, version in found.items() if version is not None}

    def append(self, table: str, rows: pa.Table) -> int:
        """Append rows whose key is not stored yet.

        Parameters
        ----------
        table : str
        rows : pyarrow.Table
            Columns of the table's schema; absent ones become null.

        Returns
        -------
        int
            Rows that were new.
        """
        spec = TABLES[table]
        fresh = _first_of_each_key(conform(rows, spec), spec.key)
        if fresh.num_rows == 0:
            return 0
        with writing(self.location):
            return Committer(self.location, spec).commit(stage(self.location, spec, fresh))

    def relocate(self, uris: Mapping[str, str]) -> None:
        """Write down where images lie now, by image_id."""
        moved = pa.table({"image_id": list(uris), "moved_to": list(uris.values())})

        def change(rows: pa.Table) -> pa.Table | None:
            places = pc.index_in(rows["image_id"], value_set=moved["image_id"].combine_chunks())
            if places.null_count == rows.num_rows:
                return None
            uri = pc.coalesce(moved["moved_to"].take(places), rows["uri"])
            return rows.set_column(rows.column_names.index("uri"), "uri", uri)

        if uris:
            rewrite(self.location, TABLES["images"], change)

    def connect(self, *, spec: str | None = None, guarded: bool = True) -> duckdb.DuckDBPyConnection:
        """Return a DuckDB connection with read-only views of this moment's snapshot.

        Parameters
        ----------
        spec : str, optional
            Limits the per-backbone views to one spec_id.
        guarded : bool
            For SQL that is not ours: keep the connection from opening any file.
        """
        return open_catalogue({name: self.snapshot(name) for name in TABLES}, spec=spec, guarded=guarded)

    def query(self, sql: str, params: Sequence[Any] | None = None) -> pa.Table:
        """Run one SQL query over the newest snapshot of the tables it names, and return its rows."""
        # Reading the log of a table that the text does not even mention would be time for nothing.
        tables = {name: self.snapshot(name) for name in TABLES if name in sql}
        with open_catalogue(tables, backbones=False) as con:
            return con.sql(sql, params=list(params) if params else None).to_arrow_table()

    def resolve_spec(self, backbone_or_spec: str) -> tuple[str, str, int]:
        """Return (backbone, spec_id, n_features) of a spec_id, or of a backbone that has just one.

        Raises
        ------
        UsageError
            If it names nothing, or a backbone with several specs.
        """
        rows = self.query("SELECT backbone, spec_id, n_features FROM specs").to_pylist()
        named = [r for r in rows if r["spec_id"] == backbone_or_spec]
        of_backbone = [r for r in rows if r["backbone"] == backbone_or_spec]
        # A spec is registered before its first vector is written, and may never get one.
        matching = named or [r for r in of_backbone if r["spec_id"] in self._specs_with_vectors()] or of_backbone
        if len(matching) == 1:
            row = matching[0]
            return row["backbone"], row["spec_id"], row["n_features"]
        if matching:
            message = (
                f"{backbone_or_spec!r} has {len(matching)} specs: {sorted(r['spec_id'] for r in matching)}; name one"
            )
            raise UsageError(message)
        known = sorted({r["backbone"] for r in rows})
        message = f"no backbone or spec {backbone_or_spec!r} here; there is {known or 'nothing: run cxr extract first'}"
        raise UsageError(message)

    def _specs_with_vectors(self) -> set[str]:
        return {file.partition["spec_id"] for file in self.snapshot("embeddings").files}

    def matrix(self, backbone_or_spec: str, ids: Sequence[str] | None = None) -> Matrix:
        """Return stored vectors as one matrix.

        Parameters
        ----------
        backbone_or_spec : str
            A spec_id, or a backbone that has one spec.
        ids : sequence of str, optional
            Images in the order wanted; all of them, sorted by id, where absent.

        Returns
        -------
        ids : list of str
        X : ndarray of shape (n_images, n_features), float32

        Raises
        ------
        UsageError
            If an image has no vector; says how many.
        """
        backbone, spec_id, n_features = self.resolve_spec(backbone_or_spec)
        paths = self.snapshot("embeddings").paths(backbone=[backbone], spec_id=[spec_id])
        return read_matrix(self.location, paths, n_features, ids)


def _first_of_each_key(rows: pa.Table, key: tuple[str, ...]) -> pa.Table:
    """Keep the first row of each key within one append."""
    numbered = rows.append_column("_row", pa.array(range(rows.num_rows), pa.int64()))
    first = numbered.group_by(list(key)).aggregate([("_row", "min")])["_row_min"]
    return rows if len(first) == rows.num_rows else rows.take(first.combine_chunks().sort())


def connect(uri: str | Path) -> duckdb.DuckDBPyConnection:
    """Open a store's read-only SQL views.

    Parameters
    ----------
    uri : str or Path
        The store's root.

    Returns
    -------
    duckdb.DuckDBPyConnection
        Views named as the tables, plus one per backbone with ``embedding`` as ``FLOAT[n]``.

    Raises
    ------
    UsageError
        Where no store was ever written.
    """
    return Store(uri).require().connect()
