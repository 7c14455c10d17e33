"""`cxr weights`, and `--weights NAME`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from featurestore.images.decode import read_image
from featurestore.images.preprocess import get_preprocess
from featurestore.store import Store

pytestmark = pytest.mark.slow  # imports whole networks

LABELS = ["Edema", "Fracture"]
FIELDS = {"name", "backbone", "variant", "sha256", "labels", "source"}
TINY, SECOND = "tests.tiny:TINY", "tests.tiny:SECOND"


def _file(path: Path, *, model: str = "test_byobnet", features: int = 256, seed: int = 0, **metadata: str) -> Path:
    torch.manual_seed(seed)
    state = dict(timm.create_model(model, pretrained=False, num_classes=0).state_dict())
    state |= {"cxr_head.weight": torch.randn(2, features) / 16, "cxr_head.bias": torch.randn(2)}
    save_file(state, path, {"labels": json.dumps(LABELS), **metadata})
    return path


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return _file(tmp_path / "mine.safetensors")


def _plain(file: Path, uris: list[str], size: int) -> tuple[np.ndarray, np.ndarray]:
    """Compute embeddings and probabilities with nothing of our networks: timm, safetensors, NumPy."""
    with safe_open(str(file), framework="pt") as opened:
        state = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    weight, bias = (state.pop(f"cxr_head.{name}").numpy() for name in ("weight", "bias"))
    model = timm.create_model("test_byobnet", pretrained=False, num_classes=0).eval()
    model.load_state_dict(state)
    grey = np.stack([get_preprocess("bilinear-v1").apply(read_image(uri).pixels, size) for uri in uris]) / 255.0
    mean, std = (np.array(n).reshape(3, 1, 1) for n in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        maps = model.forward_features(torch.from_numpy(((grey[:, None] - mean) / std).astype(np.float32)))
    pooled = maps.mean((2, 3)).numpy()
    return pooled, 1 / (1 + np.exp(-(pooled @ weight.T + bias)))


def test_a_name_gives_vectors_and_scores(cxr, ingested: Store, weights: Path) -> None:
    said = cxr("weights", "import", weights, "--name", "mine", "--backbone", TINY, "--store", ingested.uri, "--json")
    assert said.code == 0
    assert said.json.keys() >= FIELDS
    ask = ("--dataset", "demo", "--backbones", TINY, "--weights", "mine", "--size", 32)
    where = ("--no-ray", "--store", ingested.uri, "--json")
    done = cxr("extract", *ask, *where)
    assert (done.code, done.json["lost"], done.json["rejected"]) == (0, 0, 0)
    ids, X = ingested.matrix("tiny")
    uris = dict(zip(*ingested.query("SELECT image_id, uri FROM images").to_pydict().values(), strict=True))
    embeddings, probabilities = _plain(weights, [uris[i] for i in ids], 32)
    np.testing.assert_allclose(X, embeddings, rtol=1e-3, atol=1e-4)
    stored = ingested.query("SELECT label, probability FROM scores ORDER BY label, image_id").to_pydict()
    assert stored["label"] == [label for label in LABELS for _ in ids]
    np.testing.assert_allclose(stored["probability"], probabilities.T.ravel(), rtol=1e-3, atol=1e-4)
    (spec,) = ingested.query("SELECT weights, weights_sha256, weights_source FROM specs").to_pylist()
    assert spec == {"weights": "mine", "weights_sha256": said.json["sha256"], "weights_source": said.json["source"]}
    again = cxr("plan", *ask, *where)
    assert again.json["pending_pairs"] == 0
    image = cxr("why", ids[0], *ask[2:], *where)
    assert [row["state"] for row in image.json] == ["fresh"]
    checked = cxr("verify", "--sample", 3, *where)
    assert (checked.code, checked.json["recomputed"], checked.json["mismatched"]) == (0, 3, 0)


def test_list_show_export_and_import_again(cxr, tmp_path: Path, weights: Path) -> None:
    store = ("--store", tmp_path / "store")
    told = ("--source", "a hospital", "--licence", "CC BY 4.0", "--preprocess", "bilinear-v1 at 224 px")
    first = cxr("weights", "import", weights, "--name", "mine", "--backbone", TINY, *told, *store, "--json").json
    second = _file(tmp_path / "second.safetensors", model="test_resnet", features=96)
    cxr("weights", "import", second, "--name", "mine", "--backbone", SECOND, *store)
    rows = cxr("weights", "list", *store, "--json").json
    assert [(row["name"], row["backbone"], row["labels"]) for row in rows] == [
        ("mine", "second", LABELS), ("mine", "tiny", LABELS),
    ]  # fmt: skip
    shown = cxr("weights", "show", "mine", "--backbone", "tiny", *store, "--json").json
    assert shown == [{key: value for key, value in first.items() if key != "notes"}]
    assert (first["source"], first["licence"], first["preprocess"]) == (told[1], told[3], told[5])
    assert "a hospital" in cxr("weights", "show", "mine", *store).out
    out = tmp_path / "out" / "tiny.safetensors"
    assert "name one with --backbone" in cxr("weights", "export", "mine", "--out", out, *store).err
    exported = cxr("weights", "export", "mine", "--backbone", "tiny", "--out", out, *store, "--json").json
    assert (exported["path"], exported["bytes"]) == (str(out), out.stat().st_size)
    assert exported.keys() >= FIELDS
    again = cxr("weights", "import", out, "--name", "copy", "--backbone", TINY, *store, "--json").json
    assert again == first | {"name": "copy"}
    refused = cxr("weights", "export", "mine", "--backbone", "tiny", "--out", out, *store)
    assert (refused.code, "is there already" in refused.err) == (2, True)


def test_a_taken_name_keeps_its_weights(cxr, tmp_path: Path, weights: Path) -> None:
    store = ("--store", tmp_path / "store")
    ask = ("--name", "mine", "--backbone", TINY, *store)
    first = cxr("weights", "import", weights, *ask, "--json").json
    other = _file(tmp_path / "other.safetensors", seed=1)
    refused = cxr("weights", "import", other, *ask)
    assert refused.code == 2
    assert "'mine' of tiny are registered already, with other content; they are never overwritten" in refused.err
    assert "give another --name" in refused.err
    same = cxr("weights", "import", weights, *ask, "--json")
    assert (same.code, same.json["sha256"]) == (0, first["sha256"])
    assert "nothing was changed" in same.err
    assert [row["sha256"] for row in cxr("weights", "list", *store, "--json").json] == [first["sha256"]]
    assert len(list((tmp_path / "store" / "_weights").iterdir())) == 1


def test_a_backbone_that_a_name_lacks_is_named(cxr, ingested: Store, weights: Path) -> None:
    store = ("--store", ingested.uri)
    cxr("weights", "import", weights, "--name", "mine", "--backbone", TINY, *store)
    ask = ("plan", "--dataset", "demo", "--size", 32, "--no-ray", *store)
    lacks = cxr(*ask, "--backbones", f"{TINY},{SECOND}", "--weights", "mine")
    assert (lacks.code, "weights 'mine' lack second; they exist for tiny" in lacks.err) == (2, True)
    unknown = cxr(*ask, "--backbones", TINY, "--weights", "yours")
    assert (unknown.code, "no weights 'yours'" in unknown.err, "there are mine" in unknown.err) == (2, True, True)


BAD = {
    "architecture": (("--backbone", SECOND), "does not fit second: it lacks"),
    "labels": (("--backbone", TINY, "--labels", "a,b"), "its head's labels are Edema, Fracture; --labels a,b"),
    "name": (("--backbone", TINY, "--name", "imagenet"), "'imagenet'"),
    "several": (("--backbone", "all"), "--backbone 'all' means 7 networks"),
    "unknown": (("--backbone", "resnet"), "no backbone 'resnet'"),
}


@pytest.mark.parametrize(("flags", "words"), BAD.values(), ids=BAD)
def test_bad_input_leaves_nothing_behind(
    cxr, tmp_path: Path, weights: Path, flags: tuple[str, ...], words: str
) -> None:
    said = cxr("weights", "import", weights, "--name", "mine", *flags, "--store", tmp_path / "store")
    assert said.code == 2
    assert words in said.err
    assert not (tmp_path / "store").exists()


@pytest.mark.slow
def test_keras_weights_are_another_spec(cxr, ingested: Store, tmp_path: Path) -> None:
    """The same tensors in Keras' flavour give other vectors, and never stand under the same id."""
    torch.manual_seed(0)
    state = timm.create_model("legacy_xception", pretrained=False, num_classes=0).state_dict()
    specs, files = {}, {}
    for variant in ("timm", "keras"):
        files[variant] = tmp_path / f"{variant}_file.safetensors"
        save_file(state, files[variant], {"variant": variant})
        cxr("weights", "import", files[variant], "--name", variant, "--backbone", "xception", "--store", ingested.uri)
        ask = ("--dataset", "demo", "--backbones", "xception", "--size", 64, "--no-ray", "--store", ingested.uri)
        specs[variant] = cxr("extract", *ask, "--weights", variant, "--json").json["specs"]["xception"]
        # By path the file's own word counts: the same vectors, nothing to do.
        assert cxr("plan", *ask, "--weights", files[variant], "--json").json["pending_pairs"] == 0
    rows = {row["name"]: row for row in cxr("weights", "list", "--store", ingested.uri, "--json").json}
    assert rows["timm"]["sha256"] == rows["keras"]["sha256"]
    assert {name: row["variant"] for name, row in rows.items()} == {"timm": "timm", "keras": "keras"}
    X = {variant: ingested.matrix(spec)[1] for variant, spec in specs.items()}
    assert specs["timm"] != specs["keras"]
    assert np.abs(X["timm"] - X["keras"]).max() > 1e-3 * np.abs(X["timm"]).max()


@pytest.mark.slow
@pytest.mark.parametrize("point", ["_weights.half-written", "weights.in-commit"])
def test_a_killed_import_leaves_no_half_weights(cxr, tmp_path: Path, weights: Path, point: str) -> None:
    store = tmp_path / "store"
    ask = ["weights", "import", str(weights), "--name", "mine", "--backbone", TINY, "--store", str(store)]
    environment = os.environ | {"CXR_FAILPOINT": point, "CXR_FAILPOINT_LOG": str(tmp_path / "log")}
    script = "import sys; from jobs.cli.main import run; sys.exit(run(sys.argv[1:]))"
    killed = subprocess.run([sys.executable, "-c", script, *ask], env=environment, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert Store(store).query("SELECT name FROM weights").num_rows == 0
    done = cxr(*ask, "--json")
    assert done.code == 0
    kept = store / "_weights" / f"{done.json['sha256']}.safetensors"
    assert len(safe_open(str(kept), framework="pt").keys()) > 2
