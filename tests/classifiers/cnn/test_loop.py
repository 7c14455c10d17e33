"""The loop on a tiny network: that it learns, freezes, masks, goes on where it stopped, and stops when it diverges."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from classifiers.cnn.image_cache import CachedImages, Unusable
from classifiers.cnn.layers import add_norm, can_fold_norm, fold_norm, freeze, has_norm, train_mode
from classifiers.cnn.loop import Diverged, Trainer
from classifiers.cnn.loss import Logits, masked_bce
from classifiers.cnn.place import Place
from classifiers.cnn.recipe import Phase, Rate, changed, get_preset
from classifiers.cnn.session import add_head
from classifiers.cnn.validation import validate
from featurestore.backbones.catalogue import CATALOGUE, BackboneSpec
from featurestore.backbones.network import Network, load_network
from featurestore.backbones.weights import WeightsRequest
from featurestore.errors import HarmError, UsageError
from tests.tiny import BARE, PLAIN, SECOND, TINY

HERE = Place(threads=1)


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _network(labels=("Lung Opacity", "Edema"), spec: BackboneSpec = SECOND) -> Network:
    network = load_network(spec, WeightsRequest("random")).network
    add_head(network, labels, 0, "a test")
    return network


def _trained(squares, recipe, **changes) -> Trainer:
    trainer = Trainer(_network(), *squares, recipe(**changes), HERE)
    trainer.run()
    return trainer


def _tensors(network: Network) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def test_it_learns_what_can_be_seen(squares, recipe) -> None:
    trainer = _trained(squares, recipe, epochs=4)
    first, last = trainer.history[0], trainer.history[-1]
    assert last.train_loss < first.train_loss
    assert last.auc["Lung Opacity"]["auc"] > 0.95
    assert (last.number, last.phase, last.images) == (4, "all", 48)
    assert last.auc["Edema"]["n"] == 16


def test_the_same_seed_gives_the_same_numbers_and_another_gives_others(squares, recipe) -> None:
    first, again, other = (_trained(squares, recipe, seed=seed).network for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(_tensors(first).values(), _tensors(again).values(), strict=True))
    assert not torch.equal(first.head.weight, other.head.weight)


def test_it_goes_on_from_an_epoch_as_if_nothing_had_happened(squares, recipe) -> None:
    whole = _trained(squares, recipe, epochs=3, augment="shift-v1")
    kept = {}

    def keep(trainer: Trainer) -> None:
        if len(trainer.history) == 2:
            adam = trainer.optimiser_state()["state"]
            # As a file gives them back: without the memory format.
            state = {i: {name: tensor.clone().contiguous() for name, tensor in s.items()} for i, s in adam.items()}
            kept.update(history=list(trainer.history), network=_tensors(trainer.network), adam=state)

    interrupted = Trainer(_network(), *squares, recipe(epochs=3, augment="shift-v1"), HERE)
    interrupted.run(keep, stop=lambda history: len(history) == 2)
    assert len(interrupted.history) == 2
    resumed = Trainer(_network(), *squares, recipe(epochs=3, augment="shift-v1"), HERE)
    resumed.resume(kept["history"], kept["network"], kept["adam"])
    resumed.run()
    assert [r.train_loss for r in resumed.history] == [r.train_loss for r in whole.history]
    for name, tensor in _tensors(whole.network).items():
        assert torch.equal(tensor, resumed.network.state_dict()[name]), name


def test_phase_two_trains_the_last_layer_only(squares, recipe) -> None:
    after = []
    trainer = Trainer(_network(), *squares, recipe(conditional="code", epochs=1), HERE)
    trainer.run(lambda t: after.append(_tensors(t.network)))
    assert [record.phase for record in trainer.history] == ["conditional", "head"]
    positive = int((squares[0].codes[:48, 0] == 1).sum())
    assert [record.images for record in trainer.history] == [positive, 48]
    moved = [name for name in after[0] if not torch.equal(after[0][name], after[1][name])]
    # Frozen batch normalisation keeps its running statistics, too.
    assert moved == ["head.weight", "head.bias"]


def test_in_phase_one_a_label_is_masked_where_its_parent_is_absent(squares, recipe) -> None:
    trainer = Trainer(_network(), *squares, recipe(conditional="code"), HERE)
    rows, targets = trainer._rows_and_targets(trainer.recipe.phases("second")[0], 0)
    codes = squares[0].codes
    assert (codes[rows, 0] == 1).all()
    np.testing.assert_array_equal(np.isnan(targets[:, 1]), codes[:, 0] != 1)
    assert not np.isnan(targets[:, 0]).any()


def test_a_masked_label_moves_nothing_and_shares_add_up() -> None:
    logits = torch.tensor([[0.5, -1.0], [2.0, 0.3], [0.1, 0.2]], requires_grad=True)
    targets = torch.tensor([[1.0, torch.nan], [0.0, 1.0], [torch.nan, torch.nan]])
    loss = masked_bce(logits, targets, 3)
    loss.backward()
    assert (logits.grad == 0).tolist() == [[False, True], [False, False], [True, True]]
    each = nn.functional.binary_cross_entropy_with_logits(
        logits.detach(), torch.nan_to_num(targets), weight=(~torch.isnan(targets)).float(), reduction="sum"
    )
    assert loss.item() == pytest.approx(each.item() / 6)
    shares = masked_bce(logits[:1], targets[:1], 3) + masked_bce(logits[1:], targets[1:], 3)
    assert shares.item() == pytest.approx(loss.item())


@pytest.mark.parametrize(("trainable", "some"), [(None, "all"), (0, "none"), (2, "two")])
def test_freezing_to_a_depth(trainable: int | None, some: str) -> None:
    network = _network()
    chosen = freeze(network, trainable)
    layers = {name.rpartition(".")[0] for name, p in network.features.named_parameters() if p.requires_grad}
    total = {name.rpartition(".")[0] for name, _ in network.features.named_parameters()}
    assert len(layers) == {"all": len(total), "none": 0, "two": 2}[some]
    assert {id(p) for p in network.head.parameters()} <= {id(p) for p in chosen}
    train_mode(network)
    norms = [(name, m) for name, m in network.features.named_modules() if isinstance(m, nn.BatchNorm2d)]
    assert {name for name, m in norms if m.training} == {name for name, _ in norms if name in layers}


def test_calibrated_statistics_are_those_of_the_weights_as_they_are(squares, recipe) -> None:
    trainer = Trainer(_network(), *squares, recipe(calibrate=48, batch=48, epochs=1), HERE)
    trainer.run()
    network, grey = trainer.network, torch.from_numpy(np.asarray(squares[1]._pixels[:48]))
    first = next(layer for layer in network.features.modules() if isinstance(layer, nn.Conv2d))
    norm = next(layer for layer in network.features.modules() if isinstance(layer, nn.BatchNorm2d))
    with torch.no_grad():
        maps = first(network.normalise(grey))
    torch.testing.assert_close(norm.running_mean, maps.mean((0, 2, 3)), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(norm.running_var, maps.var((0, 2, 3)), rtol=1e-2, atol=1e-4)
    assert norm.momentum == 0.1


def test_calibration_leaves_frozen_layers_alone(squares, recipe) -> None:
    trainer = Trainer(_network(), *squares, recipe(calibrate=16), HERE, phases=[Phase("head", 1, trainable=0)])
    before = _tensors(trainer.network)
    trainer.run()
    moved = [name for name, t in trainer.network.state_dict().items() if not torch.equal(before[name], t)]
    assert moved == ["head.weight", "head.bias"]


def _stack() -> Network:
    """Return convolutions without normalisation, as a VGG's."""
    stack = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Sequential(nn.Conv2d(16, 8, 3, stride=2)))
    stack.forward_features = stack.forward
    return Network(stack, BackboneSpec("stack", "none", 8), nn.Linear(8, 2), ["Lung Opacity", "Edema"])


