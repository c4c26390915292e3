# make demo | test | check | bench | docs | fuzz: each builds .venv first where it is missing or out of date.
PYTHON ?= $(firstword $(shell command -v python3.11 python3.12 python3))
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
RUNTIME := .venv/.runtime-installed
DEV := .venv/.dev-installed

.PHONY: demo test check bench docs fuzz
.DEFAULT_GOAL := demo

demo: $(RUNTIME)
	$(BIN)/phaseveil anonymize examples/crops --out out/demo --save acquisition,heatmap,sheet
	$(BIN)/phaseveil anonymize examples/photographs --out out/demo/photographs --align

# Two processes of one thread each are quicker than one of two threads; more of them only where there is memory.
WORKERS ?= 2
test: $(DEV)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --cov=phaseveil --cov-report=term-missing:skip-covered --cov-fail-under=85

check: $(DEV)
	$(BIN)/ruff check src tests bench docs
	$(BIN)/ruff format --check src tests bench docs
	$(BIN)/mypy

bench: $(DEV)
	$(BIN)/phaseveil bench
	$(BIN)/python -m bench.anonymize_speed
	$(BIN)/python -m bench.engines

docs: $(DEV)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

fuzz: $(DEV)
	$(BIN)/python -m bench.fuzz --count 10000

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit("PhaseVeil needs Python 3.11 or later: make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv

$(RUNTIME): pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e .
	touch $@

$(DEV): pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e '.[dev]'
	touch $@ $(RUNTIME)
