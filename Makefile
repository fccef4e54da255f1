# A fresh clone needs python3 (3.11 or newer, with venv and pip) and make; the rest comes by itself.
#
#   make demo       decode with the embedded pair: plain, speculative, parallel
#   make test       the tests
#   make quick      those that take no time: without the slow ones and without Ray
#   make check      style, types and import contracts
#   make notebooks  execute them all, and store what they show
#   make pair       train the embedded pair again (long)
#   make setup      the environment in .venv, done by all of the above when it is missing or stale
#   make clean      back to a fresh clone

SHELL := /bin/sh
VENV := .venv
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip --disable-pip-version-check
STAMP := $(VENV)/installed
SOURCES := actors analysis benchmarks decoding docs notebooks pearl simulator tests tools

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo test quick check format notebooks pair clean

help:
	@sed -n 's/^#   //p' Makefile

setup: $(STAMP)

demo: $(STAMP)
	$(VENV)/bin/pearl demo

# Two at a time, a file each: what a file starts, it starts once. In order, so that what is left to
# the end are many small files and not one long one.
PYTEST := $(RUN) -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test: $(STAMP)
	$(PYTEST)

quick: $(STAMP)
	$(PYTEST) -m "not slow and not ray"

check: $(STAMP)
	$(RUN) -m ruff check $(SOURCES)
	$(RUN) -m ruff format --check $(SOURCES)
	$(RUN) -m mypy
	$(VENV)/bin/lint-imports --no-cache

format: $(STAMP)
	$(RUN) -m ruff check --fix $(SOURCES)
	$(RUN) -m ruff format $(SOURCES)

notebooks: $(STAMP)
	$(RUN) -m tools.notebooks

pair: $(STAMP)
	$(RUN) -m pearl.actors.pair.train

clean:
	rm -rf $(VENV) build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +

# An older pip downloads whole wheels to read their metadata, hence its upgrade first. Torch goes
# before the rest because its build depends on the machine.
$(STAMP): pyproject.toml constraints.txt tools/install_torch.py
	@$(RUN) -m pip --version >/dev/null 2>&1 || { \
	  for python in $(PYTHON) python3 python3.14 python3.13 python3.12 python3.11; do \
	    if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	      echo "setting up $(VENV) with $$($$python --version); this takes a few minutes once"; \
	      exec $$python -m venv --clear $(VENV); \
	    fi; \
	  done; \
	  echo "Python 3.11 or newer is needed; install it, or name it: make setup PYTHON=/path/to/python3" >&2; \
	  exit 1; \
	}
	$(PIP) install --quiet 'pip>=24.1'
	$(RUN) tools/install_torch.py
	$(PIP) install --quiet --constraint constraints.txt --editable '.[run,gguf,parquet,dev]'
	@touch $@
