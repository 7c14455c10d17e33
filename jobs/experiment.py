"""One file describes an experiment; this is what may stand in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from classifiers.cnn.hierarchy import check_hierarchy
from classifiers.cnn.recipe import get_preset
from classifiers.cnn.targets import check_policy
from classifiers.cnn.tuning import get_tuning
from classifiers.heads import head_spec
from classifiers.label_map import read_label_map
from featurestore.backbones.catalogue import parse_backbones
from featurestore.backbones.weights import parse_weights
from featurestore.errors import UsageError
from featurestore.images.preprocess import get_preprocess
from featurestore.names import check_name


def _refuse(why: str) -> PydanticCustomError:
    return PydanticCustomError("refused", "{why}", {"why": why})


def _by(check: Callable[[Any], object]) -> AfterValidator:
    """Check a key as the step that uses it will, before hours of other steps."""

    def validate(value: Any) -> Any:
        try:
            check(value)
        except UsageError as error:
            raise _refuse(str(error)) from error
        return value

    return AfterValidator(validate)


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Data(_Section):
    """Where the images come from; the fields are those of `cxr ingest`."""

    source: Literal["nih", "chexpert", "medmnist", "csv", "dicom", "phantom"]
    dataset: Annotated[str, _by(lambda name: check_name(name, "data set"))]
    path: Path | None = None
    rois: Path | None = None
    image_column: str = "path"
    patient_column: str | None = None
    labels: str | None = None
    sep: str | None = None
    labels_csv: Path | None = None
    patients: int = Field(60, ge=1)
    seed: int = Field(0, ge=0)
    hospital: Literal["a", "b"] = "a"
    image_format: Literal["png", "dicom"] = "png"


class Pretrain(_Section):
    """Networks trained first, on a source of their own; the fields are those of `cxr ingest` and `cxr pretrain`."""

    data: Data
    name: str = Field(pattern=r"^[a-z0-9_]{1,64}$")
    split: str | None = None
    preset: Annotated[str, _by(get_preset)] = "demo"
    weights: str | None = None
    label_map: str | None = None
    uncertainty: Annotated[str, _by(check_policy)] | None = None
    conditional: Annotated[str, _by(check_hierarchy)] | None = None
    augment: Literal["none", "shift-v1"] | None = None
    size: int | None = Field(None, ge=1)
    epochs: int | None = Field(None, ge=1)
    seed: int = Field(0, ge=0)


class Extract(_Section):
    """Which vectors; the fields are those of `cxr extract`."""

    backbones: Annotated[str, _by(parse_backbones)] = "all"
    weights: str
    preprocess: Annotated[str, _by(get_preprocess)] = "bilinear-v1"
    size: int = Field(224, ge=1)

    @field_validator("weights")
    @classmethod
    def _there(cls, weights: str, info: ValidationInfo) -> str:
        if "backbones" in info.data:
            try:
                parse_weights(weights, parse_backbones(info.data["backbones"]))
            except UsageError as error:
                raise _refuse(str(error)) from error
        return weights

    @field_validator("size")
    @classmethod
    def _large_enough(cls, size: int, info: ValidationInfo) -> int:
        for backbone in parse_backbones(info.data["backbones"]) if "backbones" in info.data else ():
            if size < backbone.min_size:
                raise _refuse(f"{size} px; {backbone.name} needs at least {backbone.min_size}")
        return size


class SplitSection(_Section):
    """How images are divided; the fields are those of `cxr split`."""

    name: str = Field(pattern=r"^[a-z0-9_]+$")
    kind: Literal["holdout", "kfold", "official"] = "holdout"
    seed: int = Field(0, ge=0)
    test: float = Field(0.2, gt=0, lt=1)
    val: float = Field(0.1, ge=0, lt=1)
    folds: int = Field(5, ge=2)
    lateral: bool = False

    @field_validator("val")
    @classmethod
    def _leaves_some_for_training(cls, val: float, info: ValidationInfo) -> float:
        test = info.data.get("test", 0.0)
        if test + val >= 1:
            raise _refuse(f"test {test} and val {val} leave nothing to train on; together they have to be below 1")
        return val


class Train(_Section):
    """Which heads, on which labels (default: all the data set offers), and what is stacked beside them.

    Stacking A is one forest on the source networks' scores; stacking B one on the local heads', honestly or as the
    published code has it.
    """

    heads: list[Annotated[str, _by(head_spec)]] = Field(default=["rf"], min_length=1)
    labels: list[str] | None = None
    label_map: Annotated[str, _by(read_label_map)] | None = None
    stacking: list[Literal["a", "b", "b-in-sample"]] = []
    seeds: list[Annotated[int, Field(ge=0, lt=2**32)]] = Field(default=[0], min_length=1)
    uncertain: Literal["ones", "zeros", "ignore"] = "ones"
    blank: Literal["zero", "ignore"] = "zero"


class Finetune(_Section):
    """The source networks carried to the local labels, at the size and from the weights that vectors are made with."""

    preset: Annotated[str, _by(get_tuning)] = "paper"
    epochs: int | None = Field(None, ge=1)
    seed: int = Field(0, ge=0)


class Evaluate(_Section):
    """Which part is evaluated."""

    part: Literal["test", "val"] = "test"


class Explain(_Section):
    """How many regions of interest of held-out images are compared with the forest's own map, and for which cell."""

    images: int = Field(4, ge=1)
    backbone: str = "densenet121"
    head: str = "rf"


