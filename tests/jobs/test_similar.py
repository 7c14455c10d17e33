"""`cxr similar`, from an image's name to its neighbours."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from featurestore.store import Store

KEYS = [f"{letter}.png" for letter in "abcd"]
IDS = [f"{k}" * 64 for k in range(4)]


@pytest.fixture(scope="module")
def _stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write four images of two data sets that share a key; vectors of one spec of vgg16 and two of xception."""
    root = tmp_path_factory.mktemp("similar") / "store"
    store = Store(root)
    keys, datasets = [*KEYS[:3], KEYS[0]], ["demo"] * 3 + ["other"]
    store.append("images", pa.table({"image_id": IDS, "dataset": datasets, "source_key": keys}))
    specs = {"s1": "vgg16", "s2": "xception", "s3": "xception", "s4": "vgg19"}
    lengths = pa.array([2] * len(specs), pa.int32())
    columns = {"spec_id": list(specs), "backbone": list(specs.values()), "n_features": lengths}
    store.append("specs", pa.table(columns))
    X = np.array([[1, 0], [1, 0.1], [-1, 0], [0, 2]], np.float32)
    for spec_id in ("s1", "s2", "s3"):
        rows = {
            "backbone": [specs[spec_id]] * 3, "spec_id": [spec_id] * 3, "image_id": [IDS[0], IDS[1], IDS[3]],
            "embedding": pa.array(list(X[[0, 1, 3]]), pa.list_(pa.float32())),
        }  # fmt: skip
        store.append("embeddings", pa.table(rows))
    return root


@pytest.fixture
def stored(_stored: Path, tmp_path: Path) -> Path:
    shutil.copytree(_stored, tmp_path / "store")
    return tmp_path / "store"


def test_rows_as_pinned(stored: Path, cxr: Callable[..., Any]) -> None:
    said = cxr("similar", IDS[0], "--backbone", "vgg16", "-k", "5", "--store", stored, "--json")
    assert said.code == 0, said.err
    assert [row["image_id"] for row in said.json] == [IDS[1], IDS[3]]
    assert [row["similarity"] for row in said.json] == pytest.approx([1 / np.sqrt(1.01), 0], abs=1e-6)
    assert [(row["dataset"], row["source_key"]) for row in said.json] == [("demo", "b.png"), ("other", "a.png")]


def test_k_limits_and_a_person_sees_keys(stored: Path, cxr: Callable[..., Any]) -> None:
    said = cxr("similar", "b.png", "--backbone", "vgg16", "-k", "1", "--store", stored)
    assert said.code == 0, said.err
    lines = said.out.splitlines()
    assert lines[0].split() == ["image_id", "similarity", "dataset", "source_key"]
    assert lines[2].split() == [IDS[0], "0.995", "demo", "a.png"]
    assert len(lines) == 3


def test_the_spec_chooses(stored: Path, cxr: Callable[..., Any]) -> None:
    for choice in (("--spec", "s2"), ("--backbone", "xception", "--spec", "s2"), ("--backbone", "s2")):
        said = cxr("similar", "000000", *choice, "--store", stored, "--json")
        assert [row["image_id"] for row in said.json] == [IDS[1], IDS[3]], said.err


def test_the_data_set_tells_equal_keys_apart(stored: Path, cxr: Callable[..., Any]) -> None:
    about = ("--backbone", "vgg16", "--store", stored, "--json")
    assert cxr("similar", "a.png", *about).code == 2
    said = cxr("similar", "a.png", "--dataset", "other", *about)
    assert [row["image_id"] for row in said.json] == [IDS[1], IDS[0]]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("000000",), "which vectors? give --backbone NAME"),
        (("nobody", "--backbone", "vgg16"), "no image 'nobody' in the store"),
        (("a.png", "--backbone", "vgg16"), "'a.png' means 2 images"),
        (("c.png", "--backbone", "vgg16"), "has no finite vector of spec 's1'; ask cxr why"),
        (("b.png", "--backbone", "resnet"), "no backbone or spec 'resnet' here; there is ['vgg16', 'vgg19', 'xcep"),
        (("b.png", "--backbone", "vgg19"), "spec 's4' has no vectors; run cxr extract first"),
        (("b.png", "--backbone", "xception"), "'xception' has 2 specs: ['s2', 's3']; name one"),
        (("b.png", "--backbone", "vgg16", "--spec", "s2"), "--spec s2 is of backbone 'xception', not 'vgg16'"),
        (("b.png", "--backbone", "vgg16", "-k", "0"), "-k"),
    ],
)
def test_what_cannot_be_answered_is_told(
    stored: Path, cxr: Callable[..., Any], arguments: tuple[str, ...], words: str
) -> None:
    said = cxr("similar", *arguments, "--store", stored)
    assert said.code == 2
    assert words in said.err


def test_forgetting_takes_the_cache_along(stored: Path, cxr: Callable[..., Any]) -> None:
    about = ("similar", "b.png", "--backbone", "vgg16", "--store", stored, "--json")
    assert len(cxr(*about).json) == 2
    assert list(stored.rglob("*.arrow"))
    said = cxr("forget", "--image", IDS[3], "--store", stored)
    assert said.code == 0, said.err
    assert not list(stored.rglob("*.arrow"))
    assert [row["image_id"] for row in cxr(*about).json] == [IDS[0]]


def test_verify_and_plan_do_not_mind_the_cache(stored: Path, cxr: Callable[..., Any]) -> None:
    assert cxr("similar", "b.png", "--backbone", "vgg16", "--store", stored).code == 0
    said = cxr("verify", "--sample", "0", "--store", stored, "--no-ray", "--json")
    assert said.code == 0, said.err
    assert said.json["orphans"] == 0
