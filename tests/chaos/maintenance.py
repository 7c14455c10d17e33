"""Kills in `cxr compact`, `cxr forget` and `cxr compact --purge`, one a step: the same command again completes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.harness import Bench, HarnessError
from tests.chaos.oracle import judge, rows
from tests.chaos.plain import Tally
from tests.chaos.steps import COMPACT, FORGET, PURGE, Step


@dataclass(frozen=True)
class _Chore:
    """One command and what it is run on.

    Parameters
    ----------
    arguments : sequence of str
    steps : sequence of Step
    source : Path
        A store, of which each kill gets a copy.
    gone : frozenset of str
        image_ids that may be there or not when it dies, and may not be there when it is done.
    sweeps : bool
        Whether it leaves no file that is not live.
    """

    arguments: Sequence[str]
    steps: Sequence[Step]
    source: Path
    gone: frozenset[str] = frozenset()
    sweeps: bool = False


def kill_maintenance(bench: Bench, tally: Tally) -> None:
    """Kill each command once at each of its steps, run it again, and judge."""
    patient, images = _person(bench.reference)
    forget = ["forget", "--patient", f"chaos:{patient}"]
    forgotten = bench.new_store(bench.reference)
    _run(bench, forgotten, forget)
    for chore in (
        _Chore(["compact"], COMPACT, bench.reference),
        _Chore(forget, FORGET, bench.reference, images),
        _Chore(["compact", "--purge"], PURGE, forgotten, images, sweeps=True),
    ):
        for step in chore.steps:
            _kill(bench, chore, step, tally)


def _person(store: Path) -> tuple[str, frozenset[str]]:
    """Return a patient whose images all have vectors, and their ids."""
    stored = {row["image_id"] for row in rows(store / "embeddings")}
    people: dict[str, set[str]] = {}
    for row in rows(store / "images"):
        people.setdefault(row["patient_id"], set()).add(row["image_id"])
    patient = max(name for name, images in people.items() if images <= stored)
    return patient, frozenset(people[patient])


def _kill(bench: Bench, chore: _Chore, step: Step, tally: Tally) -> None:
    store = bench.new_store(chore.source)
    trial = bench.start(store, chore.arguments, step.point)
    if not trial.died_at(step.point):
        message = f"cxr {' '.join(chore.arguments)} never got to {step.point}: {trial.output.read_text()}"
        raise HarnessError(message)
    tally.chores[step] += 1
    # What is to go may be there still or not; everything else is there, once.
    half = judge(store, bench.reference, chore.gone)
    tally.verdict.lost += half.lost
    tally.verdict.duplicated += [key for key in half.duplicated if not chore.gone.intersection(key)]
    _run(bench, store, chore.arguments)
    if chore.sweeps:
        tally.verdict.wrong += [("left behind", path) for path in judge(store, bench.reference, chore.gone).orphans]
    tally.close(store, bench.reference, chore.gone, orphans=False)


def _run(bench: Bench, store: Path, arguments: Sequence[str]) -> None:
    trial = bench.start(store, arguments)
    if trial.died_at(""):
        raise HarnessError(trial.output.read_text())
