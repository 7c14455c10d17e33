"""State dicts made elsewhere: matched by name or by order, nothing unpickled."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from featurestore.backbones.importing import import_file
from featurestore.backbones.variants import build
from featurestore.errors import UsageError
from tests.tiny import SECOND, TINY


def _state() -> dict[str, Tensor]:
    torch.manual_seed(3)
    return dict(build(TINY).state_dict())


def _renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return OrderedDict((f"_{name.replace('.', '__', 1)}", tensor) for name, tensor in state.items())


FORMS = {
    "plain": lambda s: s,
    "wrapped": lambda s: {"state_dict": s, "epoch": 3},
    "parallel": lambda s: {f"module.{name}": tensor for name, tensor in s.items()},
    "renamed": _renamed,
    "no-counters": lambda s: {n: t for n, t in s.items() if not n.endswith("num_batches_tracked")},
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_state_dict_is_found_in_every_form(tmp_path: Path, form: object) -> None:
    state = _state()
    torch.save(form(state), tmp_path / "w.pt")  # type: ignore[operator]
    found = import_file(TINY, tmp_path / "w.pt")
    assert all(torch.equal(tensor, state[name]) for name, tensor in found.network.features.state_dict().items())
    assert found.notes == (["its tensors have other names than timm's: taken in order, all shapes fit"]
                           if form is _renamed else [])  # fmt: skip


def test_a_classifier_becomes_the_head_once_its_labels_are_named(tmp_path: Path) -> None:
    weight, bias = torch.randn(3, TINY.n_features), torch.randn(3)
    torch.save(_renamed(_state()) | {"_fc.weight": weight, "_fc.bias": bias}, tmp_path / "w.pth")
    found = import_file(TINY, tmp_path / "w.pth", ["a", "b", "c"])
    assert found.network.labels == ["a", "b", "c"]
    assert found.network.head is not None
    assert torch.equal(found.network.head.weight, weight)
    assert torch.equal(found.network.head.bias, bias)
    left = import_file(TINY, tmp_path / "w.pth")
    assert left.network.head is None
    assert any("head of 3 outputs, whose labels are unknown" in note for note in left.notes)


def test_order_counts_only_where_kinds_agree(tmp_path: Path) -> None:
    """Four vectors of a batch norm have one shape: swapped, they fit and compute nonsense."""
    names = list(_renamed(_state()))
    k = next(i for i, name in enumerate(names) if name.endswith("running_mean"))
    names[k], names[k + 1] = names[k + 1], names[k]
    torch.save(dict(zip(names, _state().values(), strict=True)), tmp_path / "w.pt")
    with pytest.raises(UsageError, match=r"w\.pt does not fit tiny: it lacks \d+ tensors"):
        import_file(TINY, tmp_path / "w.pt")


def test_another_architecture_and_another_shape_are_named(tmp_path: Path) -> None:
    torch.save(_state(), tmp_path / "w.pt")
    with pytest.raises(UsageError, match=r"w\.pt does not fit second: it lacks \d+ tensors, first '"):
        import_file(SECOND, tmp_path / "w.pt")
    state = _state()
    name = next(iter(state))
    shape, wider = tuple(state[name].shape), tuple(torch.cat([state[name]] * 2).shape)
    save_file(state | {name: torch.cat([state[name]] * 2)}, tmp_path / "w.safetensors")
    words = rf"another shape of 1 tensors, first '{name}': {wider}, expected {shape}"
    with pytest.raises(UsageError, match=words.replace("(", r"\(").replace(")", r"\)")):
        import_file(TINY, tmp_path / "w.safetensors")


def test_nan_is_refused(tmp_path: Path) -> None:
    state = _state()
    name = next(iter(state))
    torch.save(state | {name: torch.full_like(state[name], float("nan"))}, tmp_path / "w.pt")
    with pytest.raises(UsageError, match=f"NaN or infinite 1 tensors, first '{name}'"):
        import_file(TINY, tmp_path / "w.pt")


class _Evil:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.target,))


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    target = tmp_path / "ran"
    torch.save({"state_dict": _state(), "optimizer": _Evil(target)}, tmp_path / "evil.pt")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(_Evil(target)))
    torch.save(build(TINY), tmp_path / "whole.pt")
    for name in ("evil.pt", "plain.pth", "whole.pt"):
        with pytest.raises(UsageError, match=rf"{name} holds more than tensors .*nothing is ever unpickled"):
            import_file(TINY, tmp_path / name)
    assert not target.exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([torch.zeros(2)], "holds a list that is no state dict"),
        ({"a": 1}, "holds a dict that is no state dict"),
        ({}, "holds a dict that is no state dict"),
    ],
)
def test_what_is_no_state_dict_is_refused(tmp_path: Path, content: object, words: str) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(UsageError, match=words):
        import_file(TINY, tmp_path / "w.pt")


def test_cut_off_files_are_refused(tmp_path: Path) -> None:
    torch.save(_state(), tmp_path / "w.pt")
    save_file(_state(), tmp_path / "w.safetensors")
    for name, words in (("w.pt", "not a readable torch file"), ("w.safetensors", "not a readable safetensors file")):
        path = tmp_path / name
        path.write_bytes(path.read_bytes()[:5000])
        with pytest.raises(UsageError, match=words):
            import_file(TINY, path)
