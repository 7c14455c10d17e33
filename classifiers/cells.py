"""A cell: everything that decides the result of one fit, beside the data."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from classifiers.approaches import EMBEDDINGS, STACKER, STACKING_B
from classifiers.heads import HeadSpec, head_spec
from classifiers.labels import LabelPolicy


@dataclass(frozen=True)
class Cell:
    """One head to fit.

    Parameters
    ----------
    dataset, split : str
    head : str
        A name in `classifiers.heads.HEADS`, or a head of one's own as `classifiers.heads.head_spec` takes it. Of
        stacking B: the heads below the forest.
    backbone, spec_id, weights : str
        Where the vectors come from. ``weights`` is a name to show; ``spec_id`` already says which weights they are. Of
        several backbones together: `classifiers.approaches.ALL` or `CONCATENATED`, the other two joined by ``+``.
    labels : tuple of str
        In order: the columns of a multi-output head.
    fold : int or None
        The fold held out (kfold), else None.
    seed : int
        In [0, 2**32 - 1].
    policy : LabelPolicy
    approach : {"embeddings", "stacking-a", "stacking-b"}
    several : tuple of (str, str)
        (backbone, spec_id) of each, where there are several.
    in_sample : bool
        Of stacking B: fit the forest on what heads say of their own training images, as the published code did.
    groups : tuple of (str, tuple of str)
        Which labels of the data set a label stands for, where a label map made it.
    """

    dataset: str
    split: str
    head: str
    backbone: str
    spec_id: str
    weights: str
    labels: tuple[str, ...]
    fold: int | None = None
    seed: int = 0
    policy: LabelPolicy = field(default_factory=LabelPolicy)
    approach: str = EMBEDDINGS
    several: tuple[tuple[str, str], ...] = ()
    in_sample: bool = False
    groups: tuple[tuple[str, tuple[str, ...]], ...] = ()

    @property
    def specs(self) -> tuple[tuple[str, str], ...]:
        """Return (backbone, spec_id) of everything it reads."""
        return self.several or ((self.backbone, self.spec_id),)

    @property
    def fitted_head(self) -> HeadSpec:
        """Return the head that is fitted last and gives the probabilities."""
        return head_spec(STACKER if self.approach == STACKING_B else self.head)

    @property
    def head_name(self) -> str:
        """Return what tables call the head."""
        return head_spec(self.head).name + ("_in_sample" if self.in_sample else "")

    def described(self) -> dict[str, Any]:
        """Return all fields but what is at its default since it was added: old cells keep their id."""
        found = asdict(self)
        return {key: value for key, value in found.items() if value or key not in ("several", "in_sample", "groups")}


def cell_id(cell: Cell, digest: str) -> str:
    """Return the model's id: ``m`` and 20 hex digits over all that changes the result.

    Parameters
    ----------
    cell : Cell
    digest : str
        `classifiers.rows.CellRows.digest`: the image ids, their parts and folds, and their labels.
    """
    described = replace(cell, weights="").described()  # a name only; the weights themselves are in spec_id
    spec = head_spec(cell.head)
    source = {"source": spec.source} if spec.source else {}
    on_top = {"stacker": cell.fitted_head.params_for("")} if cell.approach == STACKING_B else {}
    identity = {**described, "digest": digest, "params": spec.params_for(cell.backbone), **source, **on_top}
    return "m" + hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:20]
