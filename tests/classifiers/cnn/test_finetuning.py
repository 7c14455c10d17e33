"""Fine-tuning's parts: depths, the best epoch kept, patience, and a head trained on stored vectors."""

from __future__ import annotations

import doctest
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch

from classifiers.cnn import depth
from classifiers.cnn.depth import trainable_layers
from classifiers.cnn.layers import freeze
from classifiers.cnn.loop import Trainer
from classifiers.cnn.place import Place
from classifiers.cnn.recipe import Rate
from classifiers.cnn.records import EpochRecord, RunState, best_epoch, best_trial, out_of_patience
from classifiers.cnn.session import add_head
from classifiers.cnn.stored_vectors import HeadOnVectors, StoredVectors
from classifiers.cnn.tuning import TUNINGS, get_tuning
from featurestore.backbones.catalogue import CATALOGUE
from featurestore.backbones.network import Network, load_network, run_batch
from featurestore.backbones.variants import build
from featurestore.backbones.weights import WeightsRequest
from featurestore.errors import UsageError
from featurestore.store import Store
from tests.tiny import SECOND

HERE = Place(threads=1)


def _history(*areas: float | None) -> list[EpochRecord]:
    return [
        EpochRecord(i + 1, "all", 1e-3, 1.0, 1.0, {} if area is None else {"x": {"auc": area}}, 1.0, 1.0, 8)
        for i, area in enumerate(areas)
    ]


def test_the_example_holds() -> None:
    assert doctest.testmod(depth).failed == 0


# What Keras' `layers[-6:]` of each network holds, by the names that timm gives the same layers.
LAST_SIX = {
    "densenet121": {"features.denseblock4.denselayer16.conv2", "features.norm5"},
    "densenet169": {"features.denseblock4.denselayer32.conv2", "features.norm5"},
    "densenet201": {"features.denseblock4.denselayer32.conv2", "features.norm5"},
    "inception_resnet_v2": {"conv2d_7b.conv", "conv2d_7b.bn"},
    "xception": {"conv4.conv1", "conv4.pointwise", "bn4"},
    "vgg16": {"features.24", "features.26", "features.28"},
    "vgg19": {"features.30", "features.32", "features.34"},
}


@pytest.mark.parametrize("name", sorted(LAST_SIX))
def test_the_papers_depth_is_the_same_layers(name: str) -> None:
    with torch.device("meta"):
        spec = CATALOGUE[name]
        network = Network(build(spec), spec, torch.nn.Linear(spec.n_features, 2), ["a", "b"])
    freeze(network, trainable_layers("last-6", name))
    trained = {key.rpartition(".")[0] for key, p in network.features.named_parameters() if p.requires_grad}
    assert trained == LAST_SIX[name]


def test_depths_by_name() -> None:
    assert trainable_layers("head", "vgg16") == 0
    assert trainable_layers("all", "vgg16") is None
    assert trainable_layers("last-6", "my_own") == 2
    with pytest.raises(UsageError, match="depth 'deep': choose one of head, last-6, all"):
        trainable_layers("deep", "vgg16")


def test_the_best_epoch_is_the_first_of_the_highest() -> None:
    assert best_epoch(_history(0.6, 0.8, None, 0.8)) == 2
    assert best_epoch(_history(None, None)) == 1
    assert best_epoch([]) == 0


def test_patience_counts_epochs_since_the_best() -> None:
    assert not out_of_patience(_history(0.8, 0.7, 0.7), 3)
    assert out_of_patience(_history(0.8, 0.7, 0.7, 0.8), 3)
    assert not out_of_patience(_history(0.8, 0.7, 0.7, 0.7), None)
    assert not out_of_patience([], 3)


def test_of_equal_trials_the_first_is_chosen() -> None:
    states = [RunState({}, "", history=_history(*areas)) for areas in ((0.6, 0.7), (0.8, 0.5), (0.8,), (None,))]
    assert best_trial(states) == 1


def test_presets() -> None:
    (paper,) = get_tuning("paper").recipes(3)
    assert (paper.rate, paper.epochs, paper.batch, paper.depth) == (Rate(1e-4, 0.1), 5, 8, "last-6")
    assert (paper.patience, paper.new_head, paper.seed, paper.size) == (3, True, 3, 224)
    fair = get_tuning("fair").recipes(0, size=96, epochs=None)
    assert len(fair) == 4
    assert {recipe.size for recipe in fair} == {96}
    assert all(recipe.rate == recipe.rate_without_norm for recipe in fair)
    assert all(len(tuning.trials) <= 4 for tuning in TUNINGS.values())
    with pytest.raises(UsageError, match="preset 'best': choose one of paper, fair, demo"):
        get_tuning("best")


def test_a_head_on_stored_vectors_is_the_head_through_the_network(squares, recipe, tmp_path) -> None:
    """The same loop, the same batches: what differs is rounding in the network's batches."""
    data, images = squares
    network = load_network(SECOND, WeightsRequest("random")).network
    add_head(network, data.labels, 0, "a test")
    start = {name: tensor.clone() for name, tensor in network.head.state_dict().items()}
    asked = recipe(depth="head", epochs=3, rate=Rate(1e-2, 0.5), rate_without_norm=Rate(1e-2, 0.5))
    X, _ = run_batch(
        load_network(SECOND, WeightsRequest("random")).network, images.take(np.arange(64))[0], torch.device("cpu")
    )

    through = Trainer(network, data, images, asked, HERE)
    through.run()
    slow = {name: tensor.clone() for name, tensor in network.head.state_dict().items()}
    assert not torch.equal(slow["weight"], start["weight"])

    network.head.load_state_dict(start)
    store = _store_with(tmp_path, data, X)
    stored = Trainer(HeadOnVectors(network), data, StoredVectors(store, "s1", data), asked, HERE)
    stored.run()
    for name, tensor in network.head.state_dict().items():
        torch.testing.assert_close(tensor, slow[name], rtol=1e-4, atol=1e-6)
    for fast, wanted in zip(stored.history, through.history, strict=True):
        assert fast.train_loss == pytest.approx(wanted.train_loss, rel=1e-5)
        assert fast.mean_auc == pytest.approx(wanted.mean_auc)
        assert fast.images == wanted.images


def test_images_without_a_vector_are_passed_over(squares, tmp_path) -> None:
    data, _ = squares
    X = np.arange(len(data.files) * SECOND.n_features, dtype=np.float32).reshape(len(data.files), -1)
    store = _store_with(tmp_path, replace(data, files=data.files[:10] + data.files[12:]), np.delete(X, [10, 11], 0))
    found, good = StoredVectors(store, "s1", data).take(np.array([12, 10, 3]))
    assert good.tolist() == [True, False, True]
    np.testing.assert_array_equal(found, X[[12, 3]])


def _store_with(folder, data, X) -> Store:
    store = Store(folder / "store")
    n = len(data.files)
    ids = [file.image_id for file in data.files][::-1]  # in another order than the training set's
    store.append(
        "specs",
        pa.table({"spec_id": ["s1"], "backbone": ["second"], "n_features": pa.array([X.shape[1]], pa.int32())}),
    )
    rows = {"backbone": ["second"] * n, "spec_id": ["s1"] * n, "image_id": ids, "run_id": ["r"] * n}
    store.append("embeddings", pa.table({**rows, "embedding": pa.array(list(X[::-1]), pa.list_(pa.float32()))}))
    return store
