"""From an image to a stored vector, and back out by SQL.

Importing this package loads neither torch, Ray nor scikit-learn; `Store` and `connect` are loaded on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from featurestore.store import Store, connect

__all__ = ["Store", "connect"]


def __getattr__(name: str) -> object:
    if name in __all__:
        from featurestore import store

        return getattr(store, name)
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)
