"""Runtimes compute what eager PyTorch computes, or are not used; trying them costs only where it can pay."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from featurestore.backbones.network import load_network
from featurestore.backbones.runtimes import Choice, build, choose, kind_of
from featurestore.backbones.runtimes.base import Setting, Unavailable, in_batches
from featurestore.backbones.runtimes.build import build_runtime, trial_images
from featurestore.backbones.weights import WeightsRequest
from tests.tiny import TINY

CPU = torch.device("cpu")


@pytest.fixture
def setting(tmp_path) -> Setting:
    """Return a small setting with a cache of its own."""
    (tmp_path / "cache").mkdir()
    return Setting(size=48, batch=4, threads=1, cache=tmp_path / "cache")


@pytest.fixture(scope="module")
def network():
    """Return the tiny network as workers hold it."""
    return load_network(TINY, WeightsRequest("random", seed=0)).network.to(memory_format=torch.channels_last)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["compiled", "openvino"])
def test_a_runtime_computes_what_eager_pytorch_computes(kind, network, setting):
    if kind == "openvino":
        pytest.importorskip("openvino", reason="the extra cxrstore[openvino] is not installed")
    grey = np.random.default_rng(0).integers(0, 256, (6, 48, 48)).astype(np.uint8)
    with torch.inference_mode():
        expected = network(torch.from_numpy(grey))[0].numpy()
    scale = np.abs(expected).max()
    runtime = build_runtime(kind, network, CPU, setting)
    assert kind_of(runtime.name) == kind
    for images in (1, 4, 6):  # less than a batch, one, and more
        found = runtime(grey[:images])
        assert (found.shape, found.dtype) == ((images, TINY.n_features), np.float32)
        np.testing.assert_allclose(found, expected[:images], rtol=0, atol=1e-5 * scale)


@pytest.mark.slow
def test_a_result_is_not_overwritten_by_the_next_batch(network, setting):
    pytest.importorskip("openvino", reason="the extra cxrstore[openvino] is not installed")
    runtime = build_runtime("openvino", network, CPU, setting)
    grey = trial_images(8, 48)
    first = runtime(grey[:4])
    kept = first.copy()
    runtime(grey[4:])
    np.testing.assert_array_equal(first, kept)


@pytest.mark.slow
def test_openvino_cannot_report_to_anybody(network, tmp_path):
    pytest.importorskip("openvino", reason="the extra cxrstore[openvino] is not installed")
    code = f"""
