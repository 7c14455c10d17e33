"""Named weights inside a store: a row of `weights` and a safetensors file under ``_weights/``. Without torch.

The file is written whole before its row, so weights that can be found by their name are never half-written; a death in
between leaves a file without a name. The table's key is (name, backbone): of two that take a name at once, the commit
lets one win.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq

from featurestore.backbones.catalogue import Variant
from featurestore.backbones.weights import is_weights_name
from featurestore.errors import UsageError
from featurestore.store import Store
from featurestore.store.lease import writing

FOLDER = "_weights"
FINETUNED = "fine-tuned on {dataset} ("
"""How the source of weights begins that have learnt a data set's own labels."""


@dataclass(frozen=True)
class RegisteredWeights:
    """One set of weights of one backbone under a name.

    Parameters
    ----------
    name : str
        ``[a-z0-9_]+``.
    backbone : str
    variant : {"timm", "keras"}
        Whose flavour of the architecture they belong to.
    sha256 : str
        Over every tensor and the head's labels (`featurestore.backbones.network.fingerprint`).
    labels : list of str
        Outputs of the head; empty without one.
    source : str
        For a person: where they came from.
    licence : str or None
        A note; None where nobody said.
    preprocess : str or None
        What images went through in training, for a person; None where unknown.
    trained_on : str or None
        Path, relative to the store's root, of the Parquet file with hashes of training images and patients; None where
        unknown.
    """

    name: str
    backbone: str
    variant: Variant
    sha256: str
    labels: list[str]
    source: str
    licence: str | None = None
    preprocess: str | None = None
    trained_on: str | None = None

    @property
    def path(self) -> str:
        """Return the file, relative to the store's root."""
        return f"{FOLDER}/{self.sha256}.safetensors"


_COLUMNS = ", ".join(field.name for field in fields(RegisteredWeights))


def registered(store: Store, name: str | None = None, backbone: str | None = None) -> list[RegisteredWeights]:
    """Return what is registered, of one name or backbone where given, ordered by both."""
    rows = store.query(
        f"SELECT {_COLUMNS} FROM weights WHERE remembered IS NULL AND ($1 IS NULL OR name = $1) "
        "AND ($2 IS NULL OR backbone = $2) ORDER BY name, backbone",
        [name, backbone],
    ).to_pylist()
    return [RegisteredWeights(**row | {"labels": row["labels"] or []}) for row in rows]


def finetuned_specs(store: Store, dataset: str) -> set[str]:
    """Return the specs whose networks have learnt this data set's own labels: no baseline, and no plain vectors.

    It goes by what the registry says, which is there before the first score is.
    """
    sql = """
        SELECT DISTINCT p.spec_id FROM specs p JOIN weights w ON w.sha256 = p.weights_sha256
        WHERE w.remembered IS NULL AND starts_with(w.source, ?)
    """
    return set(store.query(sql, [FINETUNED.format(dataset=dataset)])["spec_id"].to_pylist())


def check_free(store: Store, name: str, backbones: Sequence[str]) -> None:
    """Make sure, before long work, that its weights can be registered.

    Raises
    ------
    UsageError
        For a name that cannot be, or is taken for one of these backbones.
    """
    if not is_weights_name(name):
        message = f"weights' name {name!r}: 1 to 64 lower-case letters, digits and '_', and not imagenet or random"
        raise UsageError(message)
    taken = [row for row in registered(store, name) if row.backbone in backbones]
    if taken:
        raise UsageError(_taken(taken[0]))


def register(
    store: Store, weights: RegisteredWeights, content: bytes, sources: pa.Table | None = None
) -> RegisteredWeights:
    """Put weights into the store under a name.

    Weights that are there under this very name are left alone, so that a job may register them again.

    Parameters
    ----------
    store : Store
    weights : RegisteredWeights
        Its ``trained_on`` is set here.
    content : bytes
        The safetensors file (`featurestore.backbones.weights_file.pack`).
    sources : pyarrow.Table, optional
        Hashes of training images and patients, kept beside the file.

    Returns
    -------
    RegisteredWeights
        As stored.

    Raises
    ------
    UsageError
        If the name stands for other weights of this backbone.
    """
    if same := _same(store, weights):
        return same
    check_free(store, weights.name, [weights.backbone])
    if sources is not None:
        weights = replace(weights, trained_on=f"{FOLDER}/{weights.sha256}.sources.parquet")
    with writing(store.location, "cxr weights"):
        store.location.write_bytes(weights.path, content)
        if sources is not None and weights.trained_on is not None:
            store.location.write_bytes(weights.trained_on, _parquet(sources))
        if store.append("weights", _row(weights)):
            return weights
    # Somebody else took the name meanwhile.
    if same := _same(store, weights):
        return same
    raise UsageError(_taken(weights))


def _same(store: Store, weights: RegisteredWeights) -> RegisteredWeights | None:
    found = registered(store, weights.name, weights.backbone)
    return next((w for w in found if (w.sha256, w.variant) == (weights.sha256, weights.variant)), None)


def _taken(weights: RegisteredWeights) -> str:
    return (
        f"weights {weights.name!r} of {weights.backbone} are registered already, with other content; they are never "
        "overwritten: give another --name"
    )


def _row(weights: RegisteredWeights) -> pa.Table:
    now = datetime.now(UTC).replace(tzinfo=None)
    return pa.Table.from_pylist([asdict(weights) | {"remembered": None, "created_at": now}])


def _parquet(table: pa.Table) -> pa.Buffer:
    content = pa.BufferOutputStream()
    pq.write_table(table, content, compression="zstd")
    return content.getvalue()


def find_weights(store: Store, name: str, backbones: Sequence[str] = ()) -> dict[str, RegisteredWeights]:
    """Return the weights of a name by backbone.

    Parameters
    ----------
    store : Store
    name : str
    backbones : sequence of str
        Those that have to be there.

    Raises
    ------
    UsageError
        If there is no such name, or it lacks a backbone; says what there is.
    """
    everything = registered(store)
    found = {w.backbone: w for w in everything if w.name == name}
    if not found:
        names = ", ".join(sorted({w.name for w in everything})) or "none: run cxr weights import first"
        message = f"no weights {name!r} in the store at {store.uri}; there are {names}"
        raise UsageError(f"{message}. A file or folder is given as ./{name}")
    if missing := [b for b in backbones if b not in found]:
        message = (
            f"weights {name!r} lack {', '.join(missing)}; they exist for {', '.join(found)}: import the rest, or name "
            "these with --backbones"
        )
        raise UsageError(message)
    return found
