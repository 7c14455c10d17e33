"""Names that become folders, views and columns."""

from __future__ import annotations

import re

from featurestore.backbones.catalogue import CATALOGUE
from featurestore.errors import UsageError
from featurestore.store.schema import TABLES

_NAME = re.compile(r"[a-z0-9_]{1,64}")


def check_name(name: str, what: str) -> str:
    """Return ``name`` if it can name a ``what``.

    Raises
    ------
    UsageError
        Unless it is 1 to 64 of ``[a-z0-9_]`` and no table's or backbone's name.
    """
    if not _NAME.fullmatch(name):
        message = f"{what} {name!r}: 1 to 64 lower-case letters, digits and '_' only, such as nih_2017"
        raise UsageError(message)
    if name in TABLES or (what != "backbone" and name in CATALOGUE):
        message = f"{what} {name!r}: that is the name of a view; choose another"
        raise UsageError(message)
    return name
