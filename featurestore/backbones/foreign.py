"""State dicts made elsewhere: torch's .pt and .pth, and safetensors with whatever names. Imports torch.

Nothing is unpickled: `torch.load` with ``weights_only=True`` builds tensors and plain containers, and refuses the rest.
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from featurestore.backbones.catalogue import BackboneSpec
from featurestore.backbones.fits import check_fits
from featurestore.errors import UsageError

_WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
_PREFIXES = ("module.", "model.", "_orig_mod.")
_CLASSIFIERS = ("classifier", "fc", "classif", "last_linear", "head.fc", "head", "pre_logits")
_COUNTER = "num_batches_tracked"


def load_torch(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file that `torch.save` wrote, without running any code in it.

    Raises
    ------
    UsageError
        For a file that is none, that needs unpickling, or that holds no state dict.
    """
    try:
        with warnings.catch_warnings():
            # Said of plain pickles, right before they are refused.
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        message = (
            f"{path.name} holds more than tensors ({_reason(error)}); nothing is ever unpickled here, since that runs "
            "code: load it where it comes from and save model.state_dict(), or safetensors"
        )
        raise UsageError(message) from error
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        raise UsageError(f"{path.name} is not a readable torch file: {_reason(error)}") from error
    return _state_dict(content, path.name)


def _reason(error: Exception) -> str:
    text = str(error)
    start = text.find("Unsupported")
    return (text[start:] if start > 0 else text).strip().split("\n")[0][:160]


def _state_dict(content: Any, what: str) -> dict[str, Tensor]:
    for key in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(v, Tensor) for v in content.values()) or not content:
        message = f"{what} holds a {type(content).__name__} that is no state dict; save model.state_dict()"
        raise UsageError(message)
    return _without_prefix({str(name): tensor for name, tensor in content.items()})


def _without_prefix(state: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


@dataclass(frozen=True)
class Matched:
    """A network's state out of a foreign one.

    Parameters
    ----------
    state : dict of str to Tensor
    classifier : (Tensor, Tensor) or None
        Weight ``(n_outputs, n_features)`` and bias ``(n_outputs,)`` of the layer behind the pool.
    by_order : bool
        Whether the names were others and tensors were taken in order.
    left_out : str
        For a person: what else stood behind the features.
    """

    state: dict[str, Tensor]
    classifier: tuple[Tensor, Tensor] | None
    by_order: bool
    left_out: str


def match(spec: BackboneSpec, model: nn.Module, given: dict[str, Tensor], what: str) -> Matched:
    """Find a network's tensors among foreign ones: by timm's names, or else one after the other.

    In order means that number, shapes and the last parts of all names (``weight``, ``running_mean``, ...) agree.

    Raises
    ------
    UsageError
        Saying which tensor differs, and how.
    """
    own = model.state_dict()
    rest = dict(given)
    classifier = _take_classifier(spec, own, rest)
    behind = [name for name in rest if name not in own and name.startswith(tuple(f"{c}." for c in _CLASSIFIERS))]
    shapes = [f"{name} {tuple(rest.pop(name).shape)}" for name in behind]
    by_order = not _names_agree(own, rest) and _order_agrees(own, rest)
    state = dict(zip(own, rest.values(), strict=True)) if by_order else _counters_filled(own, rest)
    check_fits(spec, own, state, what)
    return Matched(state, classifier, by_order, ", ".join(shapes))


def _take_classifier(
    spec: BackboneSpec, own: Mapping[str, Tensor], given: dict[str, Tensor]
) -> tuple[Tensor, Tensor] | None:
    """Take the last layer out of ``given`` where the network has none of that name."""
    for name in _last_layer(given):
        weight, bias = given.get(f"{name}.weight"), given.get(f"{name}.bias")
        if weight is None or bias is None or f"{name}.weight" in own:
            continue
        if weight.ndim == 2 and weight.shape[1] == spec.n_features:
            del given[f"{name}.weight"], given[f"{name}.bias"]
            return weight, bias
    return None


def _last_layer(given: Mapping[str, Tensor]) -> list[str]:
    return [*_CLASSIFIERS, *(name.rpartition(".")[0] for name in list(given)[-1:])]


def _names_agree(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> bool:
    return any(name in given for name in own)


def _order_agrees(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> bool:
    if len(own) != len(given):
        return False
    pairs = zip(own.items(), given.items(), strict=True)
    return all(_last(a) == _last(b) and x.shape == y.shape for (a, x), (b, y) in pairs)


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _counters_filled(own: Mapping[str, Tensor], given: dict[str, Tensor]) -> dict[str, Tensor]:
    # How many batches a batch norm has seen changes nothing in inference, and older files do not say it.
    return {n: t for n, t in own.items() if _last(n) == _COUNTER} | given
