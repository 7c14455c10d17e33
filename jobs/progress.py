"""Progress bars with rate and remaining time: on a terminal only, silent when piped."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Never

from tqdm import tqdm


@contextmanager
def progress(description: str, total: int | None, unit: str) -> Iterator[tqdm[Never]]:
    """Yield a bar on stderr; it draws nothing where stderr is not a terminal."""
    with tqdm(
        total=total, desc=description, unit=f" {unit}", disable=not sys.stderr.isatty(), dynamic_ncols=True
    ) as bar:
        yield bar
