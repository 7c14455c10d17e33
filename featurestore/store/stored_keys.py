"""Which keys others have stored: what a committer's rows are compared with before they are committed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from featurestore.store.dataset import open_files
from featurestore.store.engine import open_memory
from featurestore.store.files import StagedFile
from featurestore.store.location import Location
from featurestore.store.schema import TableSpec
from featurestore.store.snapshot import DataFile

_Partition = tuple[str, ...]


class StoredKeys:
    """The keys in other writers' files of one table.

    Where the committer has said which images its rows are of, a file is read once, and only the keys of these images
    are kept: without that, each commit of a resumed run would read all older files again.

    Parameters
    ----------
    location : Location
    spec : TableSpec
    images : pyarrow.Array or ChunkedArray of string, optional
        All image_ids that will ever be compared; without them, files are read anew by each comparison.
    """

    def __init__(self, location: Location, spec: TableSpec, images: pa.Array | pa.ChunkedArray | None) -> None:
        self._location, self._spec = location, spec
        self._images = images.combine_chunks() if isinstance(images, pa.ChunkedArray) else images
        self._columns = [column for column in spec.key if column not in spec.partition_by]
        self._files: dict[_Partition, list[str]] = {}
        self._keys: dict[_Partition, pa.Table] = {}

    def add(self, files: Iterable[DataFile]) -> None:
        """Take note of files that are neither the plan's nor the committer's own."""
        for file in files:
            self._files.setdefault(_partition(file), []).append(self._absolute(file.path))

    def unstored(self, staged: StagedFile, compared: dict[str, int]) -> pa.Table | None:
        """Return the rows of a staged file that nobody has stored; None where that is all of them.

        Parameters
        ----------
        staged : StagedFile
        compared : dict of str to int
            With how many files each staged one was compared already, by its path; brought up to date.
        """
        if self._images is not None:
            self._read_once(_partition(staged))
            others: Sequence[str] | pa.Table = self._keys.get(_partition(staged), ())
        else:
            files = self._files.get(_partition(staged), [])
            others = files[compared.get(staged.path, 0) :]
            compared[staged.path] = len(files)
        if len(others) == 0:
            return None
        fresh = anti_join(self._location, self._absolute(staged.path), others, self._columns)
        return None if fresh.num_rows == staged.rows else fresh

    def _read_once(self, partition: _Partition) -> None:
        if not (files := self._files.pop(partition, [])):
            return
        rows = open_files(self._spec, self._location, files, self._columns)
        ours = rows.to_table(filter=pc.field("image_id").isin(self._images))
        before = self._keys.get(partition)
        self._keys[partition] = ours if before is None else pa.concat_tables([before, ours])

    def _absolute(self, path: str) -> str:
        return f"{self._location.table(self._spec.name)}/{path}"


def anti_join(location: Location, path: str, others: Sequence[str] | pa.Table, keys: Sequence[str]) -> pa.Table:
    """Return the rows of the Parquet file ``path`` whose ``keys`` stand in none of ``others``, files or rows.

    Null is a value here like any other: two rejects without a spec are the same reject.
    """
    same = " AND ".join(f"o.{key} IS NOT DISTINCT FROM n.{key}" for key in keys)
    params: list[str | list[str]] = [path]
    with open_memory(location) as con:
        if isinstance(others, pa.Table):
            con.from_arrow(others).create_view("others")
            source = "others"
        else:
            source = "read_parquet(?, hive_partitioning=false)"
            params.append(list(others))
        return con.sql(
            "SELECT n.* FROM read_parquet(?, hive_partitioning=false) n WHERE NOT EXISTS "
            f"(SELECT 1 FROM {source} o WHERE {same})",
            params=params,
        ).to_arrow_table()


def _partition(file: DataFile | StagedFile) -> _Partition:
    return tuple(file.partition.values())
