"""`cxr`: finds the command, and turns every error into one sentence and the exit code of the README."""

from __future__ import annotations

import errno
import os
import sys
from contextlib import nullcontext
from importlib import import_module
from traceback import walk_tb
from types import TracebackType
from typing import Any

import click

from featurestore.errors import CxrError
from jobs.cli.output import stdout_for_json_only

COMMANDS = (
    "ingest", "plan", "extract", "why", "weights", "pretrain", "split", "leakage", "train", "finetune", "evaluate",
    "report", "sql", "similar", "verify", "forget", "compact", "run", "demo",
)  # fmt: skip


class _Lazy(click.Group):
    """Imports the module of a command when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"jobs.cli.{cmd_name}").command
        return command


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(package_name="cxrstore", prog_name="cxr")
def cxr() -> None:
    """Chest-radiograph embeddings: seven CNNs once, then SQL, forests and ensembles on the stored vectors."""


def main(arguments: list[str] | None = None) -> None:
    """Run `cxr` and exit: 0 done, 1 harm, 2 usage, 3 stopped with work left, 130 interrupted."""
    sys.exit(run(arguments))


def run(arguments: list[str] | None = None) -> int:
    """Run `cxr` and return its exit code."""
    # Threads of torch, scikit-learn and LightGBM that wait spin on a core: with one busy neighbour on two cores that
    # made inference 24 times slower, fitting 30. OpenMP reads this once, when the first of those libraries is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        with stdout_for_json_only() if _asks_for_json(arguments) else nullcontext():
            result: Any = cxr.main(arguments, standalone_mode=False)
    except CxrError as error:
        _show(str(error), error)
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return 2
    except (KeyboardInterrupt, click.Abort):
        click.echo("Interrupted. What was committed is kept; the same command goes on from there.", err=True)
        return 130
    except Exception as error:
        place = _place_of(error)
        if place is None:
            raise
        _show(f"{place}: {type(error).__name__}: {error}", error)
        return 1
    return result if isinstance(result, int) else 0


def _show(sentence: str, error: BaseException) -> None:
    """Print an error, and what went wrong on top of it while it was cleared up after."""
    click.echo(f"Error: {sentence}", err=True)
    for note in getattr(error, "__notes__", ()):
        click.echo(note, err=True)


def _place_of(error: Exception) -> str | None:
    """Return what to look at; None for a bug, which is shown with its traceback."""
    if _comes_from_the_store(error):
        return "the store or its disk"
    if isinstance(error, OSError) and error.errno in _OF_THE_MACHINE:
        return "a file outside the store, or its disk"
    return None


_OF_THE_MACHINE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)


def _comes_from_the_store(error: Exception) -> bool:
    """Tell a damaged file, a full disk or a missing folder from a bug, without importing the libraries that say so."""
    library = type(error).__module__.partition(".")[0]
    if isinstance(error, OSError):
        return _raised_in_store(error.__traceback__)
    if library in _DUCKDB and type(error).__name__ in ("IOException", "HTTPException"):
        return True
    # Of their other errors most are ours, but not those about a file that is damaged.
    return library in _DELTA or (library in (*_DUCKDB, "pyarrow") and "parquet" in str(error).lower())


_DELTA = ("_internal", "deltalake")  # delta-rs calls its errors' module _internal
_DUCKDB = ("duckdb", "_duckdb")
_OURS = ("featurestore", "classifiers", "xai", "jobs")


def _raised_in_store(trace: TracebackType | None) -> bool:
    """Return whether of our own code `featurestore.store` was the last to be called."""
    modules = [str(frame.f_globals.get("__name__")) for frame, _ in walk_tb(trace)]
    ours = [name for name in modules if name.partition(".")[0] in _OURS]
    return bool(ours) and ours[-1].startswith("featurestore.store")


def _asks_for_json(arguments: list[str] | None) -> bool:
    return "--json" in (sys.argv[1:] if arguments is None else arguments)
