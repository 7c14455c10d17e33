"""Which weights a user asked for: ``imagenet``, ``random:SEED``, a NAME of the store's registry, or a path.

Parsed without torch; never a fallback.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from featurestore.backbones.catalogue import BackboneSpec, parse_backbones
from featurestore.errors import UsageError

_RANDOM = re.compile(r"random:(\d{1,9})")
# A bare word is a name and never a path, so that a folder that happens to be there changes nothing.
_NAME = re.compile(r"[a-z0-9_]{1,64}")
_CHOICES = (
    "imagenet, random:SEED (such as random:0), a name from cxr weights list, a .safetensors file, or a folder of "
    "<backbone>.safetensors"
)


@dataclass(frozen=True)
class WeightsRequest:
    """Weights for one backbone, as asked for.

    Parameters
    ----------
    kind : {"imagenet", "random", "registered", "file"}
    seed : int
        For ``random``.
    path : str
        For ``file``: absolute. For ``registered``: below the store's root; empty until the registry was asked.
    given : str
        For ``file``: the last part of the path that was given, so that all files of a folder share a name. For
        ``registered``: the name.
    """

    kind: Literal["imagenet", "random", "registered", "file"]
    seed: int = 0
    path: str = ""
    given: str = ""

    @property
    def name(self) -> str:
        """Return how tables name these weights: ``imagenet``, ``random:SEED``, a registered name, ``file:`` and a name.

        An ensemble is taken over networks whose weights have one name. No file can be named like another kind.
        """
        if self.kind == "random":
            return f"random:{self.seed}"
        return {"file": f"file:{self.given}", "registered": self.given}.get(self.kind, self.kind)

    @property
    def cacheable(self) -> bool:
        """Return whether name and libraries fix the weights, so that a fingerprint need not be computed again."""
        return self.kind in ("imagenet", "random")


def parse_weights(text: str, backbones: list[BackboneSpec]) -> dict[str, WeightsRequest]:
    """Read ``--weights`` for some backbones.

    Parameters
    ----------
    text : str
        ``imagenet``, ``random:SEED``, a registered name, or the path of a file (one backbone) or a folder (several). A
        file or folder whose name could be a weights' name is given as ``./NAME``.
    backbones : list of BackboneSpec

    Returns
    -------
    dict of str to WeightsRequest
        By backbone name.

    Raises
    ------
    UsageError
        If it is none of these, or the folder lacks a backbone's file.
    """
    if text == "imagenet":
        return {b.name: WeightsRequest("imagenet") for b in backbones}
    if match := _RANDOM.fullmatch(text):
        return {b.name: WeightsRequest("random", seed=int(match[1])) for b in backbones}
    if is_weights_name(text):
        return {b.name: WeightsRequest("registered", given=text) for b in backbones}
    path = Path(text).expanduser().absolute()
    if path.is_dir():
        return {b.name: _in_folder(path, b) for b in backbones}
    if path.is_file():
        return _single_file(path, backbones)
    message = f"--weights {text!r}: neither a known source nor a path that exists; give {_CHOICES}"
    raise UsageError(message)


def is_weights_name(text: str) -> bool:
    """Return whether ``text`` can name registered weights: 1 to 64 of ``[a-z0-9_]``, and no other source's name."""
    return bool(_NAME.fullmatch(text)) and text not in ("imagenet", "random")


def weights_name(text: str, backbones: str) -> str:
    """Return the one name that weights asked for on the command line have in tables (a path is not one)."""
    return next(iter(parse_weights(text, parse_backbones(backbones)).values())).name


def _in_folder(folder: Path, backbone: BackboneSpec) -> WeightsRequest:
    path = folder / f"{backbone.name}.safetensors"
    if not path.is_file():
        message = f"--weights {folder}: no {path.name} in it; add the file, or leave {backbone.name} out of --backbones"
        raise UsageError(message)
    return WeightsRequest("file", path=str(path), given=folder.name)


def _single_file(path: Path, backbones: list[BackboneSpec]) -> dict[str, WeightsRequest]:
    if path.suffix != ".safetensors":
        message = (
            f"--weights {path.name}: only .safetensors files are read; nothing is ever unpickled. cxr weights import "
            "takes Keras' .hdf5 and torch's .pt, and the name given there goes here"
        )
        raise UsageError(message)
    if len(backbones) != 1:
        message = f"--weights {path.name}: one file serves one backbone, not {len(backbones)}; give --backbones NAME"
        raise UsageError(message)
    return {backbones[0].name: WeightsRequest("file", path=str(path), given=path.stem)}
