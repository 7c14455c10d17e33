"""How often the 95 % interval of `classifiers.statistics.clustered_auc` holds the true AUC: `make coverage`.

Scores are normal; a patient's images share a part of their noise. The true AUC is known: Phi(shift / sqrt 2).
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from classifiers.statistics import AucResult, clustered_auc
from tests.benchmarks.table import print_table

PATIENTS, AREAS, CORRELATIONS = (5, 10, 20, 50, 200), (0.70, 0.85, 0.95), (0.0, 0.5)
SIMULATIONS = 1000
IMAGES = (1, 2, 3, 4)
"""Of a patient, each as likely as another."""
NEGATIVES = 3
"""Patients without the finding for each with it."""


@dataclass(frozen=True)
class Coverage:
    """What came of one setting.

    Parameters
    ----------
    covered : float or None
        Share of the intervals that hold the true AUC; None where there were none.
    width : float or None
        Their mean width.
    without : float
        Share of the simulations without an interval.
    """

    covered: float | None
    width: float | None
    without: float


def simulate(
    patients: int, area: float, correlation: float, rng: np.random.Generator, level: float = 0.95
) -> AucResult:
    """Draw one data set and return its AUC with the interval."""
    owner = np.repeat(np.arange(patients * (1 + NEGATIVES)), rng.choice(IMAGES, patients * (1 + NEGATIVES)))
    y = (owner < patients).astype(float)
    shift = NormalDist().inv_cdf(area) * np.sqrt(2)
    shared = rng.normal(size=patients * (1 + NEGATIVES))[owner]
    noise = np.sqrt(correlation) * shared + np.sqrt(1 - correlation) * rng.normal(size=len(owner))
    return clustered_auc(y, shift * y + noise, owner)


def coverage(patients: int, area: float, correlation: float, simulations: int = SIMULATIONS, seed: int = 0) -> Coverage:
    """Return how the intervals of many data sets do."""
    rng = np.random.default_rng([seed, patients, round(area * 100), round(correlation * 100)])
    found = [simulate(patients, area, correlation, rng) for _ in range(simulations)]
    limits = [(r.lo, r.hi) for r in found if r.lo is not None and r.hi is not None]
    without = 1 - len(limits) / simulations
    if not limits:
        return Coverage(None, None, without)
    return Coverage(
        float(np.mean([lo <= area <= hi for lo, hi in limits])), float(np.mean([hi - lo for lo, hi in limits])), without
    )


def main() -> int:
    """Print the grid."""
    rows = []
    for patients in PATIENTS:
        for area in AREAS:
            for correlation in CORRELATIONS:
                found = coverage(patients, area, correlation)
                rows.append(
                    {
                        "positive patients": patients,
                        "true AUC": area,
                        "correlation": correlation,
                        "coverage": found.covered,
                        "mean width": found.width,
                        "without interval": found.without,
                    }
                )
    print_table(f"95 % intervals, {SIMULATIONS} simulations each", rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
