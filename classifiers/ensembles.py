"""Several models' probabilities made into one, as the paper does: simple and entropy-weighted averaging.

>>> import numpy as np
>>> P = np.array([[[0.5]], [[0.9]]])  # two models, one image, one label
>>> round(float(simple(P)[0, 0]), 3), round(float(entropy_weighted(P)[0, 0]), 3)
(0.7, 0.9)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

NO_WEIGHT = 1e-9
"""Below this sum of weights every model is at 0.5, and the plain mean stands (our decision, not the paper's)."""


def simple(P: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average the models.

    Parameters
    ----------
    P : numpy.ndarray of shape (n_models, n_images, n_labels), float64
        Probabilities in [0, 1]; nan where a model has none (its cell failed): that model is left out there.

    Returns
    -------
    numpy.ndarray of shape (n_images, n_labels), float64
        In [0, 1]; nan where no model has a probability.

    Raises
    ------
    ValueError
        A probability lies outside [0, 1], or P has not three dimensions.
    """
    _check(P)
    return _weighted(P, (~np.isnan(P)).astype(np.float64))


def entropy_weighted(P: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average the models, each weighted by how sure it is of this image and label.

    With the binary entropy ``H(p) = -p log2 p - (1-p) log2(1-p)``, ``0 log 0 = 0``, the result is
    ``sum_k (1 - H(p_k)) p_k / sum_k (1 - H(p_k))``: Giacomello et al., arXiv 2105.02966, as the authors' code has it
    (the thesis prints it without the division). Where the weights sum to less than 1e-9 it is the plain mean.

    Parameters
    ----------
    P : numpy.ndarray of shape (n_models, n_images, n_labels), float64
        As in `simple`.

    Returns
    -------
    numpy.ndarray of shape (n_images, n_labels), float64
        In [0, 1]; nan where no model has a probability.

    Raises
    ------
    ValueError
        As in `simple`.

    Notes
    -----
    It is not monotone: beside a model at 0.9, raising the other from 0.5 to 0.6 lowers the result from 0.900 to 0.884,
    for at 0.5 the other had no say. On rare labels it favours confident zeros. Its values are not calibrated.

    It is also no sum over models that an explanation could be spread over: the weights depend on the probabilities.
    """
    _check(P)
    weight = np.where(np.isnan(P), 0.0, 1.0 - binary_entropy(P))
    certain = weight.sum(axis=0) >= NO_WEIGHT
    return np.where(certain, _weighted(P, np.where(certain, weight, 1.0)), simple(P))


def binary_entropy(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return H(p) in bits, in [0, 1], of probabilities of any shape; nan stays nan."""
    from scipy.special import entr

    return np.asarray((entr(p) + entr(1.0 - p)) / np.log(2.0))


def _weighted(P: NDArray[np.float64], weight: NDArray[np.float64]) -> NDArray[np.float64]:
    total = weight.sum(axis=0)
    mean: NDArray[np.float64] = (weight * np.nan_to_num(P)).sum(axis=0) / np.where(total > 0, total, np.nan)
    return mean


def _check(P: NDArray[np.float64]) -> None:
    if P.ndim != 3:
        raise ValueError(f"probabilities of shape {P.shape}: expected (n_models, n_images, n_labels)")
    outside = (P < 0) | (P > 1)
    if outside.any():
        raise ValueError(f"{outside.sum()} probabilities outside [0, 1], such as {P[outside][0]}; pass probabilities")
