"""Processes that read the store end well: some combinations of libraries abort when the interpreter exits."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pytest

READ = """
import sys, warnings
warnings.simplefilter("error")
import featurestore
store = featurestore.Store(sys.argv[1])
con = featurestore.connect(sys.argv[1])
rows = con.execute("SELECT image_id, embedding FROM vgg16")
first = rows.fetchone()
lazy = con.cursor().sql("SELECT * FROM embeddings LIMIT 3")
n = store.query("SELECT count(*) AS n FROM embeddings").to_pylist()[0]["n"]
ids, X = store.matrix("vgg16")
print(n, len(lazy.fetchall()), X.shape, X.sum())
"""


@pytest.mark.slow
def test_twenty_processes_that_read_the_store_all_exit_0(store, vector_rows, spec_row):
    """Each leaves a connection open and a result half read, as a person at a prompt would."""
    store.append("specs", spec_row("vgg16", "s1", 64))
    store.append("images", pa.table({"image_id": ["a"]}))
    X = np.ones((500, 64), np.float32)
    for k in range(5):
        store.append("embeddings", vector_rows([f"i{k}_{n}" for n in range(500)], X))

    def read(_: int) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", READ, store.uri], capture_output=True, text=True, timeout=120)

    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(read, range(20)))
    assert [process.returncode for process in done] == [0] * 20, [process.stderr for process in done]
    assert {process.stdout.strip() for process in done} == {"2500 3 (2500, 64) 160000.0"}
    assert {process.stderr for process in done} == {""}


BAR = """
from featurestore.store.engine import open_memory
open_memory().sql("SELECT current_setting('enable_progress_bar')").show()
"""


def test_a_long_query_draws_no_bar_on_stdout(python):
    """DuckDB draws one where Python runs no script, as here."""
    out, errors = python(BAR).communicate(timeout=60)
    assert "false" in out, errors
