"""Which stored models an evaluation is about, and what each of them cost."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from classifiers.approaches import BASELINE, FINETUNE, TOGETHER
from classifiers.label_map import made_of
from classifiers.labels import LabelPolicy, dataset_labels
from featurestore.backbones.registry import finetuned_specs
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
    label_map : mapping of str to sequence of str, or None
        What the networks' own scores are mapped by.
    finetuned : collection of str or None
        Names of fine-tuned weights.
    model_ids : collection of str or None
        Exactly these fits, such as those a job has just made.
    """

    labels: Sequence[str] | None = None
    heads: Sequence[str] | None = None
    backbones: Sequence[str] | None = None
    seed: int | None = None
    specs: Mapping[str, str] | None = None
    policy: LabelPolicy | None = None
    label_map: Mapping[str, Sequence[str]] | None = None
    finetuned: Collection[str] | None = None
    model_ids: Collection[str] | None = None


@dataclass(frozen=True)
class Model:
    """A stored model: a row of `models`, its JSON read; or a network's own scores, which no row stands for.

    ``labels`` are those it was asked for, ``failed`` says why some have no probability; ``extract_seconds`` is what
    its backbone's vectors took for this data set, None where no run says so. ``scores`` says, where the probabilities
    lie in `scores`, of which scored labels each label is the maximum; ``groups`` which labels of the data set it stands
    for, where it is none of them itself. ``name`` is that of fine-tuned weights.
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
    scores: Mapping[str, tuple[str, ...]] | None = None
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    name: str = ""

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
    models = [_model(row, seconds) for row in rows]
    own = baseline_models(store, split, wanted, finetuned_specs(store, split.dataset), seconds)
    if not models and not own:
        raise UsageError(
            f"no fitted heads on split {split.name!r} of data set {split.dataset!r}; run `cxr train` first"
        )
    _check_there(wanted, models)
    newest = {_cell(model): model for model in [*own, *models] if _matches(model, wanted)}
    if not newest:
        raise UsageError(f"no fitted heads on split {split.name!r} for all of this at once: {_words(wanted)}")
    _check_unmixed(newest.values())
    return sorted(newest.values(), key=_order(wanted))


def baseline_models(
    store: Store, split: Split, wanted: Wanted, tuned: Collection[str], seconds: Mapping[str, float | None]
) -> list[Model]:
    """Return the networks' own scores of a data set as models that nothing was fitted for, by backbone.

    Parameters
    ----------
    store : Store
    split : Split
    wanted : Wanted
        Its label map says of which scores a label is the maximum; a label that a network scores itself needs none.
    tuned : collection of str
        spec_ids of networks fine-tuned on this data set: an approach of their own.
    seconds : mapping of str to float or None
        Of extraction, by spec_id.
    """
    sql = """
        SELECT s.backbone, s.spec_id, p.weights, list_sort(list(DISTINCT s.label)) AS labels
        FROM scores s JOIN images i ON i.image_id = s.image_id JOIN specs p ON p.spec_id = s.spec_id
        WHERE i.dataset = ? GROUP BY ALL ORDER BY s.backbone, s.spec_id
    """
    rows = [row for row in store.query(sql, [split.dataset]).to_pylist() if row["spec_id"] not in tuned]
    if not rows:
        return []
    groups = {label: tuple(members) for label, members in (wanted.label_map or {}).items()}
    offered = dataset_labels(store, split.dataset)
    labels = tuple(wanted.labels or dict.fromkeys([*groups, *offered]))
    return [
        _baseline(row, labels, groups, fold, wanted.policy or LabelPolicy(), seconds.get(row["spec_id"]))
        for row in rows
        for fold in split.fold_numbers()
    ]


def _baseline(
    row: Mapping[str, Any],
    labels: tuple[str, ...],
    groups: Mapping[str, tuple[str, ...]],
    fold: int | None,
    policy: LabelPolicy,
    seconds: float | None,
) -> Model:
    scored = set(row["labels"])
    scores = {label: found for label in labels if (found := made_of(label, groups, scored))}
    failed = dict.fromkeys(labels, "the network scores no such label, and no label map leads to it")
    return Model(
        model_id=f"baseline:{row['spec_id']}",
        approach=BASELINE,
        head="cnn",
        backbone=row["backbone"],
        spec_id=row["spec_id"],
        weights=row["weights"],
        fold=fold,
        seed=0,
        labels=labels,
        failed={label: why for label, why in failed.items() if label not in scores},
        policy=policy,
        extract_seconds=seconds,
        fit_seconds=0.0,
        predict_seconds=0.0,
        scores=scores,
        groups=groups,
    )


def truth_groups(models: Iterable[Model], labels: Sequence[str], offered: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return which labels of the data set each label's truth is the maximum of; the same for all models.

    Raises
    ------
    UsageError
        If two models learnt or score a label that means different things.
    """
    found: dict[str, tuple[str, ...]] = {}
    for model in models:
        for label in set(labels) & set(model.labels):
            members = made_of(label, model.groups, offered)
            if members and found.setdefault(label, members) != members:
                raise UsageError(
                    f"label {label!r} is the maximum of {', '.join(found[label])} to one model and of "
                    f"{', '.join(members)} to {model.head!r} ({model.approach}), so no table can hold both; train them "
                    "under one --label-map, and evaluate with it"
                )
    return found


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


