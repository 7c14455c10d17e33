"""Label names as the public data sets publish them, and the reading of label cells."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from featurestore.images.sources.values import parse_label

NIH_FINDINGS = (
    "Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax",
    "Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia",
)  # fmt: skip
"""The 14 findings of ChestX-ray14; ChestMNIST's columns are the same 14 in this order."""

NIH_LABELS = (*NIH_FINDINGS, "No Finding")

CHEXPERT_LABELS = (
    "No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema",
    "Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture",
    "Support Devices",
)  # fmt: skip
"""CheXpert's 14 labels in its order."""


def read_labels(cells: Mapping[str, str], names: Iterable[str]) -> tuple[dict[str, int | None], tuple[str, ...]]:
    """Read the label cells of one row.

    Returns
    -------
    labels : dict of str to (1, 0, -1, None)
        A label whose text is outside the allowed values is left out: as None it would look like "not mentioned", which
        training may turn into "absent".
    problems : tuple of str
        One sentence for each label left out.
    """
    labels: dict[str, int | None] = {}
    problems: list[str] = []
    for name in names:
        try:
            labels[name] = parse_label(cells[name])
        except ValueError as error:
            problems.append(f"label {name!r}: {error}")
    return labels, tuple(problems)
