"""The house's rules that no type checker sees: who imports whom, and how much a light import loads."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import jobs

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("featurestore", "classifiers", "xai", "jobs")
HEAVY = {"torch", "torchvision", "timm", "ray", "sklearn", "lightgbm", "shap", "scipy", "matplotlib", "pandas"}
BY_ARROW = {"pandas"}  # where it is installed, `pyarrow.dataset` imports it
DRIVERS = sorted(module.name for module in pkgutil.walk_packages(jobs.__path__, "jobs."))


def loaded_by(code: str) -> set[str]:
    """Return the top-level modules a fresh interpreter holds after running ``code``."""
    script = f"{code}\nimport sys\nprint(*sys.modules)"
    process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=False)
    assert process.returncode == 0, process.stderr
    return {name.partition(".")[0] for name in process.stdout.split()}


def test_the_light_imports_load_nothing_heavy():
    loaded = loaded_by("import featurestore, classifiers, xai")
    assert not loaded & HEAVY
    assert not loaded & {"duckdb", "pyarrow", "deltalake", "numpy"}


def test_a_query_loads_nothing_heavy(tmp_path):
    code = f"""
import pyarrow as pa, featurestore
store = featurestore.Store({str(tmp_path)!r})
store.append("images", pa.table({{"image_id": ["a"]}}))
featurestore.connect(store.uri).sql("SELECT image_id FROM images").fetchall()
store.query("SELECT image_id FROM images").to_pylist()
"""
    assert not loaded_by(code) & (HEAVY - BY_ARROW)


def test_the_store_on_its_own_loads_nothing_heavy():
    modules = ("catalogue", "commit", "dataset", "engine", "files", "guard", "location", "matrix", "schema", "snapshot")
    code = "import featurestore.store, " + ", ".join(f"featurestore.store.{name}" for name in modules)
    assert not loaded_by(code) & (HEAVY - BY_ARROW)


def test_no_driver_loads_torch():
    """Importing every module of `jobs` leaves torch to the workers."""
    assert {"jobs.extract", "jobs.run", "jobs.train", "jobs.cli.main"} <= set(DRIVERS)
    assert not loaded_by("import " + ", ".join(DRIVERS)) & {"torch", "torchvision", "timm"}


def test_help_loads_nothing_heavy():
    assert not loaded_by("from jobs.cli.main import run\nassert run(['--help']) == 0") & HEAVY


def test_every_package_is_ours():
    code = f"import {', '.join(PACKAGES)}\nprint({', '.join(f'{name}.__file__' for name in PACKAGES)}, sep='\\n')"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True).stdout
    assert [Path(line).resolve() for line in output.splitlines()] == [ROOT / name / "__init__.py" for name in PACKAGES]


@pytest.mark.parametrize("name", PACKAGES)
def test_every_folder_of_modules_is_a_package(name):
    folders = {path.parent for path in (ROOT / name).rglob("*.py")}
    assert [folder for folder in folders if not (folder / "__init__.py").is_file()] == []


def test_the_import_contracts_are_kept():
    code = "import sys; from importlinter.cli import lint_imports_command as c; sys.argv[1:] = ['--no-cache']; c()"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert process.returncode == 0, process.stdout + process.stderr
    assert "0 broken" in process.stdout
    assert "4 kept" in process.stdout


def test_the_contracts_speak_of_every_package():
    """A contract over a package that is not listed would be kept by saying nothing."""
    import tomllib

    tool = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    assert tuple(sorted(tool["importlinter"]["root_packages"])) == tuple(sorted(PACKAGES))
    assert tool["importlinter"]["contracts"][0]["layers"] == ["jobs", "xai", "classifiers", "featurestore"]
