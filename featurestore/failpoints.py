"""Named places at which a chaos test kills this process. They do nothing unless CXR_FAILPOINT names one.

Kills from outside come at a random time and nearly always miss the few milliseconds of a commit; here each of its
steps can be hit on purpose (tests/chaos).
"""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from pathlib import Path

POINT = "CXR_FAILPOINT"
"""``name``, or ``name#3`` for the third time this process gets there."""
LOG = "CXR_FAILPOINT_LOG"
"""The file that says who was killed where. One log, one kill: a process that finds it there lives on."""
ROLE = "CXR_FAILPOINT_ROLE"
"""What the log calls this process; ``process`` where absent."""
SIGNAL = "CXR_FAILPOINT_SIGNAL"
"""``SIGSTOP`` holds the process at the point instead, for a kill from outside; ``SIGKILL`` where absent."""

_reached: Counter[str] = Counter()


def reach(name: str, half_of: Path | None = None) -> None:
    """Kill this process if ``CXR_FAILPOINT`` names this place, after saying so in the log.

    Parameters
    ----------
    name : str
        ``worker.STEP`` or ``driver.STEP`` of an extraction, ``compact.STEP``, ``forget.STEP``, or ``TABLE.STEP`` for
        the steps that every table's writers share.
    half_of : Path, optional
        A file just written, of which a death in the middle leaves the first half.
    """
    wanted, _, time = os.environ.get(POINT, "").partition("#")
    if wanted != name:
        return
    _reached[name] += 1
    if _reached[name] == int(time or 1) and _log(name):
        if half_of is not None:
            os.truncate(half_of, half_of.stat().st_size // 2)
        os.kill(os.getpid(), signal.Signals[os.environ.get(SIGNAL, "SIGKILL")])


def _log(name: str) -> bool:
    """Write the log and make it durable; return False where somebody else's death is in it already."""
    try:
        file = os.open(os.environ[LOG], os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return False
    line = {"role": os.environ.get(ROLE, "process"), "name": name, "pid": os.getpid()}
    os.write(file, json.dumps(line).encode() + b"\n")
    os.fsync(file)
    os.close(file)
    return True