class Report(_Section):
    """Whether the report may show patients' pixels."""

    with_images: bool = False


class Experiment(_Section):
    """An experiment: ingest -> (pretrain) -> extract -> split -> train -> (finetune) -> evaluate -> ... -> report."""

    name: str = Field(pattern=r"^[a-z0-9_-]+$")
    title: str
    data: Data
    extract: Extract
    split: SplitSection
    pretrain: Pretrain | None = None
    train: Train = Train()
    finetune: Finetune | None = None
    evaluate: Evaluate = Evaluate()
    explain: Explain | None = None
    report: Report = Report()

    @field_validator("finetune")
    @classmethod
    def _can_be_tuned(cls, finetune: Finetune | None, info: ValidationInfo) -> Finetune | None:
        if finetune and {"split", "train"} <= info.data.keys():
            split, blank = info.data["split"], info.data["train"].blank
            if split.kind == "kfold" or split.val <= 0:
                raise _refuse(
                    f"networks are fine-tuned on a split with a part val, and this one is {split.kind} with val "
                    f"{split.val}; make it a holdout with val above 0, or give finetune=null"
                )
            if blank != "zero":
                raise _refuse(f"a blank label is negative to a network in training; train.blank is {blank!r}")
        return finetune

    @field_validator("explain")
    @classmethod
    def _is_fitted(cls, explain: Explain | None, info: ValidationInfo) -> Explain | None:
        if explain and {"extract", "train"} <= info.data.keys():
            backbones = [backbone.name for backbone in parse_backbones(info.data["extract"].backbones)]
            heads = info.data["train"].heads
            if explain.backbone not in backbones or explain.head not in heads:
                raise _refuse(
                    f"{explain.head} on {explain.backbone} is not fitted here; choose a head of {', '.join(heads)} and "
                    f"a backbone of {', '.join(backbones)}, or give explain=null for no explanations"
                )
        return explain


def shipped() -> list[str]:
    """Return the names of the experiments that come with the package."""
    return sorted(Path(str(f)).stem for f in files("jobs.experiments").iterdir() if str(f).endswith(".yaml"))


def load_experiment(name_or_path: str, overrides: Sequence[str] = (), data: Path | None = None) -> Experiment:
    """Read and check an experiment.

    Parameters
    ----------
    name_or_path : str
        A shipped experiment's name, or a YAML file.
    overrides : sequence of str
        ``section.key=value``, the value in YAML.
    data : Path, optional
        Replaces ``data.path``.

    Raises
    ------
    UsageError
        For a file that is none, or a key or value that cannot be; names the key's path, what stands there, and what
        may stand there.
    """
    document = _read(name_or_path)
    for override in overrides:
        _set(document, override)
    if data is not None:
        _set(document, "data.path=" + yaml.safe_dump(str(data.absolute()), width=10**6).splitlines()[0])
    try:
        return Experiment.model_validate(document)
    except ValidationError as error:
        message = f"experiment {name_or_path}: {'; '.join(_explain(problem) for problem in error.errors())}"
        raise UsageError(message) from error


def _read(name_or_path: str) -> dict[str, Any]:
    if name_or_path in shipped():
        text = files("jobs.experiments").joinpath(f"{name_or_path}.yaml").read_text("utf-8")
    elif Path(name_or_path).is_file():
        text = _text(Path(name_or_path))
    else:
        message = f"no experiment {name_or_path!r}: neither a file nor one of {', '.join(shipped())}"
        raise UsageError(message)
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        message = f"experiment {name_or_path} is not YAML: {_one_line(error)}"
        raise UsageError(message) from error
    if not isinstance(document, dict):
        message = f"experiment {name_or_path}: a mapping of sections is expected, not {type(document).__name__}"
        raise UsageError(message)
    return document


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        message = f"experiment {path} cannot be read as UTF-8 text ({error}); give a YAML file"
        raise UsageError(message) from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _set(document: dict[str, Any], override: str) -> None:
    key, separator, value = override.partition("=")
    if not separator or not key:
        message = f"--set {override!r}: give section.key=value, such as extract.size=128"
        raise UsageError(message)
    *sections, last = key.split(".")
    for section in sections:
        document = document.setdefault(section, {})
        if not isinstance(document, dict):
            message = f"--set {override!r}: {section!r} is a value, not a section"
            raise UsageError(message)
    try:
        document[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        message = f"--set {override!r}: the value is not YAML: {_one_line(error)}"
        raise UsageError(message) from error


def _explain(problem: Any) -> str:
    path = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"{path}: no such key; there are {', '.join(_keys(problem['loc'][:-1]))}"
    if problem["type"] in ("missing", "refused"):
        return f"{path}: {problem['msg']}"
    return f"{path}: {problem['msg']} (found {str(problem['input'])[:60]!r})"


def _keys(path: Sequence[str | int]) -> list[str]:
    """Return the keys of the section at a path."""
    section: type[BaseModel] = Experiment
    for part in path:
        annotation = section.model_fields[str(part)].annotation
        section = next(kind for kind in (annotation, *get_args(annotation)) if _is_section(kind))
    return list(section.model_fields)


def _is_section(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)
