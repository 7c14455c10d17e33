"""Rows to records: rows that name one image and agree are one, rows that contradict each other are none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path

from featurestore.errors import ImageRejected
from featurestore.images.records import ImageRecord, Reject


@dataclass(frozen=True)
class Parsed:
    """What one row says.

    Parameters
    ----------
    line : int
        Where it stands in its table.
    record : ImageRecord
        Complete but for the uri.
    problems : tuple of str
        Labels that could not be read, one sentence each; these labels are left out of the record.
    """

    line: int
    record: ImageRecord
    problems: tuple[str, ...] = ()


def stream(
    parse: Callable[[], Iterable[Parsed | Reject]], table: Path, locate: Callable[[str], Path]
) -> Iterator[ImageRecord | Reject]:
    """Yield records and rejects of a table whose rows may repeat or contradict each other.

    Parameters
    ----------
    parse : callable
        Reads the table from its start; called twice, the first time to find repeated keys. What it keeps between is
        16 bytes of hashes a row, not the rows.
    table : Path
        The table, for the rejects' uri where no file is known.
    locate : callable
        From source key to file; raises `ImageRejected` (stage ``path``).
    """
    repeated, contradicting = _compare(parse())
    emitted: set[bytes] = set()
    for item in parse():
        if isinstance(item, Reject):
            yield item
            continue
        key = _digest(item.record.source_key)
        if key in contradicting:
            yield _duplicate(table, item)
        elif key not in emitted:
            if key in repeated:
                emitted.add(key)
            yield from _place(table, item, locate)


def _compare(items: Iterable[Parsed | Reject]) -> tuple[set[bytes], set[bytes]]:
    """Return the keys that occur again, and those among them whose rows differ."""
    first: dict[bytes, bytes] = {}
    repeated: set[bytes] = set()
    contradicting: set[bytes] = set()
    for item in items:
        if isinstance(item, Reject):
            continue
        key, content = _digest(item.record.source_key), _digest(repr((item.record, item.problems)))
        if key not in first:
            first[key] = content
        else:
            (repeated if first[key] == content else contradicting).add(key)
    return repeated, contradicting


def _digest(text: str) -> bytes:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()


def _duplicate(table: Path, item: Parsed) -> Reject:
    key = item.record.source_key
    reason = f"line {item.line} contradicts another row for {key!r}; none of them is trusted, keep one"
    return Reject(f"{table}#{item.line}", key, "duplicate", reason, patient_id=item.record.patient_id)


def _place(table: Path, item: Parsed, locate: Callable[[str], Path]) -> Iterator[ImageRecord | Reject]:
    key, patient = item.record.source_key, item.record.patient_id
    try:
        uri = str(locate(key))
    except ImageRejected as error:
        yield Reject(f"{table}#{item.line}", key, error.stage, error.reason, error.retryable, patient)
        return
    yield replace(item.record, uri=uri)
    for problem in item.problems:
        yield Reject(uri, key, "label", f"line {item.line}: {problem}", patient_id=patient)
