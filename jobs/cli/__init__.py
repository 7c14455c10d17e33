"""The command line: one module a command, loaded only when it is used."""

from __future__ import annotations

from jobs.cli.main import main

__all__ = ["main"]
