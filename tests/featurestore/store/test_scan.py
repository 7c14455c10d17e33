"""Files that hold certain rows, found by one scan."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.store import Store
from featurestore.store.scan import files_with
from featurestore.store.schema import TABLES

SPEC = TABLES["embeddings"]


def _is_in(*ids: str) -> Callable[[pa.Table], pa.ChunkedArray]:
    return lambda rows: pc.is_in(rows["image_id"], value_set=pa.array(ids, pa.string()))


def _fill(store: Store, vector_rows: Callable[..., pa.Table]) -> list[str]:
    for k in range(6):
        rows = vector_rows([f"i{k}", "both"], np.ones((2, 3), np.float32), spec_id=f"s{k}")
        store.append("embeddings", rows)
    return [file.path for file in store.snapshot("embeddings").files]


def test_files_are_found_by_their_rows_in_every_partition(store, vector_rows):
    paths = _fill(store, vector_rows)
    files = store.snapshot("embeddings").files

    def found(*ids: str, images: list[str] | None) -> list[str]:
        return [file.path for file in files_with(store.location, SPEC, files, ["image_id"], _is_in(*ids), images)]

    for images in (None, ["i1", "i4", "both"]):
        assert [path for path in paths if "spec_id=s1/" in path or "spec_id=s4/" in path] == found(
            "i1", "i4", images=images
        )
        assert found("both", images=images) == paths
        assert found("nobody", images=images) == []
    assert found("i2", images=["i1"]) == []
    assert found("i2", images=[]) == []


def test_without_files_nothing_is_opened(store):
    assert files_with(store.location, SPEC, (), ["image_id"], _is_in("a")) == []
