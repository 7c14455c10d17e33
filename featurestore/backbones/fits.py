"""Whether tensors fit a network, and in words where they do not. Imports torch."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from featurestore.backbones.catalogue import BackboneSpec
from featurestore.errors import UsageError


def check_fits(spec: BackboneSpec, own: Mapping[str, Tensor], given: Mapping[str, Tensor], what: str) -> None:
    """Compare names, shapes and values.

    Parameters
    ----------
    spec : BackboneSpec
    own, given : mapping of str to Tensor
        The network's state and the one that is to replace it.
    what : str
        For a person: the file.

    Raises
    ------
    UsageError
        Naming how many tensors differ and how the first one does.
    """
    problems = (
        ("lacks", [n for n in own if n not in given], ""),
        ("has unknown", [n for n in given if n not in own], ""),
        *_shapes(own, given),
        ("has NaN or infinite", [n for n, t in given.items() if not finite(t)], ""),
    )
    for problem, names, how in problems:
        if names:
            message = f"{what} does not fit {spec.name}: it {problem} {len(names)} tensors, first {names[0]!r}{how}"
            raise UsageError(message)


def finite(tensor: Tensor) -> bool:
    """Return whether every number is finite."""
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())


def _shapes(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[tuple[str, list[str], str]]:
    names = [n for n in own if n in given and own[n].shape != given[n].shape]
    if not names:
        return []
    found, expected = tuple(given[names[0]].shape), tuple(own[names[0]].shape)
    return [("has another shape of", names, f": {found}, expected {expected}")]
