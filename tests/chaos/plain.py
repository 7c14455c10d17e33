"""Kills in plain processes: alone in a store, and two extractions of the same work at a time."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.chaos.harness import Bench, HarnessError
from tests.chaos.oracle import Verdict, judge, pending
from tests.chaos.steps import Step

KILLS_IN_ONE_STORE = 6
_FRUITLESS = 15
SHARDS = (4, 5)
"""Images a shard; two overlapping extractions divide the work differently."""


@dataclass
class Tally:
    """What a campaign has come to.

    Parameters
    ----------
    kills : Counter
        Counted kills by step.
    after_work : Counter
        Kills with every pair of their shard stored already; judged, not counted.
    chores : Counter
        Kills of other commands by step.
    stores : int
    verdict : Verdict
        Of all stores together.
    """

    kills: Counter[Step] = field(default_factory=Counter)
    after_work: Counter[Step] = field(default_factory=Counter)
    chores: Counter[Step] = field(default_factory=Counter)
    stores: int = 0
    verdict: Verdict = field(default_factory=Verdict)

    def count(self, step: Step, left: int) -> None:
        """Count one kill that left so many pairs to do."""
        (self.kills if left and step.counts else self.after_work)[step] += 1

    def close(self, store: Path, reference: Path, without: Collection[str] = (), *, orphans: bool = True) -> None:
        """Judge a store that is done, and remove it if nothing is wrong with it."""
        found = judge(store, reference, without)
        self.stores += 1
        for name in ("lost", "duplicated", "wrong"):
            getattr(self.verdict, name).extend(getattr(found, name))
        # Merged and forgotten files stay for the versions that had them: of a chore they tell nothing.
        self.verdict.orphans += found.orphans if orphans else []
        if found.clean:
            shutil.rmtree(store)


def kill_alone(bench: Bench, wanted: Counter[Step], tally: Tally, dice: random.Random) -> None:
    """Kill one extraction after the other: some in one store, until it is done, then in a new one."""
    fruitless = 0
    while wanted:
        before = wanted.total()
        _one_store(bench, wanted, tally, dice)
        fruitless = 0 if wanted.total() < before else fruitless + 1
        if fruitless > _FRUITLESS:
            message = f"no process ever got to {sorted(step.point for step in wanted)}: is the failpoint still there?"
            raise HarnessError(message)


def _one_store(bench: Bench, wanted: Counter[Step], tally: Tally, dice: random.Random) -> None:
    store = bench.new_store()
    for kills in range(KILLS_IN_ONE_STORE):
        step = _choose(wanted, dice, new=kills == 0)
        if step is None:
            break
        time = 1 if step.once or not step.counts else dice.randint(1, 3)
        if not bench.extract(store, f"{step.point}#{time}").died_at(step.point):
            break  # it ran to its end: fewer shards were left
        left = pending(store, bench.reference)
        tally.count(step, left)
        if left or not step.counts:
            _tick_off(wanted, step)
    _finish(bench, store, SHARDS[:1])
    tally.close(store, bench.reference)


def _choose(wanted: Counter[Step], dice: random.Random, *, new: bool) -> Step | None:
    """Return a step that is still wanted; those of a new store come first there, and nowhere else."""
    first = [step for step in wanted if step.once]
    others = [step for step in wanted if not step.once]
    return dice.choice(first) if new and first else dice.choice(others) if others else None


def _tick_off(wanted: Counter[Step], step: Step) -> None:
    wanted[step] -= 1
    if wanted[step] <= 0:
        del wanted[step]


def kill_two(bench: Bench, kills: int, steps: Sequence[Step], tally: Tally, dice: random.Random) -> None:
    """Kill overlapping extractions until so many kills counted: both start at once, both die, both start again."""
    goal = tally.kills.total() + kills
    while tally.kills.total() < goal:
        store = bench.new_store()
        for _ in range(2):
            chosen = [dice.choice(steps) for _ in SHARDS]
            trials = [
                bench.extract(store, f"{step.point}#{dice.randint(1, 2)}", shard)
                for step, shard in zip(chosen, SHARDS, strict=True)
            ]
            died = [trial.died_at(step.point) for trial, step in zip(trials, chosen, strict=True)]
            # Who died first cannot be told from who died last; only pairs missing after both count for both.
            left = pending(store, bench.reference)
            for step in (step for step, dead in zip(chosen, died, strict=True) if dead):
                tally.count(replace(step, role=f"{step.role}, one of two"), left)
        _finish(bench, store, SHARDS)
        tally.close(store, bench.reference)


def _finish(bench: Bench, store: Path, shards: Sequence[int]) -> None:
    """Submit the same commands once more, undisturbed."""
    for trial in [bench.extract(store, "", shard) for shard in shards]:
        if trial.died_at(""):
            raise HarnessError(trial.output.read_text())
