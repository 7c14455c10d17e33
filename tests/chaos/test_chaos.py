"""The short form of `make chaos`, and that its failpoints are where the code says."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from featurestore import failpoints
from tests.chaos.harness import ROOT
from tests.chaos.steps import COMPACT, FORGET, PURGE, STEPS

_REACH = re.compile(r"failpoints\.reach\(f?\"(?P<name>[^\"]+)\"")
TABLES = {"embeddings", "scores", "specs", "weights", "images", "rejects", "runs"}


def _names_in_the_code() -> set[str]:
    """Return the names that some code reaches; what is filled in while running becomes ``TABLE``."""
    sources = [path for package in ("featurestore", "jobs") for path in (ROOT / package).rglob("*.py")]
    found = (match["name"] for path in sources for match in _REACH.finditer(path.read_text()))
    return {re.sub(r"\{.*\}", "TABLE", name) for name in found}


def test_every_failpoint_is_killed_at_and_every_step_has_its_failpoint() -> None:
    steps = {re.sub(f"^({'|'.join(TABLES)})\\.", "TABLE.", step.point) for step in STEPS}
    assert steps == _names_in_the_code()


@pytest.mark.parametrize(
    ("wanted", "reached", "dies"),
    [
        ("", ["a"], False),
        ("a", ["b", "aa"], False),
        ("a", ["b", "a"], True),
        ("a#2", ["a", "b"], False),
        ("a#2", ["a", "b", "a"], True),
    ],
)
def test_a_process_dies_where_it_is_told_and_nowhere_else(
    tmp_path: Path, wanted: str, reached: list[str], dies: bool
) -> None:
    log = tmp_path / "log"
    process = _reach(reached, {failpoints.POINT: wanted, failpoints.LOG: str(log), failpoints.ROLE: "driver"})
    assert process.returncode == (-signal.SIGKILL if dies else 0)
    assert log.exists() == dies
    if dies:
        assert json.loads(log.read_text()) == {"role": "driver", "name": "a", "pid": int(process.stdout.split()[0])}


def test_one_log_is_one_death(tmp_path: Path) -> None:
    """The replacement of a dead actor finds the log, and lives."""
    variables = {failpoints.POINT: "a", failpoints.LOG: str(tmp_path / "log")}
    assert [_reach(["a"], variables).returncode for _ in range(2)] == [-signal.SIGKILL, 0]


def test_a_death_in_the_middle_of_a_file_leaves_half_of_it(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(100))
    code = f"from pathlib import Path; from featurestore.failpoints import reach; reach('a', Path({str(file)!r}))"
    _python(code, {failpoints.POINT: "a", failpoints.LOG: str(tmp_path / "log")})
    assert file.stat().st_size == 50


def _reach(names: list[str], variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    code = "import os; from featurestore.failpoints import reach; print(os.getpid(), flush=True)"
    return _python(f"{code}; [reach(n) for n in {names}]", variables)


def _python(code: str, variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=os.environ | variables, capture_output=True, text=True, check=False
    )


@pytest.mark.chaos
@pytest.mark.slow
def test_twelve_kills_and_one_at_each_step_of_maintenance_lose_nothing(tmp_path: Path) -> None:
    out = tmp_path / "chaos.json"
    command = [sys.executable, "-m", "tests.chaos.run", "--kills", "12", "--ray-kills", "0", "--out", str(out)]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stdout + process.stderr
    found = json.loads(out.read_text())
    assert found["kills"] >= 12
    assert sum(row["kills"] for row in found["by_step"]) == found["kills"]
    assert found["maintenance_kills"] == len((*COMPACT, *FORGET, *PURGE)) == len(found["maintenance"])
    assert (found["lost"], found["duplicated"], found["wrong"], found["problems"]) == (0, 0, 0, [])
