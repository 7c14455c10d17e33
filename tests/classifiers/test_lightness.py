from __future__ import annotations

import doctest
import subprocess
import sys
from pathlib import Path

import pytest

import classifiers

MODULES = [path.stem for path in Path(classifiers.__file__).parent.glob("[a-z]*.py")]


def test_importing_the_classifiers_loads_no_heavy_library():
    """A question in SQL must not wait for scikit-learn, and nothing here may need torch or Ray."""
    code = f"import sys, {', '.join(f'classifiers.{name}' for name in MODULES)}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "ray", "sklearn", "lightgbm", "scipy", "timm"} & set(loaded)


@pytest.mark.parametrize("name", ["ensembles", "statistics"])
def test_the_examples_in_the_documentation_hold(name):
    module = __import__(f"classifiers.{name}", fromlist=["_"])
    failures, run = doctest.testmod(module)
    assert run
    assert not failures
