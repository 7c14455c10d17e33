"""The intervals hold the truth as often as they say, where there are patients enough."""

from __future__ import annotations

import pytest

from tests.classifiers.coverage_grid import coverage

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("correlation", [0.0, 0.5])
def test_with_fifty_positive_patients_they_cover_what_they_say(correlation):
    found = coverage(50, 0.85, correlation, simulations=400)
    # 95 % +- 3 standard errors of 400 simulations.
    assert 0.917 <= found.covered <= 0.983
    assert found.without == 0


def test_with_five_there_is_none():
    assert coverage(5, 0.85, 0.5, simulations=20).without == 1
