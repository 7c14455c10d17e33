"""What DuckDB spills may hold patients' ids: nobody else can look into it, also after a kill."""

from __future__ import annotations

import os
import signal
import stat
import tempfile
from pathlib import Path

from featurestore.store.engine import open_memory

SPILL = """
import os, signal, sys
from pathlib import Path
from featurestore.store.engine import open_memory
os.umask(0)
con = open_memory()
con.execute("SET memory_limit = '30MB'; SET threads = 1")
con.execute("CREATE TEMP TABLE t AS SELECT md5(i::VARCHAR) AS a, md5((i + 1)::VARCHAR) AS b FROM range(1000000) r(i)")
folder = Path(con.sql("SELECT current_setting('temp_directory')").fetchall()[0][0])
print(sum(file.stat().st_size for file in folder.iterdir()), folder, flush=True)
if sys.argv[1] == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[1] == "forked" and (pid := os.fork()):
    os.waitpid(pid, 0)
    print(folder.exists(), folder.parent.exists())
"""


def _open_to(path: Path) -> str:
    return oct(stat.S_IMODE(path.stat().st_mode))


def test_the_folder_for_spilling_is_ones_own_whatever_the_umask(python, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    process = python(SPILL, "killed")
    out, errors = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, errors
    size, folder = out.split()
    assert int(size) > 1 << 20
    assert Path(folder).parent.parent == tmp_path
    assert list(Path(folder).iterdir())
    assert _open_to(Path(folder).parent) == "0o700"


def test_it_goes_with_its_process_and_not_with_a_child_of_it(python, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    process = python(SPILL, "forked")
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert out.splitlines()[-1] == "True True"
    assert list(tmp_path.iterdir()) == []


def test_each_connection_has_a_place_of_its_own():
    def place() -> Path:
        with open_memory() as con:
            return Path(con.sql("SELECT current_setting('temp_directory')").fetchall()[0][0])

    first, second = place(), place()
    assert first != second
    assert first.parent == second.parent
    assert first.parent.parent == Path(tempfile.gettempdir())
    assert _open_to(first.parent) == "0o700"
    assert str(os.getpid()) not in first.name
