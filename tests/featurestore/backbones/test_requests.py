"""What a user may ask for, and what identifies it; nothing here needs torch."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from featurestore.backbones.catalogue import CATALOGUE, parse_backbones
from featurestore.backbones.spec import ExtractionSpec, described_backbone
from featurestore.backbones.weights import WeightsRequest, parse_weights
from featurestore.errors import UsageError
from featurestore.images.preprocess import get_preprocess

SEVEN = list(CATALOGUE.values())


def test_backbones_come_in_catalogue_order_and_once() -> None:
    assert parse_backbones("all") == SEVEN
    assert [b.name for b in parse_backbones("vgg16, densenet121,vgg16")] == ["densenet121", "vgg16"]


@pytest.mark.parametrize(
    ("text", "words"), [("resnet50", "no backbone 'resnet50'; there are densenet121"), ("", "no backbone named")]
)
def test_unknown_backbones_are_named(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse_backbones(text)


def test_weights_are_parsed(tmp_path: Path) -> None:
    file = tmp_path / "vgg16.safetensors"
    file.touch()
    assert parse_weights("random:7", SEVEN[:1]) == {"densenet121": WeightsRequest("random", seed=7)}
    assert parse_weights("imagenet", SEVEN)["vgg19"].kind == "imagenet"
    assert parse_weights("chexpert", SEVEN)["vgg19"] == WeightsRequest("registered", given="chexpert")
    assert parse_weights("chexpert", SEVEN)["vgg19"].name == "chexpert"
    vgg16 = [CATALOGUE["vgg16"]]
    (one,), (folder,) = parse_weights(str(file), vgg16).values(), parse_weights(str(tmp_path), vgg16).values()
    assert one.path == folder.path == str(file)
    assert (one.name, folder.name) == ("file:vgg16", f"file:{tmp_path.name}")


def test_no_file_can_be_taken_for_another_kind_of_weights(tmp_path: Path) -> None:
    for name in ("imagenet", "random:0"):
        file = tmp_path / f"{name}.safetensors"
        file.touch()
        (request,) = parse_weights(str(file), SEVEN[:1]).values()
        assert request.name == f"file:{name}"
        assert not request.cacheable


@pytest.mark.parametrize(
    ("text", "backbones", "words"),
    [
        ("random:x", SEVEN, r"'random:x'.*random:SEED \(such as random:0\)"),
        ("nowhere.safetensors", SEVEN, "neither a known source nor a path"),
        ("{tmp}/vgg16.safetensors", SEVEN, "one file serves one backbone, not 7"),
        ("{tmp}/old.pt", SEVEN[:1], r"old.pt: only .safetensors files are read; nothing is ever unpickled"),
        ("{tmp}", SEVEN, r"no densenet121.safetensors in it; add the file, or leave densenet121 out"),
    ],
)
def test_weights_that_cannot_be_had(tmp_path: Path, text: str, backbones: list[object], words: str) -> None:
    (tmp_path / "vgg16.safetensors").touch()
    (tmp_path / "old.pt").touch()
    with pytest.raises(UsageError, match=words):
        parse_weights(text.format(tmp=tmp_path), backbones)  # type: ignore[arg-type]


def _spec(**changes: object) -> ExtractionSpec:
    base = ExtractionSpec(SEVEN[0], "0" * 64, get_preprocess("bilinear-v1").describe(224))
    return replace(base, **changes)  # type: ignore[arg-type]


def test_spec_id_is_stable_and_starts_with_a_letter() -> None:
    # A literal: were it to change, every stored vector would silently be extracted again.
    assert _spec().spec_id == "s32298619d97a"


@pytest.mark.parametrize(
    "changes",
    [
        {"weights_sha256": "1" * 64},
        {"backbone": CATALOGUE["vgg16"]},
        {"backbone": replace(SEVEN[0], std=(0.5, 0.5, 0.5))},
        {"backbone": replace(SEVEN[0], variant="keras")},
        {"backbone": replace(SEVEN[0], pixel_range=(-1024.0, 1024.0))},
        {"backbone": replace(SEVEN[0], in_chans=1)},
        {"precision": "bfloat16"},
        {"preprocess": get_preprocess("bilinear-v1").describe(96)},
        {"preprocess": get_preprocess("chest-crop-v1").describe(224)},
    ],
)
def test_whatever_changes_the_vector_changes_the_spec(changes: dict[str, object]) -> None:
    assert _spec(**changes).spec_id != _spec().spec_id


def test_a_backbone_of_ones_own_is_found_by_its_dotted_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    text = "from featurestore.backbones.catalogue import BackboneSpec as B\n"
    text += "FEW = B('few', 'vgg16', 1, in_chans=1)\nTWO = B('two', 'vgg16', 1, in_chans=2)\n"
    text += "FLAT = B('flat', 'vgg16', 1, pixel_range=(1, 0))\n"
    text += (
        "MINE = B('mine', 'test_byobnet', 256)\nVGG = B('vgg16', 'vgg16', 1)\nTABLE = B('images', 'vgg16', 1)\nN = 3\n"
    )
    (tmp_path / "own_backbones.py").write_text(text)
    assert [b.name for b in parse_backbones("own_backbones:MINE,vgg19")] == ["vgg19", "mine"]
    for attribute, words in {
        "VGG": "'vgg16' like another network; give it a name of its own",
        "TABLE": "that is the name of a view",
        "FEW": "'few': mean has 3 numbers for 1 channels; give one a channel",
        "TWO": "'two': in_chans 2; radiographs are fed as 1 channel or 3",
        "FLAT": r"pixel_range \(1, 0\) has to rise",
        "N": "is a int; it must be a featurestore BackboneSpec",
        "NONE": "module 'own_backbones' has no 'NONE'",
    }.items():
        with pytest.raises(UsageError, match=words):
            parse_backbones(f"own_backbones:{attribute}")
    with pytest.raises(UsageError, match="module 'nowhere_at_all' cannot be imported"):
        parse_backbones("nowhere_at_all:X")


def test_a_bare_word_is_a_name_even_beside_a_folder_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "vgg16.safetensors").touch()
    monkeypatch.chdir(tmp_path)
    vgg16 = [CATALOGUE["vgg16"]]
    assert parse_weights("mine", vgg16)["vgg16"].kind == "registered"
    assert parse_weights("./mine", vgg16)["vgg16"].path == str(tmp_path / "mine" / "vgg16.safetensors")


def test_a_further_backbone_is_known_by_name_and_is_none_of_the_seven() -> None:
    assert parse_backbones("efficientnet_lite0")[0].n_features == 1280
    assert "efficientnet_lite0" not in {backbone.name for backbone in parse_backbones("all")}


@pytest.mark.parametrize(
    "changes",
    [{}, {"variant": "keras"}, {"in_chans": 1, "pixel_range": (-1024.0, 1024.0), "mean": (0.0,), "std": (1.0,)}],
)
def test_a_stored_spec_says_which_backbone_it_was_made_with(changes: dict[str, object]) -> None:
    backbone = replace(SEVEN[0], name="mine", **changes)  # type: ignore[arg-type]
    stored = json.loads(json.dumps(_spec(backbone=backbone).description()))
    assert described_backbone("mine", 1024, stored) == backbone
