"""Kills through Ray: actor and driver at their failpoints, and `kill -9` of an actor and a raylet from outside."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from tests.chaos.harness import Bench, HarnessError
from tests.chaos.on_ray import Job, Nodes, ray_nodes
from tests.chaos.oracle import pending
from tests.chaos.plain import Tally
from tests.chaos.steps import DRIVER, WORKER, Step

ACTOR, DRIVER_ROLE, ACTOR_BY_PID, RAYLET = "Ray actor", "Ray driver", "Ray actor, kill -9", "raylet, kill -9"
_BY_STEP = {step.point: step for step in (*WORKER, *DRIVER)}
_HELD = [_BY_STEP[f"worker.after-{name}"] for name in ("decode", "infer", "stage")]
_DRIVER = [step for step in DRIVER if not step.point.startswith("scores.")]


@dataclass(frozen=True)
class _Kill:
    """One kill: a step whose role says who dies and by whom."""

    step: Step

    @property
    def from_outside(self) -> bool:
        return self.step.role in (ACTOR_BY_PID, RAYLET)

    @property
    def process(self) -> str:
        return "driver" if self.step.role == DRIVER_ROLE else "actor"


def kill_through_ray(bench: Bench, kills: int, tally: Tally, dice: random.Random) -> None:
    """Kill so many processes; a job survives its actors and raylets, so only a driver's death leaves a store undone."""
    if not kills:
        return
    with ray_nodes(1) as nodes:
        store = bench.new_store()
        for number, kill in enumerate(_some(kills)):
            _kill(Job(bench, nodes, store, bench.folder / f"ray{number}.log"), kill, tally, dice)
            if kill.process != "driver" or number == kills - 1:
                Job(bench, nodes, store, bench.folder / f"ray{number}-end.log").run_until_done()
                tally.close(store, bench.reference)
                store = bench.new_store()


def _some(kills: int) -> Iterator[_Kill]:
    """Yield half of the kills in actors at their steps, a quarter in drivers, a quarter from outside, mixed."""
    for number in range(kills):
        turn, kind = divmod(number, 4)
        if kind in (0, 2):
            yield _Kill(replace(WORKER[number // 2 % len(WORKER)], role=ACTOR))
        elif kind == 1:
            yield _Kill(replace(_DRIVER[turn % len(_DRIVER)], role=DRIVER_ROLE))
        else:
            yield _Kill(replace(_HELD[turn % len(_HELD)], role=RAYLET if turn % 2 else ACTOR_BY_PID))


def _kill(job: Job, kill: _Kill, tally: Tally, dice: random.Random) -> None:
    time = 1 if kill.step.point == "driver.after-plan" else dice.randint(1, 2)
    job.submit(kill.process, f"{kill.step.point}#{time}", "SIGSTOP" if kill.from_outside else "SIGKILL")
    died = job.wait_for_log()
    left = pending(job.store, job.bench.reference)
    if died["role"] != kill.process or died["name"] != kill.step.point:
        message = f"{died} died, not the {kill.process} at {kill.step.point}"
        raise HarnessError(message)
    if kill.from_outside:
        _kill_from_outside(job.nodes, kill, int(str(died["pid"])))
    tally.count(kill.step, left)
    code = job.wait()
    if code != (-signal.SIGKILL if kill.process == "driver" else 0):
        message = f"after {kill.step.role} died, the job ended with {code}: {job.output.read_text()}"
        raise HarnessError(message)


def _kill_from_outside(nodes: Nodes, kill: _Kill, actor: int) -> None:
    """Kill what is held at its failpoint; a dead node is replaced, as an autoscaler would."""
    if kill.step.role == ACTOR_BY_PID:
        os.kill(actor, signal.SIGKILL)
        return
    node = nodes.node_of(actor)
    os.kill(nodes.raylet(node), signal.SIGKILL)
    nodes.replace(node)
    # Held by SIGSTOP it cannot see that its raylet is gone.
    if Path(f"/proc/{actor}").exists():
        os.kill(actor, signal.SIGKILL)
