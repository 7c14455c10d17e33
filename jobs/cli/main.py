"""`cxr`: finds the command, and turns every error into one sentence and the exit code of the README."""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext
from importlib import import_module
from typing import Any

import click

from featurestore.errors import CxrError
from jobs.cli.output import stdout_for_json_only

COMMANDS = ("ingest", "plan", "extract", "split", "train", "evaluate", "report", "sql", "run", "demo")


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
        click.echo(f"Error: {error}", err=True)
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return 2
    except (KeyboardInterrupt, click.Abort):
        click.echo("Interrupted. What was committed is kept; the same command goes on from there.", err=True)
        return 130
    except Exception as error:
        if not _comes_from_the_store(error):
            raise
        click.echo(f"Error: the store or its disk: {type(error).__name__}: {error}", err=True)
        return 1
    return result if isinstance(result, int) else 0


def _comes_from_the_store(error: Exception) -> bool:
    """Tell a damaged file, a full disk or a missing folder from a bug, without importing the libraries that say so."""
    return isinstance(error, OSError) or type(error).__module__.partition(".")[0] in _STORE_LIBRARIES


_STORE_LIBRARIES = {"_internal", "deltalake", "duckdb", "_duckdb"}  # delta-rs calls its errors' module _internal


def _asks_for_json(arguments: list[str] | None) -> bool:
    return "--json" in (sys.argv[1:] if arguments is None else arguments)
