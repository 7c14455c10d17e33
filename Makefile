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
	@$(PIP) --editable '.[openvino]'
	@touch $@

$(VENV)/.test: $(VENV)/.core
	@$(PIP) --editable '.[openvino,test]'
	@touch $@

demo: install
	$(BIN)/cxr demo --folder demo

# Two processes, each with whole files; what starts Ray or kills processes wants the machine for itself, afterwards.
test: $(VENV)/.test
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not ray and not chaos"
	$(BIN)/python -m pytest -m "ray or chaos"

# What answers in under 90 seconds: no Ray, nothing that kills processes or takes long.
test-fast: $(VENV)/.test
	$(BIN)/python -m pytest -n 2 -m "not slow and not ray and not chaos and not browser"

check: $(VENV)/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(MAKE) test

format: $(VENV)/.test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf build demo .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

.PHONY: chaos
# 180 processes killed between all steps of a commit and 20 through Ray, then the oracle; some ten minutes.
chaos: $(VENV)/.test
	$(BIN)/python -m tests.chaos.run

.PHONY: bench-extract
# Ours beside the networks alone, a hand-written loop and Ray Data; over an hour on two cores that do nothing else.
bench-extract: $(VENV)/.test
	$(BIN)/python -m tests.benchmarks.extract

.PHONY: bench-store
# Ours beside plain pyarrow, deltalake and DuckDB on the same files; under ten minutes on two cores, 2 GB of disk.
bench-store: $(VENV)/.test
	$(BIN)/python -m tests.benchmarks.store

.PHONY: bench-heads
# Heads on stored vectors beside plain scikit-learn: the authors' workload, a new head, faster forests; some five minutes.
bench-heads: $(VENV)/.test
	$(BIN)/python -m tests.benchmarks.heads

.PHONY: coverage
# How often the AUC's 95 % interval holds the truth, by simulation, as a grid; two minutes.
coverage: $(VENV)/.test
	$(BIN)/python -m tests.classifiers.coverage_grid

.PHONY: bench-train
# Our training loop beside a plain PyTorch loop on preloaded tensors; some five minutes on two cores that do nothing else.
bench-train: $(VENV)/.test
	$(BIN)/python -m tests.benchmarks.train

$(VENV)/.parity: $(VENV)/.test
	@$(PIP) --editable '.[parity]'
	@touch $@

.PHONY: parity
# All seven networks of keras.applications beside ours, random weights in both namings of Keras; five minutes on two cores.
parity: $(VENV)/.parity
	$(BIN)/python -m tests.parity
