"""A node that is lost in mid-shard: the others do its work, and what it goes on writing is not committed."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.chaos.harness import PAIRS, REJECTED, ROOT


@pytest.mark.chaos
@pytest.mark.ray
@pytest.mark.slow
def test_a_lost_nodes_shard_runs_elsewhere_and_its_zombie_commits_nothing() -> None:
    process = subprocess.run(
        [sys.executable, "-m", "tests.chaos.node_death"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr
    seen = json.loads(process.stdout.splitlines()[-1])
    assert seen["pending_when_lost"] == PAIRS
    assert seen["code"] == 0, seen["said"]
    assert f"{PAIRS} written, 0 skipped, {REJECTED} rejected, 0 lost" in seen["said"]
    assert seen["clean"]
    # It went on and wrote its shard's files, two of vectors and one of scores; the store is as it was.
    assert seen["zombie_files"] >= 3
    assert seen["clean_after_zombie"]
