# Everything runs from .venv, which the first target that needs it makes. Versions are pinned in constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: install demo test test-fast check format clean

install: $(VENV)/.core

$(VENV)/.core: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; name one with make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV): several GB with torch, some minutes the first time"
	@$(PIP) --editable .
	@touch $@

$(VENV)/.test: $(VENV)/.core
	@$(PIP) --editable '.[test]'
	@touch $@

demo: install
	$(BIN)/cxr demo --folder demo

test: $(VENV)/.test
	$(BIN)/python -m pytest

# What answers in under 90 seconds: no Ray, nothing that kills processes or takes long.
test-fast: $(VENV)/.test
	$(BIN)/python -m pytest -n 2 -m "not slow and not ray and not chaos and not browser"

check: $(VENV)/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest

format: $(VENV)/.test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf build demo .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
