"""Which stored models an evaluation is about, and what each of them cost."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from classifiers.labels import LabelPolicy
from featurestore.errors import UsageError

if TYPE_CHECKING:
    from classifiers.splits import Split
    from featurestore.store import Store


@dataclass(frozen=True)
class Wanted:
    """What to evaluate; None means everything there is.

    Parameters
    ----------
    labels, heads, backbones : sequence of str or None
    seed : int or None
    specs : mapping of str to str, or None
        ``{backbone: spec_id}``.
    policy : LabelPolicy or None
        None: each cell's newest fit, under whatever policy.
    model_ids : collection of str or None
        Exactly these fits, such as those a job has just made.
    """

    labels: Sequence[str] | None = None
    heads: Sequence[str] | None = None
    backbones: Sequence[str] | None = None
    seed: int | None = None
    specs: Mapping[str, str] | None = None
    policy: LabelPolicy | None = None
    model_ids: Collection[str] | None = None


@dataclass(frozen=True)
class Model:
    """A stored model: a row of `models`, its JSON read.

    ``labels`` are those it was asked for, ``failed`` says why some have no probability; ``extract_seconds`` is what
    its backbone's vectors took for this data set, None where no run says so.
    """

    model_id: str
    approach: str
    head: str
    backbone: str
    spec_id: str
    weights: str
    fold: int | None
    seed: int
    labels: tuple[str, ...]
    failed: Mapping[str, str]
    policy: LabelPolicy
    extract_seconds: float | None
    fit_seconds: float
    predict_seconds: float

    @property
    def arm(self) -> tuple[str, str, str, int]:
        """Return what an ensemble's members have in common."""
        return self.approach, self.head, self.weights, self.seed


def select_models(store: Store, split: Split, wanted: Wanted) -> list[Model]:
    """Return the newest fit of every cell wanted, heads and backbones in the order asked for, else alphabetical.

    Raises
    ------
    UsageError
        No fitted model fits; a head, backbone or seed asked for has none; or one backbone has models of two specs, or
        one arm of two label policies, under the same weights (the message says how to choose).
    """
    sql = "SELECT * FROM models WHERE dataset = ? AND split = ? ORDER BY created_at, model_id"
    seconds = extract_seconds(store, split.dataset)
    rows = store.query(sql, [split.dataset, split.name]).to_pylist()
    models = [_model(row, seconds.get(row["spec_id"])) for row in rows]
    if not models:
        raise UsageError(
            f"no fitted heads on split {split.name!r} of data set {split.dataset!r}; run `cxr train` first"
        )
    _check_there(wanted, models)
    newest = {_cell(model): model for model in models if _matches(model, wanted)}
    if not newest:
        raise UsageError(f"no fitted heads on split {split.name!r} for all of this at once: {_words(wanted)}")
    _check_unmixed(newest.values())
    return sorted(newest.values(), key=_order(wanted))


def extract_seconds(store: Store, dataset: str) -> dict[str, float | None]:
    """Return the cold seconds each spec's vectors of a data set took, over all runs that wrote any; None if unknown."""
    sql = """
        SELECT DISTINCT e.spec_id, e.backbone, e.run_id, r.seconds
        FROM embeddings e JOIN images i ON i.image_id = e.image_id
        LEFT JOIN runs r ON r.run_id = e.run_id AND r.command = 'extract'
        WHERE i.dataset = ?
    """
    spent: dict[str, list[float | None]] = {}
    for row in store.query(sql, [dataset]).to_pylist():
        by_backbone = json.loads(row["seconds"] or "{}").get("by_backbone") or {}
        spent.setdefault(row["spec_id"], []).append(by_backbone.get(row["backbone"]))
    return {spec: total(values) for spec, values in spent.items()}


def total(values: Iterable[float | None]) -> float | None:
    """Return the sum; None where one is unknown, for a sum without it would be too small."""
    known = list(values)
    return None if None in known else float(sum(value for value in known if value is not None))


def _model(row: Mapping[str, Any], seconds: float | None) -> Model:
    params = json.loads(row["params"])
    same = ("model_id", "approach", "head", "backbone", "spec_id", "weights", "fold", "seed")
    return Model(
        **{key: row[key] for key in same},
        labels=tuple(params["labels"]),
        failed=params["failed"],
        policy=LabelPolicy(**params["policy"]),
        extract_seconds=seconds,
        fit_seconds=row["fit_seconds"],
        predict_seconds=row["predict_seconds"],
    )


def _cell(model: Model) -> tuple[object, ...]:
    return (*model.arm, model.backbone, model.spec_id, model.fold)


def _matches(model: Model, wanted: Wanted) -> bool:
    return (
        (wanted.heads is None or model.head in wanted.heads)
        and (wanted.backbones is None or model.backbone in wanted.backbones)
        and (wanted.seed is None or model.seed == wanted.seed)
        and (wanted.specs is None or wanted.specs.get(model.backbone) == model.spec_id)
        and (wanted.policy is None or model.policy == wanted.policy)
        and (wanted.model_ids is None or model.model_id in wanted.model_ids)
        and set(wanted.labels or ()) <= set(model.labels)
    )


def _check_there(wanted: Wanted, models: Sequence[Model]) -> None:
    asked: dict[str, Sequence[object]] = {
        "head": wanted.heads or (),
        "backbone": wanted.backbones or (),
        "seed": () if wanted.seed is None else (wanted.seed,),
        "spec_id": tuple((wanted.specs or {}).values()),
    }
    for what, values in asked.items():
        there = sorted({getattr(model, what) for model in models})
        missing = [value for value in values if value not in there]
        if missing:
            raise UsageError(f"no fitted model of {what} {missing[0]!r}; there is: {', '.join(map(str, there))}")


def _check_unmixed(models: Iterable[Model]) -> None:
    specs: dict[tuple[object, ...], set[str]] = {}
    policies: dict[tuple[object, ...], set[LabelPolicy]] = {}
    for model in models:
        specs.setdefault((model.backbone, model.weights), set()).add(model.spec_id)
        policies.setdefault(model.arm, set()).add(model.policy)
    for (backbone, weights), found in specs.items():
        if len(found) > 1:
            raise UsageError(
                f"backbone {backbone!r} with weights {weights!r} has models of {len(found)} specs "
                f"({', '.join(sorted(found))}); choose with --backbones, which takes spec_ids too"
            )
    for arm, several in policies.items():
        if len(several) > 1:
            raise UsageError(f"head {arm[1]!r} was fitted under {len(several)} label policies; choose one policy")


def _order(wanted: Wanted) -> Callable[[Model], tuple[object, ...]]:
    heads, backbones = list(wanted.heads or ()), list(wanted.backbones or ())

    def place(model: Model) -> tuple[object, ...]:
        head = heads.index(model.head) if heads else model.head
        backbone = backbones.index(model.backbone) if backbones else model.backbone
        return model.approach, head, model.weights, model.seed, -1 if model.fold is None else model.fold, backbone

    return place


def _words(wanted: Wanted) -> str:
    asked = {key: value for key, value in vars(wanted).items() if value is not None}
    return ", ".join(f"{key} {value}" for key, value in asked.items()) or "anything"
