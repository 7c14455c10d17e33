"""What was run: networks and weights, jobs, versions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from featurestore.store.store import Store

# Arguments of other commands can name a patient (`cxr forget --patient`), and say nothing about the numbers here.
COMMANDS = ("ingest", "extract", "split", "train", "evaluate", "pretrain", "finetune", "run", "demo")


@dataclass(frozen=True)
class Network:
    """One network as it was used: its spec and where its weights came from."""

    backbone: str
    spec_id: str
    weights: str
    sha256: str
    source: str
    made_with: str
    preprocess: str
    size: int | None
    n_features: int | None
    runtime: str


@dataclass(frozen=True)
class Run:
    """One job: a row of `runs` with its JSON read."""

    run_id: str
    command: str
    status: str
    arguments: dict[str, Any]
    versions: dict[str, Any]
    counts: dict[str, Any]
    seconds: dict[str, Any]
    device: str
    started_at: datetime | None
    wall: float | None
    tables: dict[str, Any]


def networks(store: Store, dataset: str, split: str, specs: Mapping[str, str] | None) -> list[Network]:
    """Return the networks behind an evaluation.

    Parameters
    ----------
    store : Store
    dataset, split : str
    specs : mapping of backbone to spec_id, optional
        Where absent, the specs that the split's models were fitted on.
    """
    ids = list(specs.values()) if specs is not None else _fitted_specs(store, dataset, split)
    rows = store.query(
        """
        SELECT s.backbone, s.spec_id, s.weights, s.weights_sha256 AS sha256,
               coalesce(s.weights_source, w.source, '') AS source, coalesce(w.made_with, '') AS made_with,
               s.preprocess, s.size, s.n_features, coalesce(e.runtime, '') AS runtime
        FROM specs s LEFT JOIN weights w
          ON w.name = s.weights AND w.backbone = s.backbone AND w.sha256 = s.weights_sha256
        LEFT JOIN (SELECT spec_id, string_agg(DISTINCT runtime, '; ' ORDER BY runtime) AS runtime
                   FROM embeddings WHERE list_contains($1, spec_id) GROUP BY spec_id) e ON e.spec_id = s.spec_id
        WHERE list_contains($1, s.spec_id)
        """,
        [ids],
    ).to_pylist()
    return sorted((Network(**row) for row in rows), key=lambda network: ids.index(network.spec_id))


def _fitted_specs(store: Store, dataset: str, split: str) -> list[str]:
    sql = """
        SELECT spec_id FROM models WHERE dataset = ? AND split = ? AND spec_id IS NOT NULL
        GROUP BY backbone, spec_id ORDER BY min(created_at), backbone
    """
    return [row["spec_id"] for row in store.query(sql, [dataset, split]).to_pylist()]


def runs(store: Store, dataset: str) -> list[Run]:
    """Return the data set's jobs, oldest first."""
    rows = store.query(
        """
        SELECT run_id, command, coalesce(status, '') AS status, arguments, versions, counts, seconds, tables,
               coalesce(device, '') AS device, started_at,
               date_diff('millisecond', started_at, finished_at) / 1000.0 AS wall
        FROM runs WHERE dataset = ? AND list_contains(?, command) ORDER BY started_at, run_id
        """,
        [dataset, list(COMMANDS)],
    ).to_pylist()
    return [Run(**{**row, **{name: _read(row[name]) for name in _JSON}}) for row in rows]


_JSON = ("arguments", "versions", "counts", "seconds", "tables")


def _read(text: str | None) -> dict[str, Any]:
    value = json.loads(text) if text else {}
    return value if isinstance(value, dict) else {"value": value}


def is_phantom(dataset: str, found: Sequence[Run]) -> bool:
    """Return whether a data set was generated: its ingest job said ``phantom``, or its name does."""
    said = any("phantom" in _words(run.arguments) for run in found if run.command == "ingest")
    return said or dataset.startswith("phantom")


def _words(arguments: Mapping[str, Any]) -> set[str]:
    return {value for value in arguments.values() if isinstance(value, str)}


def flatten(arguments: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested arguments as {dotted key: text}, in their order; None is left out."""
    flat: dict[str, str] = {}
    for key, value in arguments.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        elif value is not None:
            flat[f"{prefix}{key}"] = _text(value)
    return flat


def _text(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(str(item) for item in value)
    return str(value)


def library_versions(found: Sequence[Run]) -> dict[str, str]:
    """Return the library versions the jobs recorded; where jobs differ, all of them."""
    seen: dict[str, dict[str, None]] = {}
    for run in found:
        for name, version in run.versions.items():
            seen.setdefault(name, {})[str(version)] = None
    return {name: ", ".join(versions) for name, versions in sorted(seen.items())}


def seeds(store: Store, dataset: str, split: str) -> dict[str, str]:
    """Return the seeds of the split and of its heads, as text."""
    sql = """
        SELECT 'split' AS what, seed FROM splits WHERE dataset = $1 AND split = $2
        UNION SELECT 'heads', seed FROM models WHERE dataset = $1 AND split = $2
    """
    rows = [r for r in store.query(sql, [dataset, split]).to_pylist() if r["seed"] is not None]
    kinds = sorted({row["what"] for row in rows}, reverse=True)
    return {kind: ", ".join(str(s) for s in sorted(r["seed"] for r in rows if r["what"] == kind)) for kind in kinds}


def label_policies(store: Store, dataset: str, split: str) -> str:
    """Return how uncertain and blank labels were counted, in training and in the truth."""
    rows = store.query(
        "SELECT DISTINCT params FROM models WHERE dataset = ? AND split = ?", [dataset, split]
    ).to_pylist()
    policies = {json.dumps(json.loads(row["params"])["policy"], sort_keys=True) for row in rows}
    found = [json.loads(policy) for policy in sorted(policies)]
    return "; ".join(f"uncertain counts as {p['uncertain']}, blank as {p['blank']}" for p in found)