def _model(row: Mapping[str, Any], seconds: Mapping[str, float | None]) -> Model:
    params = json.loads(row["params"])
    # A fine-tuned network needs no vectors, unless its head alone was trained, on those of the source network.
    needs = params.get("extract_spec", row["spec_id"])
    labels = tuple(params["labels"])
    same = ("model_id", "approach", "head", "backbone", "spec_id", "weights", "fold", "seed")
    return Model(
        **{key: row[key] for key in same},
        labels=labels,
        failed=params["failed"],
        policy=LabelPolicy(**params["policy"]),
        extract_seconds=total(seconds.get(spec_id) for spec_id in needs.split("+")) if needs else 0.0,
        fit_seconds=row["fit_seconds"],
        predict_seconds=row["predict_seconds"],
        scores={label: (label,) for label in labels} if row["approach"] == FINETUNE else None,
        groups={label: tuple(members) for label, members in params.get("label_map", {}).items()},
        name=params.get("name", ""),
    )


def _cell(model: Model) -> tuple[object, ...]:
    return (*model.arm, model.backbone, model.spec_id, model.fold)


def _matches(model: Model, wanted: Wanted) -> bool:
    return (
        (wanted.backbones is None or model.backbone in wanted.backbones)
        and (wanted.policy is None or model.policy == wanted.policy)
        and set(wanted.labels or ()) <= set(model.labels)
        and (_is_fit_wanted(model, wanted) if model.approach != BASELINE else _is_spec_wanted(model, wanted))
    )


def _is_fit_wanted(model: Model, wanted: Wanted) -> bool:
    tuned = model.approach == FINETUNE
    return (
        (tuned or wanted.heads is None or model.head in wanted.heads)
        and (wanted.seed is None or model.seed == wanted.seed)
        and (_is_tuned_wanted(model, wanted) if tuned else _is_spec_wanted(model, wanted))
        and (wanted.model_ids is None or model.model_id in wanted.model_ids)
    )


def _is_tuned_wanted(model: Model, wanted: Wanted) -> bool:
    """Go by the backbone and the name: a fine-tuned network has a spec of its own."""
    return (wanted.specs is None or model.backbone in wanted.specs) and (
        wanted.finetuned is None or model.name in wanted.finetuned
    )


def _is_spec_wanted(model: Model, wanted: Wanted) -> bool:
    if wanted.specs is None:
        return True
    if model.backbone in TOGETHER:
        return set(model.spec_id.split("+")) <= set(wanted.specs.values())
    return wanted.specs.get(model.backbone) == model.spec_id


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


def _check_unmixed(models: Collection[Model]) -> None:
    specs: dict[tuple[str, ...], set[str]] = {}
    policies: dict[tuple[object, ...], set[LabelPolicy]] = {}
    for model in models:
        which = model.head if model.approach == FINETUNE else ""
        specs.setdefault((model.backbone, model.weights, model.approach, which), set()).add(model.spec_id)
        policies.setdefault(model.arm, set()).add(model.policy)
    for (backbone, weights, approach, head), found in specs.items():
        if len(found) > 1 and approach == FINETUNE:
            names = {model.name for model in models if (model.head, model.weights) == (head, weights)}
            raise UsageError(
                f"{backbone!r} was fine-tuned from weights {weights!r} with preset {head!r} under several names "
                f"({', '.join(sorted(names))}); choose one with --finetuned"
            )
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
