"""Which stored vectors a classifier job uses."""

from __future__ import annotations

from featurestore.backbones.catalogue import CATALOGUE, parse_backbones
from featurestore.backbones.registry import finetuned_specs
from featurestore.errors import UsageError
from featurestore.store import Store

_SPECS = """
SELECT DISTINCT s.backbone, s.spec_id, s.weights
FROM specs s JOIN embeddings e USING (backbone, spec_id) JOIN images i USING (image_id)
WHERE i.dataset = ? ORDER BY ALL
"""
_FITTED = """
SELECT DISTINCT backbone, spec_id, weights FROM models
WHERE dataset = ? AND split = ? AND approach = 'embeddings' AND backbone <> 'concatenated' ORDER BY ALL
"""
_SCORED = """
SELECT DISTINCT s.backbone, s.spec_id, p.weights
FROM scores s JOIN images i ON i.image_id = s.image_id JOIN specs p ON p.spec_id = s.spec_id
WHERE i.dataset = ? ORDER BY ALL
"""


def fitted_specs(store: Store, dataset: str, split: str, wanted: str = "all") -> dict[str, str] | None:
    """Return ``{backbone: spec_id}`` of what heads were fitted on; else of the networks' own scores, if some are named.

    None where there is nothing to choose. Parameters and errors are those of `stored_specs`.
    """
    rows = store.query(_FITTED, [dataset, split]).to_pylist()
    if not rows and wanted != "all":
        rows = _untuned(store, dataset, _SCORED, wanted)
    if not rows:
        return None
    return {backbone: spec_id for backbone, (spec_id, _) in _choose(rows, dataset, wanted).items()}


def stored_specs(store: Store, dataset: str, wanted: str = "all") -> dict[str, tuple[str, str]]:
    """Return the one spec of each wanted backbone that has vectors of a data set.

    Parameters
    ----------
    store : Store
    dataset : str
    wanted : str
        ``all`` (every backbone that has vectors), or backbone names and spec_ids with commas between.

    Returns
    -------
    dict of str to (str, str)
        ``{backbone: (spec_id, weights)}``.

    Raises
    ------
    UsageError
        If a backbone has no vectors, or several specs and none was named. Those of networks that were fine-tuned on
        this very data set count only where their spec_id is named.
    """
    return _choose(_untuned(store, dataset, _SPECS, wanted), dataset, wanted)


def _untuned(store: Store, dataset: str, sql: str, wanted: str) -> list[dict[str, str]]:
    left_out = finetuned_specs(store, dataset) - {name.strip() for name in wanted.split(",")}
    return [row for row in store.query(sql, [dataset]).to_pylist() if row["spec_id"] not in left_out]


def any_spec(store: Store, dataset: str, wanted: str = "all") -> tuple[str, str] | None:
    """Return one spec that has vectors of a data set, and its backbone and weights in words; None where none has."""
    rows = store.query(_SPECS, [dataset]).to_pylist()
    if wanted != "all":
        rows = [row for row in rows if {row["backbone"], row["spec_id"]} & {name.strip() for name in wanted.split(",")}]
    if not rows:
        return None
    # Trained networks tell images apart better than random ones.
    first = min(rows, key=lambda row: (row["weights"].startswith("random:"), _catalogue_order(row["backbone"])))
    return first["spec_id"], f"{first['backbone']} ({first['weights']})"


def _choose(rows: list[dict[str, str]], dataset: str, wanted: str) -> dict[str, tuple[str, str]]:
    names = [name.strip() for name in wanted.split(",")]
    by_id = {row["spec_id"]: row for row in rows}
    chosen = [by_id[name] for name in names if name in by_id]
    chosen += [row for row in rows if _asked(row["backbone"], [name for name in names if name not in by_id])]
    found: dict[str, tuple[str, str]] = {}
    for row in chosen:
        here = (row["spec_id"], row["weights"])
        if found.get(row["backbone"], here) != here:
            several = sorted(r["spec_id"] for r in rows if r["backbone"] == row["backbone"])
            message = (
                f"{row['backbone']} has {len(several)} specs here: {', '.join(several)}; choose with --backbones, "
                "which takes spec_ids too"
            )
            raise UsageError(message)
        found[row["backbone"]] = here
    _check_found(dataset, names, found)
    return {name: found[name] for name in sorted(found, key=_catalogue_order)}


def _asked(backbone: str, names: list[str]) -> bool:
    return names == ["all"] or backbone in names


def _check_found(dataset: str, names: list[str], found: dict[str, tuple[str, str]]) -> None:
    plain = [name for name in names if name != "all" and name not in {spec_id for spec_id, _ in found.values()}]
    for name in plain:
        if name not in found:
            parse_backbones([name])
            message = f"{name} has no vectors of {dataset}; run cxr extract --dataset {dataset} --backbones {name}"
            raise UsageError(message)
    if not found:
        message = f"no vectors of {dataset} are stored; run cxr extract --dataset {dataset} first"
        raise UsageError(message)


def _catalogue_order(name: str) -> tuple[int, str]:
    """Sort by the paper's order; a user's own backbones follow by name."""
    return (list(CATALOGUE).index(name) if name in CATALOGUE else len(CATALOGUE), name)
