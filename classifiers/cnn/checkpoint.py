"""Checkpoints in the store: tensors as safetensors, all else as JSON; nothing is pickled.

A checkpoint counts once `state.json` names it, so a death in between leaves the one before it.
"""

from __future__ import annotations

from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from classifiers.cnn.records import RunState, folder, read_state, sha256, write_state
from featurestore import failpoints
from featurestore.errors import HarmError
from featurestore.store.location import Location

Tensors = dict[str, Tensor]


class Checkpoints:
    """The checkpoints of one backbone in one run.

    Parameters
    ----------
    location : Location
    name, backbone : str
    """

    def __init__(self, location: Location, name: str, backbone: str) -> None:
        self._location, self._name, self._backbone = location, name, backbone
        self._folder = folder(name, backbone)

    def state(self) -> RunState | None:
        """Return where the run stands."""
        return read_state(self._location, self._name, self._backbone)

    def note(self, state: RunState) -> None:
        """Write where the run stands."""
        write_state(self._location, self._name, self._backbone, state)

    def save(self, state: RunState, network: Tensors, adam: dict[str, Any], *, best: bool = False) -> None:
        """Write the tensors after an epoch, then the state that names them, then remove those that it names no more.

        Parameters
        ----------
        state : RunState
        network : dict of str to Tensor
            ``state_dict`` of the network.
        adam : dict
            ``state_dict`` of the optimiser.
        best : bool
            Keep this epoch until a better one.
        """
        before = _named(state)
        tensors = {f"network.{name}": tensor for name, tensor in network.items()} | _flat(adam)
        content = save(_on_cpu(tensors))
        state.checkpoint = _file(len(state.history))
        state.checkpoint_sha256 = sha256(content)
        if best:
            state.best, state.best_sha256 = len(state.history), state.checkpoint_sha256
        self._location.write_bytes(f"{self._folder}/{state.checkpoint}", content)
        failpoints.reach("train.half-checkpoint")
        self.note(state)
        for file in before - _named(state):
            self._location.remove(f"{self._folder}/{file}")
        failpoints.reach("train.after-checkpoint")

    def load(self, state: RunState) -> tuple[Tensors, dict[int, Tensors]]:
        """Read the last checkpoint.

        Returns
        -------
        network : dict of str to Tensor
        adam : dict of int to dict
            The optimiser's ``state`` by parameter.

        Raises
        ------
        HarmError
            If it is not what was written.
        """
        tensors = self._read(state.checkpoint, state.checkpoint_sha256)
        return _network(tensors), _nested(tensors)

    def load_best(self, state: RunState) -> Tensors:
        """Read the network of the best epoch.

        Raises
        ------
        HarmError
            If its checkpoint is not what was written.
        """
        return _network(self._read(_file(state.best), state.best_sha256))

    def _read(self, file: str, expected: str) -> Tensors:
        path = f"{self._folder}/{file}"
        content = self._location.read_bytes(path) if self._location.size(path) is not None else b""
        if sha256(content) != expected:
            message = (
                f"checkpoint {path} has SHA-256 {sha256(content)[:12]}, {expected[:12]} was written; "
                f"put it back, or remove the folder {self._folder} to begin anew"
            )
            raise HarmError(message)
        return load(content)

    def finish(self, state: RunState, content: bytes, fingerprint: str) -> None:
        """Write the trained network's file, note that it is finished, and remove the checkpoints."""
        before = _named(state)
        state.weights, state.weights_sha256 = "network.safetensors", fingerprint
        self._location.write_bytes(f"{self._folder}/{state.weights}", content)
        state.checkpoint = state.best_sha256 = ""
        self.note(state)
        for file in before:
            self._location.remove(f"{self._folder}/{file}")


def check_finite(tensors: Tensors) -> list[str]:
    """Return the names of tensors that hold NaN or infinities."""
    return [name for name, t in tensors.items() if t.is_floating_point() and not bool(torch.isfinite(t).all())]


def _file(epoch: int) -> str:
    return f"epoch-{epoch:04d}.safetensors"


def _named(state: RunState) -> set[str]:
    """Return the checkpoints that a state names."""
    return ({state.checkpoint} if state.checkpoint else set()) | ({_file(state.best)} if state.best_sha256 else set())


def _network(tensors: Tensors) -> Tensors:
    return {name.removeprefix("network."): t for name, t in tensors.items() if name.startswith("network.")}


def _on_cpu(tensors: Tensors) -> Tensors:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _flat(adam: dict[str, Any]) -> Tensors:
    return {f"adam.{i}.{name}": tensor for i, state in adam["state"].items() for name, tensor in state.items()}


def _nested(tensors: Tensors) -> dict[int, Tensors]:
    found: dict[int, Tensors] = {}
    for name, tensor in tensors.items():
        if name.startswith("adam."):
            _, index, key = name.split(".")
            found.setdefault(int(index), {})[key] = tensor
    return found
