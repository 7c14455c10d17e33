"""`make chaos`: kill extractions and maintenance everywhere, run them again, ask the oracle.

Exits with 1 where anything is wrong.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.chaos.harness import ROOT, Bench
from tests.chaos.maintenance import kill_maintenance
from tests.chaos.plain import Tally, kill_alone, kill_two
from tests.chaos.ray_kills import kill_through_ray
from tests.chaos.steps import AFTERWARDS, DRIVER, NEW_STORE, WORKER, Step

_AFTERWARDS_EACH = 3


def main() -> int:
    """Run a campaign, print its table, write its numbers."""
    options = _options()
    dice, tally, start = random.Random(options.seed), Tally(), time.monotonic()
    scratch = Path(tempfile.mkdtemp(prefix="cxr-chaos-"))
    print(f"Stores lie in {scratch} until they are found clean", file=sys.stderr)
    bench = Bench(scratch)
    bench.prepare()
    two = options.kills // 6
    kill_alone(bench, spread(options.kills - two, dice, afterwards=options.ray_kills > 0), tally, dice)
    kill_two(bench, two, [*WORKER, *DRIVER], tally, dice)
    kill_maintenance(bench, tally)
    print(f"{tally.kills.total()} kills after {time.monotonic() - start:.0f} s, now through Ray", file=sys.stderr)
    # Last: Ray's threads in this process would not survive a fork.
    kill_through_ray(bench, options.ray_kills, tally, dice)
    if tally.verdict.clean:
        shutil.rmtree(scratch, ignore_errors=True)
    result = summary(tally, options.seed, time.monotonic() - start)
    print(table(result))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    return 0 if tally.verdict.clean else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=180, help="in plain processes")
    parser.add_argument("--ray-kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "chaos.json")
    return parser.parse_args()


def spread(kills: int, dice: random.Random, *, afterwards: bool) -> Counter[Step]:
    """Return how often to kill at each step: about equally often, in no order."""
    steps = dice.sample([*WORKER, *DRIVER, *NEW_STORE], len(WORKER) + len(DRIVER) + len(NEW_STORE))
    wanted = Counter(steps[number % len(steps)] for number in range(kills))
    return wanted + Counter(dict.fromkeys(AFTERWARDS, _AFTERWARDS_EACH)) if afterwards else wanted


def summary(tally: Tally, seed: int, seconds: float) -> dict[str, Any]:
    """Return the numbers for ``chaos.json``."""
    steps = sorted(tally.kills.keys() | tally.after_work.keys(), key=lambda step: step.role)
    return {
        "kills": tally.kills.total(),
        **{name: len(getattr(tally.verdict, name)) for name in ("lost", "duplicated", "wrong", "orphans")},
        "stores": tally.stores,
        "maintenance_kills": tally.chores.total(),
        "seed": seed,
        "seconds": round(seconds, 1),
        "by_step": [
            {"role": s.role, "step": s.doing, "kills": tally.kills[s], "after_all_work": tally.after_work[s]}
            for s in steps
        ],
        "maintenance": [{"role": s.role, "step": s.doing, "kills": kills} for s, kills in tally.chores.items()],
        "problems": [
            list(map(str, key)) for key in (tally.verdict.lost + tally.verdict.duplicated + tally.verdict.wrong)
        ],
    }


def table(result: dict[str, Any]) -> str:
    """Return the numbers for a person."""
    line = "{role:22} {step:42} {kills:>6} {after_all_work:>16}".format
    rows = [line(role="who died", step="doing what", kills="kills", after_all_work="not counted (*)")]
    rows += [line(**row) for row in result["by_step"]]
    rows.append("(*) every pair of the shard was stored already: judged like the others\n")
    rows += [line(**row, after_all_work="") for row in result["maintenance"]]
    rows.append(
        "{kills} kills of extractions and {maintenance_kills} of other commands in {stores} stores, {seconds} s: "
        "{lost} lost, {duplicated} duplicated, {wrong} wrong; {orphans} orphaned files of extractions, which are "
        "invisible".format(**result)
    )
    return "\n".join(rows)


if __name__ == "__main__":
    sys.exit(main())
