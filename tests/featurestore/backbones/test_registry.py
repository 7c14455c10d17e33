"""The registry of named weights: one name, one content; whole or not there; on disk and on S3."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from featurestore.backbones.network import Network, load_network
from featurestore.backbones.register_network import register_network
from featurestore.backbones.registry import RegisteredWeights, check_free, find_weights, register, registered
from featurestore.backbones.requests import requested
from featurestore.backbones.variants import build
from featurestore.errors import HarmError, UsageError
from featurestore.store import Store
from tests.tiny import TINY

LABELS = ["Edema", "Fracture"]
WEIGHTS = RegisteredWeights("chex", "tiny", "timm", "a" * 64, LABELS, "a test")


def _network(seed: int = 0) -> Network:
    torch.manual_seed(seed)
    head = torch.nn.Linear(TINY.n_features, len(LABELS))
    return Network(build(TINY), TINY, head, LABELS).eval()


@pytest.fixture(params=["disk", pytest.param("s3", marks=pytest.mark.slow)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "disk":
        return Store(tmp_path / "store")
    bucket = request.getfixturevalue("s3_bucket")
    return Store(f"s3://{bucket}/{tmp_path.name}/store")


def test_registered_weights_come_back_bit_by_bit(store: Store) -> None:
    network = _network()
    weights = register_network(store, network, "chex", "trained by a test", licence="none", preprocess="bilinear-v1")
    assert registered(store) == [weights]
    assert weights.labels == LABELS
    asked = requested(store, "tests.tiny:TINY", "chex")[0]
    loaded = load_network(asked.backbone, asked.request)
    assert (asked.request.name, loaded.sha256, loaded.network.labels) == ("chex", weights.sha256, LABELS)
    grey = torch.randint(0, 256, (2, 32, 32), dtype=torch.uint8)
    with torch.inference_mode():
        for ours, theirs in zip(loaded.network(grey), network(grey), strict=True):
            assert torch.equal(ours, theirs)


def test_a_name_is_taken_once_for_all(store: Store) -> None:
    first = register(store, WEIGHTS, b"one")
    assert register(store, WEIGHTS, b"one") == first
    with pytest.raises(UsageError, match=r"'chex' of tiny are registered already.*give another --name"):
        register(store, replace(WEIGHTS, sha256="b" * 64), b"two")
    with pytest.raises(UsageError, match="never overwritten"):
        check_free(store, "chex", ["tiny"])
    check_free(store, "chex", ["other"])
    register(store, replace(WEIGHTS, backbone="other", sha256="b" * 64), b"two")
    assert [w.backbone for w in registered(store, "chex")] == ["other", "tiny"]
    assert store.location.read_bytes(WEIGHTS.path) == b"one"


def test_of_two_that_take_a_name_at_once_one_wins(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.append("weights", pa.table({"name": ["random:0"], "backbone": ["tiny"], "remembered": ["x"]}))

    with ThreadPoolExecutor(6) as pool:
        waiting = [pool.submit(register, store, replace(WEIGHTS, sha256=c * 64), c.encode()) for c in "abcdef"]
    errors = [error for future in waiting if (error := future.exception())]
    assert len(errors) == 5
    assert all(isinstance(error, UsageError) and "never overwritten" in str(error) for error in errors)
    (winner,) = [future.result() for future in waiting if not future.exception()]
    assert registered(store) == [winner]


def test_a_remembered_fingerprint_is_no_registered_name(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.append("weights", pa.table({"name": ["random:0"], "backbone": ["tiny"], "remembered": ["x"]}))
    assert registered(store) == []


def test_sources_stay_with_the_weights(store: Store) -> None:
    sources = pa.table({"kind": ["pixel_hash", "patient"], "hash": ["ab", "cd"]})
    weights = register(store, WEIGHTS, b"one", sources)
    assert weights.trained_on == f"_weights/{WEIGHTS.sha256}.sources.parquet"
    assert registered(store)[0].trained_on == weights.trained_on
    assert pq.read_table(pa.BufferReader(store.location.read_bytes(weights.trained_on))).equals(sources)


@pytest.mark.parametrize("name", ["imagenet", "random", "random:0", "Chex", "a-b", "", "a" * 65, "a.safetensors"])
def test_names_that_mean_something_else_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"lower-case letters, digits and '_'"):
        register(Store(tmp_path / "store"), replace(WEIGHTS, name=name), b"one")
    assert not (tmp_path / "store").exists()


def test_what_is_missing_is_named_with_what_there_is(store: Store) -> None:
    with pytest.raises(UsageError, match=r"no weights 'chex' .* there are none: run cxr weights import"):
        find_weights(store, "chex")
    register(store, WEIGHTS, b"one")
    with pytest.raises(UsageError, match=r"no weights 'hum' .* there are chex\. .*\./hum"):
        find_weights(store, "hum")
    with pytest.raises(UsageError, match="'chex' lack vgg16, vgg19; they exist for tiny"):
        find_weights(store, "chex", ["vgg16", "tiny", "vgg19"])


def test_a_file_that_is_gone_or_damaged_says_so(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    path = Path(store.location.table(register_network(store, _network(), "chex", "a test").path))
    asked = requested(store, "tests.tiny:TINY", "chex")[0]
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UsageError, match="weights 'chex' is not a readable safetensors file"):
        load_network(asked.backbone, asked.request)
    path.unlink()
    with pytest.raises(HarmError, match=r"'chex': their file [0-9a-f]{64}\.safetensors is gone from the store"):
        load_network(asked.backbone, asked.request)


def test_the_same_tensors_under_other_labels_are_other_weights(tmp_path: Path) -> None:
    store, network = Store(tmp_path / "store"), _network()
    first = register_network(store, network, "one", "a test")
    network.labels = LABELS[::-1]
    assert register_network(store, network, "two", "a test").sha256 != first.sha256
