"""What could not be used, by stage and reason, without naming a file or a patient."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from jobs.report import format as fmt
from jobs.report.tables import Cell, Column, Table

if TYPE_CHECKING:
    from featurestore.store.store import Store

SHOWN = 20
HIDDEN = "‹hidden›"
_WORD = re.compile(r"[\w.-]+")
_PATIENT = re.compile(r"(?i)(patients?(?:[ _]?ids?)?\s*[:=]?\s*)['\"]?[\w.-]*\d[\w.-]*['\"]?")


# A reject whose cause is gone counts no more: the image was ingested later, or its vector was written in the end.
_STANDING = """
(SELECT * FROM rejects r WHERE r.dataset = ?
 AND NOT (r.image_id IS NULL AND r.stage IN ('path', 'decode', 'size', 'colour', 'duplicate') AND EXISTS (
     SELECT 1 FROM images i WHERE i.dataset = r.dataset AND i.source_key = r.source_key))
 AND NOT (r.image_id IS NOT NULL AND r.spec_id IS NOT NULL AND EXISTS (
     SELECT 1 FROM embeddings e WHERE e.image_id = r.image_id AND e.spec_id = r.spec_id)))
"""


def total(store: Store, dataset: str) -> int:
    """Return how many rejects the data set has."""
    return int(store.query(f"SELECT count(*) AS n FROM {_STANDING}", [dataset]).to_pylist()[0]["n"])


def by_stage(store: Store, dataset: str) -> Table:
    """Return rejects counted by stage."""
    sql = f"""
        SELECT stage, count(*) AS rejects, count(*) FILTER (retryable) AS retryable FROM {_STANDING}
        GROUP BY stage ORDER BY rejects DESC, stage
    """
    rows = store.query(sql, [dataset]).to_pylist()
    columns = [Column("Stage", numeric=False), Column("Rejects"), Column("Retryable")]
    cells = [[Cell(r["stage"]), Cell(fmt.count(r["rejects"])), Cell(fmt.count(r["retryable"]))] for r in rows]
    return Table("rejects-by-stage", "Rejects by stage", columns, cells, rows)


def reasons(store: Store, dataset: str) -> Table:
    """Return the first rejects with their reasons.

    File names and reasons often carry patient ids (``patient00001/...``, ``00000001_000.png``), so names are left
    out and whatever in a reason could be one is hidden; the store keeps both.
    """
    sql = f"""
        SELECT stage, reason, retryable, uri, source_key FROM {_STANDING}
        ORDER BY stage, uri, reason LIMIT ?
    """
    rows = store.query(sql, [dataset, SHOWN]).to_pylist()
    patients = _patients(store, dataset)
    records = [_record(number, row, patients) for number, row in enumerate(rows, 1)]
    columns = [
        Column("No."),
        Column("Stage", numeric=False),
        Column("Reason", numeric=False),
        Column("Retryable", numeric=False),
    ]
    cells = [
        [Cell(str(r["number"])), Cell(str(r["stage"])), Cell(str(r["reason"])), Cell("yes" if r["retryable"] else "no")]
        for r in records
    ]
    return Table("rejects", "Reasons", columns, cells, records, note=_note(store, dataset), css="prose")


def _note(store: Store, dataset: str) -> str:
    number = total(store, dataset)
    which = f"The first {SHOWN} of {fmt.count(number)}" if number > SHOWN else f"All {fmt.count(number)}"
    return (
        f'{which}. File names can carry patient ids and are left out; cxr sql "SELECT uri, stage, reason FROM rejects '
        f"WHERE dataset = '{dataset}' ORDER BY stage, uri, reason\" lists them in this order."
    )


def _patients(store: Store, dataset: str) -> frozenset[str]:
    sql = "SELECT DISTINCT patient_id FROM images WHERE dataset = ? AND patient_id IS NOT NULL"
    return frozenset(row["patient_id"] for row in store.query(sql, [dataset]).to_pylist())


def _record(number: int, row: dict[str, Any], patients: frozenset[str]) -> dict[str, object]:
    reason = redact(row["reason"] or "", [row["uri"] or "", row["source_key"] or ""], patients)
    return {"number": number, "stage": row["stage"], "reason": reason, "retryable": row["retryable"]}


def redact(reason: str, names: list[str], patients: frozenset[str]) -> str:
    """Return a reason without file names and patient ids.

    Parameters
    ----------
    reason : str
    names : list of str
        The file's address and key; each, its parts with a digit in them and their stems are hidden.
    patients : frozenset of str
        The data set's patient ids. Those of up to three digits are hidden only behind the word "patient": alone they
        are ordinary numbers.
    """
    for piece in sorted(_pieces(names), key=len, reverse=True):
        reason = reason.replace(piece, HIDDEN)
    reason = _PATIENT.sub(rf"\1{HIDDEN}", reason)
    return _WORD.sub(lambda word: HIDDEN if _names_patient(word[0], patients) else word[0], reason)


def _pieces(names: list[str]) -> set[str]:
    whole = {name for name in names if name}
    parts = {part for name in whole for part in PurePosixPath(name.replace("\\", "/")).parts if re.search(r"\d", part)}
    stems = {part.rsplit(".", 1)[0] for part in parts}
    return {piece for piece in whole | parts | stems if len(piece) > 3}


def _names_patient(word: str, patients: frozenset[str]) -> bool:
    bare = word.strip(".-")
    return bare in patients and not (bare.isdigit() and len(bare) <= 3)
