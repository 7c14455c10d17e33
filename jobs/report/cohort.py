"""The data card: who is in the data set, and how often each finding was seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jobs.report import format as fmt
from jobs.report.tables import Cell, Column, Table

if TYPE_CHECKING:
    from featurestore.store.store import Store

# An image without a patient id counts as its own patient (cli.md, "Input rules").
_PATIENT = "coalesce(i.patient_id, i.image_id)"
_PART = "s.part || CASE WHEN s.fold IS NULL THEN '' ELSE ' fold ' || s.fold END"
# A split holds only the images it was made for (frontal ones); the rest of the data set has no part.
_SPLIT = "(SELECT * FROM splits WHERE dataset = $1 AND split = $2)"


@dataclass(frozen=True)
class Cohort:
    """A data set in numbers.

    Parameters
    ----------
    images, patients, studies : int
    unknown_patients : int
        Images whose source names no patient.
    facts : list of (str, str)
        What the card lists: views, sex, age, size, bits.
    parts : list of (str, int, int)
        Part (and fold) of the split, its images and patients, in the order train, val, test.
    """

    images: int
    patients: int
    studies: int
    unknown_patients: int
    facts: list[tuple[str, str]]
    parts: list[tuple[str, int, int]]


def cohort(store: Store, dataset: str, split: str) -> Cohort:
    """Return the data set in numbers; one without images has zeros and dashes."""
    row = _totals(store, dataset)
    facts = [
        ("Views", _shares(store, dataset, "view")),
        ("Sex", _shares(store, dataset, "sex")),
        ("Age", _range(row, "age", "years")),
        ("Stored size", _sizes(row)),
        ("Official parts", _shares(store, dataset, "official_part")),
    ]
    return Cohort(row["images"], row["patients"], row["studies"], row["unknown"], facts, _parts(store, dataset, split))


def _totals(store: Store, dataset: str) -> dict[str, Any]:
    sql = f"""
        SELECT count(*) AS images, count(DISTINCT {_PATIENT}) AS patients, count(DISTINCT study_id) AS studies,
               count(*) FILTER (patient_id IS NULL) AS unknown,
               min(age) AS age_min, median(age) AS age_mid, max(age) AS age_max, count(age) AS age_n,
               min(width) AS width_min, max(width) AS width_max, min(height) AS height_min, max(height) AS height_max,
               min(bits) AS bits_min, max(bits) AS bits_max
        FROM images i WHERE dataset = ?
    """
    row: dict[str, Any] = store.query(sql, [dataset]).to_pylist()[0]
    return row


def _shares(store: Store, dataset: str, column: str) -> str:
    sql = f"""
        SELECT coalesce({column}, 'not stated') AS value, count(*) AS n FROM images WHERE dataset = ?
        GROUP BY ALL ORDER BY n DESC, value
    """
    rows = store.query(sql, [dataset]).to_pylist()
    if [row["value"] for row in rows] == ["not stated"]:
        return "not stated"
    total = sum(row["n"] for row in rows)
    return ", ".join(f"{row['value']} {fmt.count(row['n'])} ({fmt.share(row['n'], total)})" for row in rows)


def _range(row: dict[str, Any], name: str, unit: str) -> str:
    if not row[f"{name}_n"]:
        return fmt.missing("the source states none")
    low, middle, high = (f"{row[f'{name}_{which}']:.0f}" for which in ("min", "mid", "max"))
    text = f"{low}{fmt.DASH}{high} {unit}, median {middle}"
    absent = row["images"] - row[f"{name}_n"]
    return f"{text}; not stated for {fmt.count(absent)}" if absent else text


def _sizes(row: dict[str, Any]) -> str:
    if row["width_min"] is None:
        return fmt.missing("no image")
    smallest, largest = (f"{row[f'width_{w}']} × {row[f'height_{w}']}" for w in ("min", "max"))
    bits = dict.fromkeys(str(row[f"bits_{w}"]) for w in ("min", "max") if row[f"bits_{w}"] is not None)
    pixels = smallest if smallest == largest else f"{smallest} to {largest}"
    return f"{pixels} pixels" + (f", {fmt.DASH.join(bits)} bit" if bits else "")


def _parts(store: Store, dataset: str, split: str) -> list[tuple[str, int, int]]:
    sql = f"""
        SELECT {_PART} AS part, count(*) AS images, count(DISTINCT {_PATIENT}) AS patients
        FROM {_SPLIT} s JOIN images i USING (image_id) GROUP BY ALL
    """
    rows = store.query(sql, [dataset, split]).to_pylist()
    return sorted(((r["part"], r["images"], r["patients"]) for r in rows), key=lambda row: _part_order(row[0]))


def _part_order(part: str) -> tuple[int, str]:
    first = part.split()[0]
    known = ("train", "val", "test")
    return (known.index(first) if first in known else len(known), part)


def label_table(store: Store, dataset: str, split: str, parts: Sequence[str], first: Sequence[str]) -> Table:
    """Return the findings: how often each is stated, and positive images and patients by part.

    Parameters
    ----------
    store : Store
    dataset, split : str
    parts : sequence of str
        Parts as `Cohort.parts` names them.
    first : sequence of str
        Labels to lead with (those that were evaluated); the others follow alphabetically.
    """
    rows = sorted(_label_rows(store, dataset), key=lambda row: _label_order(row["label"], first))
    positives = _positives(store, dataset, split)
    columns = [Column("Finding", numeric=False), Column("Positive"), Column("Uncertain"), Column("Negative")]
    columns += [Column("Unmentioned"), *(Column(part, sub="images / patients") for part in parts)]
    return Table(
        "labels",
        "Findings as the source states them",
        columns,
        [_label_cells(row, parts, positives) for row in rows],
        [_label_record(row, parts, positives) for row in rows],
        note="By part: images stated positive, and the patients they come from. Uncertain and unmentioned are kept "
        "here as they are; the AUC table counts them by the label policy, which stands under “What was run”.",
    )


def _label_order(label: str, first: Sequence[str]) -> tuple[int, str]:
    return (first.index(label) if label in first else len(first), label)


def _label_rows(store: Store, dataset: str) -> list[dict[str, Any]]:
    sql = """
        SELECT label, count(*) FILTER (value = 1) AS positive, count(*) FILTER (value = -1) AS uncertain,
               count(*) FILTER (value = 0) AS negative,
               (SELECT count(*) FROM images WHERE dataset = $1) - count(value) AS unmentioned
        FROM labels WHERE dataset = $1 GROUP BY label
    """
    rows: list[dict[str, Any]] = store.query(sql, [dataset]).to_pylist()
    return rows


def _positives(store: Store, dataset: str, split: str) -> dict[tuple[str, str], tuple[int, int]]:
    sql = f"""
        SELECT l.label, {_PART} AS part, count(*) AS images, count(DISTINCT {_PATIENT}) AS patients
        FROM labels l JOIN {_SPLIT} s USING (image_id) JOIN images i USING (image_id) WHERE l.value = 1 GROUP BY ALL
    """
    rows = store.query(sql, [dataset, split]).to_pylist()
    return {(row["label"], row["part"]): (row["images"], row["patients"]) for row in rows}


_STATED = ("positive", "uncertain", "negative", "unmentioned")
_Positives = dict[tuple[str, str], tuple[int, int]]


def _label_cells(row: dict[str, Any], parts: Sequence[str], positives: _Positives) -> list[Cell]:
    found = [positives.get((row["label"], part), (0, 0)) for part in parts]
    by_part = [Cell(f"{fmt.count(images)} / {fmt.count(patients)}") for images, patients in found]
    return [Cell(row["label"]), *(Cell(fmt.count(row[name])) for name in _STATED), *by_part]


def _label_record(row: dict[str, Any], parts: Sequence[str], positives: _Positives) -> dict[str, object]:
    record: dict[str, object] = {name: row[name] for name in ("label", *_STATED)}
    for part in parts:
        record[f"{part} positive images"], record[f"{part} positive patients"] = positives.get(
            (row["label"], part), (0, 0)
        )
    return record
