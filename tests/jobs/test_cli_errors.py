"""A request that cannot be met: one sentence naming what was found and what would be right, exit 2, nothing done."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from featurestore.store import Store

pytestmark = pytest.mark.slow  # a store with vectors and models to be wrong about

LOCAL = ("--dataset", "local")
NETWORK = (*LOCAL, "--backbones", "densenet121", "--no-ray")
HALF = (*LOCAL, "--split", "half")

# What is asked ({csv}, {folder} and {tmp} stand for paths), and words the answer has to hold.
CASES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "column": (("ingest", "csv", "{csv}", "--image-column", "file"), ("'file'", "columns found: path, patient")),
    "no column": (("ingest", "csv", "{csv}", "--image-column", "file"), ("no column 'file'", "path, patient")),
    "label column": (
        ("ingest", "csv", "{csv}", "--image-column", "path", "--labels", "Edema,Oedema"),
        ("no column 'Oedema'", "Edema"),
    ),
    "patient column": (
        ("ingest", "csv", "{csv}", "--image-column", "path", "--patient-column", "who"),
        ("no column 'who'", "patient"),
    ),
    "separator": (("ingest", "csv", "{csv}", "--image-column", "path", "--sep", ";;"), ("';;'", "one character")),
    "no file": (("ingest", "csv", "{tmp}/no.csv", "--image-column", "path"), ("no such file", "expected a CSV file")),
    "a folder": (("ingest", "csv", "{folder}", "--image-column", "path"), ("a folder", "expected a CSV file")),
    "no labels file": (("ingest", "dicom", "{folder}", "--labels-csv", "{tmp}/no.csv"), ("no such file", "no.csv")),
    "no rois": (("ingest", "csv", "{csv}", "--image-column", "path", "--rois", "{tmp}/no.json"), ("no.json",)),
    "nothing in it": (("ingest", "dicom", "{tmp}"), ("dicom: no image found",)),
    "not nih": (("ingest", "nih", "{folder}"), ("Data_Entry_2017.csv", "expected")),
    "not medmnist": (("ingest", "medmnist", "{csv}"), ("not a readable .npz", "{train,val,test}_{images,labels}")),
    "not chexpert": (("ingest", "chexpert", "{csv}"), ("no column 'Path'", "columns found: path, patient")),
    "data set's name": (
        ("ingest", "csv", "{csv}", "--image-column", "path", "--dataset", "My Data"),
        ("'My Data'", "lower-case letters, digits and '_'"),
    ),
    "a view's name": (
        ("ingest", "csv", "{csv}", "--image-column", "path", "--dataset", "labels"),
        ("'labels'", "name of a view"),
    ),
    "source": (("ingest", "zip", "{csv}"), ("'zip' is not one of", "'nih', 'chexpert', 'medmnist', 'csv'")),
    "patients": (("ingest", "phantom", "{tmp}/p", "--patients", "0"), ("--patients", "0 is not in the range x>=1")),
    "other phantoms": (("ingest", "phantom", "{folder}", "--patients", "3"), ("patients 12, seed 1", "patients 3")),
    "store is a file": (("plan", *NETWORK, "--store", "{csv}"), ("is a file; a store is a folder",)),
    "store below a file": (("plan", *NETWORK, "--store", "{csv}/store"), ("phantom.csv is a file", "below a folder")),
    "store blank": (("plan", *NETWORK, "--store", ""), ("blank", "such as ./store")),
    "no store": (("plan", *NETWORK, "--store", "{tmp}/no"), ("no store at", "run cxr ingest first")),
    "store's scheme": (
        ("sql", "SELECT 1", "--store", "ftp://host/x"),
        ("'ftp://host/x'", "a folder such as ./store, or s3://"),
    ),
    "data set": (("plan", "--dataset", "locale", "--no-ray"), ("no data set 'locale'", "it has local")),
    "no data set": (("extract", "--no-ray"), ("Missing option '--dataset'",)),
    "backbone": (("plan", *LOCAL, "--backbones", "densenet12", "--no-ray"), ("'densenet12'", "there are densenet121")),
    "no backbone": (("plan", *LOCAL, "--backbones", ",", "--no-ray"), ("no backbone named", "densenet121")),
    "small size": (("plan", *NETWORK, "--weights", "random:0", "--size", "8"), ("--size 8", "at least 32 px")),
    "size in words": (("plan", *NETWORK, "--size", "big"), ("--size", "'big' is not a valid integer")),
    "weights": (("extract", *NETWORK, "--weights", "rand:0"), ("'rand:0'", "imagenet, random:SEED")),
    "weights' seed": (("extract", *NETWORK, "--weights", "random:x"), ("'random:x'", "random:0")),
    "weights to unpickle": (("extract", *NETWORK, "--weights", "{csv}"), ("phantom.csv", "only .safetensors")),
    "weights' folder": (("extract", *NETWORK, "--weights", "{folder}"), ("no densenet121.safetensors in it",)),
    "preprocessing": (
        ("extract", *NETWORK, "--weights", "random:0", "--preprocess", "crop"),
        ("no preprocessing 'crop'", "bilinear-v1, chest-crop-v1"),
    ),
    "address": (
        ("extract", *LOCAL, "--backbones", "densenet121", "--weights", "random:5", "--size", "32", "--address", "here"),
        ("--address 'here'", "HOST:PORT"),
    ),
    "nobody there": (
        ("plan", *LOCAL, "--backbones", "densenet121", "--weights", "random:5", "--address", "127.0.0.1:1"),
        ("'127.0.0.1:1'", "no Ray cluster answers there", "ray start --head"),
    ),
    "split's kind": (("split", *LOCAL, "--name", "o", "--kind", "random"), ("'random' is not one of", "'holdout'")),
    "split's name": (("split", *LOCAL, "--name", "My Split"), ("'My Split'", "lower-case letters")),
    "split is frozen": (("split", *LOCAL, "--name", "half", "--seed", "7"), ("'half' is frozen", "use another name")),
    "shares": (("split", *LOCAL, "--name", "o", "--test", "0.9", "--val", "0.2"), ("test 0.9 and val 0.2", "< 1")),
    "folds": (("split", *LOCAL, "--name", "o", "--kind", "kfold", "--folds", "99"), ("12 patients", "fewer folds")),
    "no official split": (("split", *LOCAL, "--name", "o", "--kind", "official"), ("no official part", "holdout")),
    "seed": (("split", *LOCAL, "--name", "o", "--seed", "-1"), ("-1 is not in the range",)),
    "split": (("train", *LOCAL, "--split", "quarter"), ("no split 'quarter'", "it has: half")),
    "head": (("train", *HALF, "--heads", "rf,svm"), ("no head 'svm'", "choose among rf, rf100")),
    "head's seed": (("train", *HALF, "--seed", "-3"), ("-3 is not in the range",)),
    "no vectors": (("train", *HALF, "--backbones", "vgg16"), ("vgg16 has no vectors of local", "run cxr extract")),
    "train's backbone": (("train", *HALF, "--backbones", "vgg"), ("no backbone 'vgg'", "vgg16")),
    "approach": (("train", *HALF, "--approach", "magic"), ("'magic'", "embeddings")),
    "part": (("evaluate", *HALF, "--part", "train"), ("'train' is not one of 'test', 'val'",)),
    "unit": (("evaluate", *HALF, "--unit", "pixel"), ("'pixel'", "image")),
    "evaluate's data set": (("evaluate", "--dataset", "here", "--split", "half"), ("'here'", "it has local")),
    "report's data set": (("report", "--out", "{tmp}/r.html", "--dataset", "here"), ("'here'", "local, split half")),
    "report's split": (("report", "--out", "{tmp}/r.html", "--split", "no"), ("split 'no'", "local, split half")),
    "report's place": (("report", "--out", "{csv}/r.html"), ("phantom.csv is a file",)),
    "report is a folder": (("report", "--out", "{folder}"), ("--out", "is a directory")),
    "table": (("sql", "SELECT * FROM image"), ("image does not exist",)),
    "sql column": (("sql", "SELECT patient FROM images"), ('"patient" not found', "patient_id")),
    "two statements": (("sql", "SELECT 1; SELECT 2"), ("2 statements found", "exactly one SELECT")),
    "write": (("sql", "COPY images TO '{tmp}/x.csv'"), ("COPY", "read-only")),
    "spec": (("sql", "SELECT 1", "--spec", "s0"), ("no spec 's0'", "it has")),
    "parquet to a terminal": (("sql", "SELECT 1", "--format", "parquet"), ("--out FILE",)),
    "format": (("sql", "SELECT 1", "--format", "xml"), ("'xml' is not one of 'table', 'csv', 'json', 'parquet'",)),
    "sql's place": (("sql", "SELECT 1", "--out", "{tmp}/no/rows.txt"), ("no/rows.txt", "folder that exists")),
    "experiment": (("run", "democracy"), ("no experiment 'democracy'", "demo, nih1000")),
    "experiment's data": (("run", "nih1000", "--no-ray"), ("data.path is not set", "--data PATH")),
    "experiment's folder": (("run", "nih1000", "--no-ray", "--data", "{tmp}/no"), ("no such folder", "expected")),
    "experiment's place": (("run", "demo", "--out", "{csv}/r.html"), ("phantom.csv is a file",)),
    "key": (("run", "demo", "--set", "extract.sizes=3"), ("extract.sizes: no such key", "backbones, weights")),
    "command": (("embed",), ("No such command 'embed'",)),
    "flag": (("plan", *LOCAL, "--bakcbones", "all"), ("No such option", "--backbones")),
}


def _fill(arguments: tuple[str, ...], walked: Any, tmp_path: Path) -> list[str]:
    names = {"{csv}": walked.csv, "{folder}": walked.csv.parent, "{tmp}": tmp_path}
    filled = list(arguments)
    for name, path in names.items():
        filled = [argument.replace(name, str(path)) for argument in filled]
    return filled if "--store" in filled or filled == ["embed"] else [*filled, "--store", str(walked.store)]


@pytest.mark.parametrize("case", CASES)
def test_exit_2_with_a_sentence_that_helps(walked: Any, cxr: Callable[..., Any], tmp_path: Path, case: str) -> None:
    arguments, words = CASES[case]
    images = Store(walked.store).snapshot("images").version
    said = cxr(*_fill(arguments, walked, tmp_path))
    assert said.code == 2
    assert said.out == ""
    (sentence,) = [line for line in said.err.splitlines() if line.startswith("Error: ")]
    for word in words:
        # One sentence may go over lines only where the words are DuckDB's or click's own.
        assert word in said.err[said.err.index(sentence) :]
    assert "Traceback" not in said.err
    assert Store(walked.store).snapshot("images").version == images


def test_weights_that_cannot_be_fetched_are_never_replaced(
    walked: Any, cxr: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", "/nonexistent")
    said = cxr("plan", *NETWORK, "--size", "32", "--store", walked.store)
    assert said.code == 2
    assert "ImageNet weights of densenet121 could not be fetched" in said.err
    assert "--weights PATH" in said.err
    assert "--weights random:SEED" in said.err


def test_the_real_command_shows_no_traceback(walked: Any) -> None:
    command = [str(Path(sys.executable).parent / "cxr"), "plan", "--dataset", "no", "--no-ray"]
    done = subprocess.run([*command, "--store", str(walked.store)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"Error: no data set 'no' in the store at {walked.store}; it has local\n"


def test_a_command_alone_shows_its_help_on_stderr(cxr: Callable[..., Any]) -> None:
    said = cxr()
    assert said.code == 2
    assert "Commands:" in said.err
