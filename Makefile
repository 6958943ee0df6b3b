# Every target does its own set-up: `make demo` and `make test` work on a fresh machine with Python 3.10 to 3.13.

# The first of these that runs; constraints.txt holds exact versions for Python 3.11 alone.
PYTHON ?= $(firstword $(foreach version,3.11 3.12 3.13 3.10,$(shell python$(version) -c 'print("python$(version)")' 2>/dev/null)) python3)
BIN := .venv/bin
PINNED = $(shell $(BIN)/python -c 'import sys; print("PIP_CONSTRAINT=constraints.txt" * (sys.version_info[:2] == (3, 11)))' 2>/dev/null)
# Small networks are fastest on one thread, and tests and runs go side by side.
export OMP_NUM_THREADS = 1

.PHONY: help install demo test test-long docs dist lint types format clean

help:
	@echo "make install   .venv/ with the pinned versions and all development extras"
	@echo "make demo      what pruning gives and what not, on SAC and Pendulum-v1 (about five minutes; installs little)"
	@echo "make test      the tests (make test-long: the whole support matrix, RL Zoo, killed sweeps, clusters)"
	@echo "make docs      the documentation as a site, in site/"
	@echo "make dist      source distribution and wheel, checked, in dist/"
	@echo "make lint      ruff, checks alone"
	@echo "make types     mypy"
	@echo "make format    ruff, mends what it can"
	@echo "make clean     remove .venv/ and caches"

install: .venv/.installed

$(BIN)/python:
	@$(PYTHON) --version || { echo "$(PYTHON) does not run; name another with: make PYTHON=python3 ..."; exit 1; }
	$(PYTHON) -m venv .venv

.venv/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(PINNED) $(BIN)/python -m pip install --editable '.[dev]'
	touch $@ .venv/.scripts

# What the demonstration needs; all development extras bring it too.
.venv/.scripts: pyproject.toml constraints.txt | $(BIN)/python
	$(PINNED) $(BIN)/python -m pip install --editable '.[scripts]'
	touch $@

demo: .venv/.scripts
	$(BIN)/python scripts/demo.py

test: install
	$(BIN)/python -m pytest -n 2

test-long: install
	$(BIN)/python -m pytest -n 2 -m long

docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

dist: install
	$(BIN)/python -m pip install --quiet 'twine>=6'
	$(BIN)/python scripts/lab/package.py

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist site *.egg-info