def test_normalisation_for_training_is_folded_away_and_changes_nothing(squares, recipe) -> None:
    network = _stack()
    names = list(network.state_dict())
    assert can_fold_norm(network)
    add_norm(network)
    assert has_norm(network)
    trainer = Trainer(network, *squares, recipe(), HERE)
    trainer.run()
    grey = torch.from_numpy(np.asarray(squares[1]._pixels[:8]))
    network.eval()
    with torch.inference_mode():
        before = network(grey)[0]
    fold_norm(network)
    assert list(network.state_dict()) == names
    with torch.inference_mode():
        torch.testing.assert_close(network(grey)[0], before, rtol=1e-4, atol=1e-5)
    assert before.std() > 0
    fold_norm(network)
    assert list(network.state_dict()) == names


def test_normalisation_is_put_into_plain_convolutions_only() -> None:
    assert can_fold_norm(_network(spec=CATALOGUE["vgg16"]))
    # With batch normalisation, with layer normalisation, with weights that are standardised on the way.
    assert not any(can_fold_norm(_network(spec=spec)) for spec in (SECOND, PLAIN, BARE))


def test_a_diverging_loss_names_epoch_batch_rate_and_remedy(squares, recipe) -> None:
    trainer = Trainer(_network(), *squares, recipe(rate=Rate(1e30)), HERE)
    with pytest.raises(
        Diverged, match=r"second diverged: the loss of epoch 1, .* is (nan|inf) at a learning rate of 1e\+30; no"
    ):
        trainer.run()
    assert issubclass(Diverged, HarmError)
    assert trainer.history == []


