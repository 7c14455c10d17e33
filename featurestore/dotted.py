"""A user's own objects, named by a dotted path such as ``my_module:MY_SPEC``."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from featurestore.errors import UsageError


def load_attribute(path: str, what: str) -> object:
    """Import ``module:attribute``; the working folder is searched too, as ``python -m`` does.

    Raises
    ------
    UsageError
        If the module cannot be imported or lacks the attribute; says what Python said.
    """
    module_name, _, attribute = path.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        message = f"{what} {path!r}: module {module_name!r} cannot be imported from {here} ({error})"
        raise UsageError(message) from error
    if not hasattr(module, attribute):
        message = f"{what} {path!r}: module {module_name!r} has no {attribute!r}"
        raise UsageError(message)
    found: object = getattr(module, attribute)
    return found