import socket, sys
def refuse(*arguments): raise AssertionError(f"a connection to {{arguments[1:]}} was tried")
socket.socket.connect = socket.socket.connect_ex = refuse
from pathlib import Path
import torch
from featurestore.backbones.network import load_network
from featurestore.backbones.runtimes.base import Setting
from featurestore.backbones.runtimes.build import build_runtime
from featurestore.backbones.weights import WeightsRequest
from tests.tiny import TINY
network = load_network(TINY, WeightsRequest("random", seed=0)).network
print(build_runtime("openvino", network, torch.device("cpu"), Setting(48, 2, 1, Path({str(tmp_path)!r}))).name)
assert sys.modules["openvino_telemetry"] is None
assert not any(name.startswith("openvino_telemetry.") for name in sys.modules)
"""
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("OpenVINO 20")


def test_a_runtime_that_computes_something_else_is_not_used(network, setting, monkeypatch):
    class Wrong:
        name = "torch.compile of some version"

        def __call__(self, grey):
            with torch.inference_mode():
                return network(torch.from_numpy(grey))[0].numpy() * np.float32(1.001)

    monkeypatch.setitem(build._BUILDERS, "compiled", lambda *arguments: Wrong())
    with pytest.raises(Unavailable, match=r"features differ from eager PyTorch's by 1\.0e-03 of the largest"):
        build_runtime("compiled", network, CPU, setting)


def test_a_missing_compiler_is_said(network, setting, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(Unavailable, match="no C\\+\\+ compiler"):
        build_runtime("compiled", network, CPU, setting)


def test_a_broken_compiler_leaves_eager_pytorch(network, setting, monkeypatch):
    def broken(*arguments):
        message = "InductorError: C++ compile error\n  /bin/false"
        raise RuntimeError(message)

    monkeypatch.setitem(build._BUILDERS, "compiled", broken)
    with pytest.raises(Unavailable, match=r"cannot be built: RuntimeError: InductorError: C\+\+ compile error$"):
        build_runtime("compiled", network, CPU, setting)


def test_batches_are_filled_up_and_cut_again():
    seen = []

    def run(grey):
        seen.append(grey[:, 0, 0].tolist())
        return grey[:, :1, 0].astype(np.float32)

    grey = np.arange(5, dtype=np.uint8)[:, None, None].repeat(2, 1).repeat(2, 2)
    assert in_batches(run, grey, 2)[:, 0].tolist() == [0, 1, 2, 3, 4]
    assert seen == [[0, 1], [2, 3], [4, 4]]


def test_few_images_are_not_worth_a_trial(network, setting, monkeypatch):
    tried = []
    monkeypatch.setattr(choose, "_try", lambda kind, *rest: tried.append(kind) or choose.Trial(0.1, 0.0, 0.0))
    chosen = choose.choose_runtime(network, "s1", CPU, setting, images=100)
    assert (tried, chosen.kind, chosen.pays_from) == (["eager"], "eager", None)
    # What is known is not measured again.
    choose.choose_runtime(network, "s1", CPU, setting, images=100)
    assert tried == ["eager"]


TRIALS = {
    "eager": choose.Trial(0.1),
    "openvino": choose.Trial(0.08, cold_seconds=20, warm_seconds=2),
    "compiled": choose.Trial(0.05, cold_seconds=100, warm_seconds=50),
}


@pytest.mark.parametrize(
    ("images", "kind", "pays_from"),
    [(4_000, "compiled", 2_000), (6_000, "compiled", 2_000), (1_000, "openvino", 1_000)],
)
def test_the_runtime_that_ends_first_is_taken(images, kind, pays_from, network, setting, monkeypatch):
    monkeypatch.setattr(choose, "_TRIAL_SECONDS", {"openvino": 1.0, "compiled": 1.0})
    monkeypatch.setattr(choose, "_try", lambda kind, *rest: TRIALS[kind])
    chosen = choose.choose_runtime(network, "s1", CPU, setting, images)
    assert (chosen.kind, chosen.pays_from) == (kind, pays_from)


def test_another_setting_is_tried_anew(network, setting, monkeypatch):
    tried = []
    monkeypatch.setattr(choose, "_try", lambda kind, *rest: tried.append(kind) or choose.Trial(0.1))
    for threads in (1, 2, 1):
        choose.choose_runtime(network, "s1", CPU, replace(setting, threads=threads), images=1)
    assert len(tried) == 2


def test_an_unavailable_runtime_is_noted_and_not_tried_again(network, setting, monkeypatch):
    monkeypatch.setattr(choose, "_TRIAL_SECONDS", {"openvino": 0.0, "compiled": 0.0})
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setitem(sys.modules, "openvino", None)
    chosen = choose.choose_runtime(network, "s1", CPU, setting, images=10)
    assert chosen.kind == "eager"
    assert chosen.notes == (
        "openvino: OpenVINO is not installed; pip install 'cxrstore[openvino]'",
        "compiled: no C++ compiler (g++ or clang++) on the PATH",
    )
    monkeypatch.setattr(choose, "_try", None)
    assert choose.choose_runtime(network, "s1", CPU, setting, images=10).notes == chosen.notes


def test_a_choice_reads_as_a_sentence():
    choice = Choice("vgg16", "s1", "openvino", 0.2, 0.16, cold_seconds=20.4, pays_from=511, notes=("compiled: no",))
    assert choice.sentence() == (
        "vgg16: openvino, 6.2 images/s, 1.25 x eager; 20 s to build, pays from 511 images (compiled: no)"
    )


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("eager channels_last float32, torch 2.14.1, cpu", "eager"),
        ("torch.compile frozen float32, torch 2.14.1, cpu", "compiled"),
        ("OpenVINO 2026.4.1 float32, cpu", "openvino"),
        ("something of the future", "eager"),
    ],
)
def test_a_runtime_is_known_by_its_name(name, kind):
    assert kind_of(name) == kind
