"""Where processes are killed: every failpoint, with who dies there and what they were doing."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """One place.

    Parameters
    ----------
    role : str
        ``worker`` or ``driver`` of an extraction: whose code it is; with ``--no-ray`` one process is both. Or another
        command.
    doing : str
        For the table.
    point : str
        The failpoint's name.
    once : bool
        Reached only in a store that is new.
    counts : bool
        Whether the shard in hand is unfinished there. Where it is not, a death is judged like the others, and not
        counted.
    """

    role: str
    doing: str
    point: str
    once: bool = False
    counts: bool = True


WORKER = (
    Step("worker", "images decoded", "worker.after-decode"),
    Step("worker", "networks have run", "worker.after-infer"),
    Step("worker", "half of a Parquet file of vectors written", "embeddings.half-written"),
    Step("worker", "half of a Parquet file of scores written", "scores.half-written"),
    Step("worker", "files written, not returned", "worker.after-stage"),
)
DRIVER = (
    Step("driver", "planned", "driver.after-plan"),
    Step("driver", "before the commits", "driver.before-commit"),
    Step("driver", "scores: table loaded, not committed", "scores.in-commit"),
    Step("driver", "scores: committed, not counted", "scores.committed"),
    Step("driver", "between scores and vectors", "driver.between-commits"),
    Step("driver", "vectors: table loaded, not committed", "embeddings.in-commit"),
)
NEW_STORE = (
    Step("driver", "weights: table loaded, not committed", "weights.in-commit", once=True),
    Step("driver", "specs: half of a Parquet file written", "specs.half-written", once=True),
    Step("driver", "specs: table loaded, not committed", "specs.in-commit", once=True),
    # The first shard has a broken image: stored, but for the word that one of its pairs is not to come.
    Step("driver", "rejects: half of a Parquet file written", "rejects.half-written", once=True),
    Step("driver", "rejects: table loaded, not committed", "rejects.in-commit", once=True),
)
AFTERWARDS = (
    Step("driver", "vectors: committed, not counted", "embeddings.committed", counts=False),
    Step("driver", "before the row of runs", "driver.before-run-row", counts=False),
    Step("driver", "runs: half of a Parquet file written", "runs.half-written", counts=False),
    Step("driver", "runs: table loaded, not committed", "runs.in-commit", counts=False),
)
COMPACT = (
    Step("compact", "half of a merged file written", "embeddings.half-written"),
    Step("compact", "merged files written, not committed", "embeddings.in-exchange"),
    Step("compact", "committed, other tables to come", "embeddings.exchanged"),
)
FORGET = (
    Step("forget", "buried, nothing removed", "forget.buried"),
    Step("forget", "half of a file without the person written", "embeddings.half-written"),
    Step("forget", "files without the person, not committed", "embeddings.in-exchange"),
    Step("forget", "committed, other tables to come", "embeddings.exchanged"),
    Step("forget", "gone from all tables but images", "forget.before-images"),
    Step("forget", "images: file written, not committed", "images.in-exchange"),
    Step("forget", "gone from all tables, not recorded", "images.exchanged"),
)
PURGE = (
    Step("compact --purge", "merged, not purged", "compact.merged"),
    Step("compact --purge", "checkpoint written", "embeddings.purge-checkpointed"),
    Step("compact --purge", "log kept for no time", "embeddings.purge-retention-off"),
    Step("compact --purge", "older log removed, files to come", "embeddings.purge-log-cleaned"),
    Step("compact --purge", "files removed, litter to come", "embeddings.purge-vacuumed"),
    Step("compact --purge", "in the middle of another table", "images.purge-log-cleaned"),
)
STEPS = (*WORKER, *DRIVER, *NEW_STORE, *AFTERWARDS, *COMPACT, *FORGET, *PURGE)
