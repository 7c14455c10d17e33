"""The labels' tree, one level as the code and full paths as the text."""

from __future__ import annotations

import doctest

import numpy as np
import pytest

from classifiers.cnn import hierarchy, targets
from classifiers.cnn.hierarchy import conditional_rows, parents_present, path, unconditional
from featurestore.errors import UsageError
from featurestore.images.sources.labels import CHEXPERT_LABELS

LABELS = list(CHEXPERT_LABELS)
AT = {label: i for i, label in enumerate(LABELS)}


@pytest.mark.parametrize("module", [hierarchy, targets])
def test_the_examples_hold(module) -> None:
    assert doctest.testmod(module).failed == 0


def test_one_level_multiplies_six_labels_by_their_parent() -> None:
    p = np.random.default_rng(0).random((5, 14))
    found = unconditional(p, LABELS, "code")
    for label in LABELS:
        opacity = label in ("Lung Lesion", "Edema", "Consolidation", "Pneumonia", "Atelectasis")
        parent = "Lung Opacity" if opacity else "Enlarged Cardiomediastinum" if label == "Cardiomegaly" else None
        factor = 1.0 if parent is None else p[:, AT[parent]]
        np.testing.assert_allclose(found[:, AT[label]], p[:, AT[label]] * factor)


def test_the_full_path_differs_for_pneumonia_only() -> None:
    p = np.random.default_rng(1).random((5, 14))
    code, text = unconditional(p, LABELS, "code"), unconditional(p, LABELS, "text")
    assert [label for label in LABELS if not np.allclose(code[:, AT[label]], text[:, AT[label]])] == ["Pneumonia"]
    product = p[:, AT["Pneumonia"]] * p[:, AT["Consolidation"]] * p[:, AT["Lung Opacity"]]
    np.testing.assert_allclose(text[:, AT["Pneumonia"]], product)
    assert path("Pneumonia", "text") == ["Consolidation", "Lung Opacity"]


def test_an_ancestor_that_is_not_trained_is_left_out() -> None:
    p = np.array([[0.5, 0.4]])
    assert unconditional(p, ["Pneumonia", "Lung Opacity"], "text").tolist() == [[0.2, 0.4]]
    assert unconditional(p, ["Pneumonia", "Fracture"], "text").tolist() == [[0.5, 0.4]]


def test_a_label_counts_where_all_its_ancestors_are_certainly_present() -> None:
    labels = ["Lung Opacity", "Consolidation", "Pneumonia", "Fracture"]
    codes = np.array([[1, 1, 1, 0], [1, 0, 0, 0], [-1, 1, 1, 1], [0, 0, 0, 1]], np.int8)
    assert parents_present(codes, labels, "text").tolist() == [
        [True, True, True, True], [True, True, False, True], [True, False, False, True], [True, False, False, True],
    ]  # fmt: skip
    assert conditional_rows(codes, labels, "text").tolist() == [True, True, True, False]
    assert conditional_rows(codes, labels, "code").tolist() == [True, True, False, False]


def test_without_any_parent_there_is_nothing_conditional() -> None:
    with pytest.raises(UsageError, match=r"--conditional code: no training image shows a parent label \(Enlarged"):
        conditional_rows(np.ones((2, 1), np.int8), ["Fracture"], "code")
    with pytest.raises(UsageError, match="hierarchy 'icd': choose one of code, text"):
        path("Edema", "icd")
