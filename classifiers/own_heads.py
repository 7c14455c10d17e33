"""Heads of one's own: any factory of a scikit-learn-compatible classifier, by dotted path or entry point."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import Any, Literal

from classifiers.heads import HEADS, Estimator, HeadSpec
from featurestore.dotted import load_attribute
from featurestore.errors import UsageError
from featurestore.names import check_name

GROUP = "cxrstore.heads"
"""Entry points under which an installed package offers factories: ``name = "module:factory"``."""


def find_head(name: str) -> HeadSpec:
    """Return the head that a factory makes.

    Parameters
    ----------
    name : str
        ``module:factory``, found from the working folder too, or an entry point of the group ``cxrstore.heads``. The
        factory is called with ``seed`` and ``n_jobs`` if it takes them. It is fitted once for each label, on X
        ``(n_images, n_features)`` float32 and y of 0 and 1; with ``factory.multi_output = True`` once for all, on y
        ``(n_images, n_labels)``.

    Raises
    ------
    UsageError
        If there is no such head, or it is no function whose name could name one.
    """
    installed = {point.name: point for point in entry_points(group=GROUP)}
    if ":" in name:
        factory, short = load_attribute(name, "--heads"), name.partition(":")[2]
    elif name in installed:
        factory, short = installed[name].load(), name
    else:
        more = f", {', '.join(installed)}" if installed else ""
        raise UsageError(f"no head {name!r}; choose among {', '.join(HEADS)}{more}, or give module:factory")
    if not callable(factory):
        raise UsageError(f"head {name!r} is a {type(factory).__name__}; give a function that returns a classifier")
    check_name(short, "head")
    if short in HEADS:
        raise UsageError(f"head {name!r} has the name of a shipped one; call the function otherwise")
    unit: Literal["probability", "log-odds"] = getattr(factory, "unit", "probability")
    multi_output = bool(getattr(factory, "multi_output", False))
    return HeadSpec(short, _adapted(factory), MappingProxyType({}), multi_output, unit, source=_digest(factory))


def _digest(factory: Callable[..., Any]) -> str:
    """Return a hash of the factory's own code; what it calls is not looked into."""
    try:
        return hashlib.sha256(inspect.getsource(factory).encode()).hexdigest()
    except (OSError, TypeError):  # typed at a prompt, or built in
        return ""


def _adapted(factory: Callable[..., Any]) -> Callable[..., Estimator]:
    """Return a factory that takes seed and n_jobs whether or not the given one does."""
    try:
        parameters = list(inspect.signature(factory).parameters.values())
    except (TypeError, ValueError):  # of something built in
        parameters = []
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    taken = {parameter.name for parameter in parameters}

    def make(**settings: Any) -> Estimator:
        made: Estimator = factory(**{k: v for k, v in settings.items() if takes_all or k in taken})
        return made

    return make
