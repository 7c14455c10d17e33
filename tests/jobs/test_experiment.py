"""The experiment file: what may stand in it, and what is said about what may not."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from featurestore.errors import UsageError
from jobs.experiment import Experiment, load_experiment, shipped

SMALLEST = {
    "name": "small",
    "title": "Small",
    "data": {"source": "phantom", "dataset": "small"},
    "extract": {"weights": "random:0"},
    "split": {"name": "holdout"},
}


def _write(folder: Path, document: object) -> str:
    path = folder / "experiment.yaml"
    path.write_text(document if isinstance(document, str) else yaml.safe_dump(document))
    return str(path)


def test_what_ships() -> None:
    assert {"demo", "nih1000"} <= set(shipped())


@pytest.mark.parametrize("name", shipped())
def test_a_shipped_experiment_is_valid_and_bears_its_files_name(name: str) -> None:
    experiment = load_experiment(name)
    assert experiment.name == name
    # Nothing here can be fetched on a machine without a network.
    made_here = experiment.pretrain is not None and experiment.extract.weights == experiment.pretrain.name
    assert experiment.extract.weights.startswith("random:") or made_here


def test_the_demo_is_the_papers_seven_on_phantoms() -> None:
    demo = load_experiment("demo")
    assert (demo.data.source, demo.extract.backbones) == ("phantom", "all")
    assert demo.explain is not None


def test_the_smallest_file_takes_the_command_lines_defaults(tmp_path: Path) -> None:
    found = load_experiment(_write(tmp_path, SMALLEST))
    assert (found.extract.backbones, found.extract.size, found.extract.preprocess) == ("all", 224, "bilinear-v1")
    assert (found.train.heads, found.train.seeds, found.split.kind) == (["rf"], [0], "holdout")
    assert found.explain is None
    assert not found.report.with_images


def test_an_experiment_cannot_be_changed_after_it_was_checked(tmp_path: Path) -> None:
    found = load_experiment(_write(tmp_path, SMALLEST))
    with pytest.raises(ValidationError, match="frozen"):
        found.extract.size = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("extract.sizes=3", "extract.sizes: no such key; there are backbones, weights, preprocess, size"),
        ("extrakt.size=3", "extrakt: no such key; there are name, title, data, extract, split"),
        ("explain.depth=3", "explain.depth: no such key; there are images, backbone, head"),
        ("extract.size=big", "extract.size: Input should be a valid integer.*found 'big'"),
        ("extract.size=32", "extract.size: 32 px; inception_resnet_v2 needs at least 75"),
        ("extract.backbones=resnet50", "extract.backbones: no backbone 'resnet50'; there are densenet121"),
        ("extract.weights=./magic", r"extract.weights: .*'\./magic': neither a known source.*random:SEED"),
        ("extract.preprocess=crop", "extract.preprocess: no preprocessing 'crop'; there are bilinear-v1"),
        ("data.source=zip", "data.source: Input should be 'nih', 'chexpert'.*found 'zip'"),
        ("data.dataset=My Data", "data.dataset: data set 'My Data': .*lower-case"),
        ("data.patients=0", "data.patients: .*greater than or equal to 1.*found '0'"),
        ("split.name=My Split", "split.name: .*pattern.*found 'My Split'"),
        ("split.kind=random", "split.kind: Input should be 'holdout', 'kfold' or 'official'.*found 'random'"),
        ("split.val=0.7", "split.val: test 0.4 and val 0.7 leave nothing to train on"),
        ("split=4", "split: .*found '4'"),
        ("train.heads=[rf, svm]", r"train.heads.1: no head 'svm'; choose among rf, rf100"),
        ("train.heads=rf", "train.heads: .*valid list.*found 'rf'"),
        ("train.heads=[]", "train.heads: .*at least 1 item"),
        ("train.uncertain=maybe", "train.uncertain: Input should be 'ones', 'zeros' or 'ignore'"),
        ("train.blank=ignore", "finetune: a blank label is negative to a network in training; train.blank is 'ignore'"),
        ("split.val=0", "finetune: .*this one is holdout with val 0.0; make it a holdout with val above 0"),
        ("finetune.preset=best", "finetune.preset: preset 'best': choose one of paper, fair, demo"),
        ("train.stacking=[c]", "train.stacking.0: Input should be 'a', 'b' or 'b-in-sample'"),
        ("train.label_map=nowhere", "train.label_map: label map 'nowhere': neither one of hum_cxr, nih"),
        ("evaluate.part=train", "evaluate.part: Input should be 'test' or 'val'"),
        ("explain.head=rf100", "explain: rf100 on densenet121 is not fitted here; choose a head of rf, extra_trees"),
        ("explain.backbone=vgg", "explain: rf on vgg is not fitted here;.* a backbone of densenet121"),
        ("report.with_images=perhaps", "report.with_images: .*boolean"),
    ],
)
def test_a_wrong_key_or_value_is_named_by_its_path(override: str, words: str) -> None:
    with pytest.raises(UsageError, match=f"experiment demo: .*{words}"):
        load_experiment("demo", [override])


def test_every_fault_is_named_at_once() -> None:
    faults = ["extract.size=8", "train.heads=[svm]", "nonsense=1"]
    with pytest.raises(UsageError, match=r"extract\.size: 8 px.*train\.heads\.0: no head 'svm'.*nonsense: no such key"):
        load_experiment("demo", faults)


@pytest.mark.parametrize("section", ["name", "title", "data", "extract", "split"])
def test_a_missing_section_is_named(tmp_path: Path, section: str) -> None:
    document = {key: value for key, value in SMALLEST.items() if key != section}
    with pytest.raises(UsageError, match=f": {section}: Field required"):
        load_experiment(_write(tmp_path, document))


def test_weights_have_no_default(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"extract\.weights: Field required"):
        load_experiment(_write(tmp_path, SMALLEST | {"extract": {"size": 96}}))


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("extract", "give section.key=value, such as extract.size=128"),
        ("=3", "give section.key=value"),
        ("name.first=x", "'name' is a value, not a section"),
        ("train.heads=[rf", "the value is not YAML"),
    ],
)
def test_a_set_that_is_none_is_explained(override: str, words: str) -> None:
    with pytest.raises(UsageError, match=f"--set .*{words}"):
        load_experiment("demo", [override])


def test_set_reaches_into_sections_and_the_last_one_wins() -> None:
    found = load_experiment(
        "demo",
        ["extract.size=128", "extract.size=100", "train.heads=[rf100, rf]", "train.blank=ignore", "finetune=null"],
    )
    assert (found.extract.size, found.train.heads, found.train.blank) == (100, ["rf100", "rf"], "ignore")
    assert found.finetune is None
    assert found.data == load_experiment("demo").data


def test_null_takes_a_section_away() -> None:
    assert load_experiment("demo", ["explain=null"]).explain is None


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1))
def test_data_replaces_the_path_whatever_its_characters(name: str) -> None:
    folder = Path("/data") / name.replace("/", "_")
    assert load_experiment("demo", data=folder).data.path == folder


def test_data_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_experiment("demo", data=Path("here")).data.path == tmp_path / "here"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: [", "is not YAML: while parsing"),
        ("just words", "a mapping of sections is expected, not str"),
        ("", "a mapping of sections is expected, not NoneType"),
        ("- 1\n- 2\n", "a mapping of sections is expected, not list"),
    ],
)
def test_a_file_that_is_no_experiment(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        load_experiment(_write(tmp_path, text))


def test_a_picture_is_no_experiment(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(UsageError, match=r"a\.png cannot be read as UTF-8 text.*give a YAML file"):
        load_experiment(str(tmp_path / "a.png"))


def test_an_unknown_name_lists_what_ships() -> None:
    with pytest.raises(UsageError, match="no experiment 'demonstration': neither a file nor one of demo, nih1000"):
        load_experiment("demonstration")


def test_a_file_says_all_that_it_can(tmp_path: Path) -> None:
    """What an experiment is written out as reads back as the same experiment."""
    demo = load_experiment("demo")
    again = load_experiment(_write(tmp_path, demo.model_dump(mode="json")))
    assert isinstance(again, Experiment)
    assert again == demo