def test_one_class_only_in_validation_is_no_crash(squares, recipe) -> None:
    data, images = squares
    data.codes[data.val, 1] = 0
    trainer = Trainer(_network(), data, images, recipe(epochs=1), HERE)
    trainer.run()
    result = trainer.history[0].auc["Edema"]
    assert (result["auc"], result["note"], result["n_positive"]) == (None, "one class only: no AUC", 0)
    assert trainer.history[0].mean_auc == trainer.history[0].auc["Lung Opacity"]["auc"]


def test_images_that_cannot_be_read_are_left_out(squares, recipe) -> None:
    data, images = squares
    broken = {row: Unusable(f"i{row}", "", "path", "no such file", True) for row in (3, 50)}
    trainer = Trainer(_network(), data, CachedImages(images._pixels, broken), recipe(epochs=1), HERE)
    trainer.run()
    assert trainer.history[0].auc["Edema"]["n"] == 15
    nearly_all = dict.fromkeys(range(47), broken[3])
    trainer = Trainer(_network(), data, CachedImages(images._pixels, nearly_all), recipe(epochs=1), HERE)
    with pytest.raises(HarmError, match=r"[01] of the 8 images of a batch can be read; see to the files"):
        trainer.run()


def test_validation_equals_a_plain_forward_pass(squares) -> None:
    data, images = squares
    network = _network()
    _, auc = validate(network, data, images, "u-ones", None, 5, HERE)
    with torch.inference_mode():
        p = network(torch.from_numpy(np.asarray(images._pixels[48:])))[1][:, 0].numpy()
    y = data.codes[48:, 0]
    pairs = [(p[i] > p[j]) + 0.5 * (p[i] == p[j]) for i in np.flatnonzero(y == 1) for j in np.flatnonzero(y == 0)]
    assert auc["Lung Opacity"].auc == pytest.approx(float(np.mean(pairs)), abs=0.02)


def test_another_head_is_refused_and_the_same_kept() -> None:
    network = _network(("Edema",))
    head = network.head
    add_head(network, ("Edema",), 5, "file x")
    assert network.head is head
    with pytest.raises(
        UsageError, match=r"second \(file x\) end in a head for Edema; this run trains Edema, Fracture.*cxr finetune"
    ):
        add_head(network, ("Edema", "Fracture"), 0, "file x")


def test_frozen_depth_and_phases_can_be_a_users_own(squares, recipe) -> None:
    trainer = Trainer(_network(), *squares, recipe(), HERE, phases=[Phase("tune", 3, trainable=1)])
    trainer.run(stop=lambda history: history[-1].number == 2)
    assert [record.phase for record in trainer.history] == ["tune", "tune"]


def test_the_rate_decays_by_epoch_and_warms_up_by_batch() -> None:
    rate = Rate(1e-4)
    assert [rate.at(epoch, 7) for epoch in range(3)] == pytest.approx([1e-4, 1e-5, 1e-6])
    slow = Rate(1.0, warmup=3)
    assert [slow.at(0, batch) for batch in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert slow.at(1, 0) == pytest.approx(0.1)


def test_the_papers_preset_is_the_papers() -> None:
    paper = get_preset("paper")
    assert (paper.weights, paper.size, paper.batch, paper.epochs) == ("imagenet", 224, 64, 5)
    assert (paper.rate, paper.augment, paper.uncertainty) == (Rate(1e-4, 0.1), "none", "u-ones-lsr")
    with pytest.raises(UsageError, match="preset 'fast': choose one of paper, demo"):
        get_preset("fast")
    with pytest.raises(UsageError, match="augmentation 'flip': choose one of none, shift-v1"):
        replace(paper, augment="flip")


def test_what_changed_is_named_by_its_path() -> None:
    assert changed({"a": 1, "r": {"b": 2, "c": 3}}, {"a": 1, "r": {"b": 5, "c": 3}}) == ["r.b: was 2, now 5"]


def test_logits_are_what_the_probabilities_come_from(squares) -> None:
    network = _network(spec=TINY).eval()
    grey = torch.from_numpy(np.asarray(squares[1]._pixels[:4]))
    with torch.inference_mode():
        torch.testing.assert_close(torch.sigmoid(Logits(network, False)(grey)), network(grey)[1])
