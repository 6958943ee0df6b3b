# Every target does its own set-up: `make test` works on a fresh machine with Python 3.11.

PYTHON ?= python3.11
BIN := .venv/bin
# Small networks are fastest on one thread, and tests and runs go side by side.
export OMP_NUM_THREADS = 1

.PHONY: help install demo test test-long lint types format clean

help:
	@echo "make install   .venv/ with the pinned versions and all development extras"
	@echo "make demo      train, prune early and compare on CartPole-v1 (under 3 minutes)"
	@echo "make test      the tests (make test-long: those of studies and clusters, which take minutes)"
	@echo "make lint      ruff, checks alone"
	@echo "make types     mypy"
	@echo "make format    ruff, mends what it can"
	@echo "make clean     remove .venv/ and caches"

install: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not installed; name another with: make PYTHON=python3 install"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --editable '.[dev]'
	touch $@

demo: install
	$(BIN)/python scripts/demo.py

test: install
	$(BIN)/python -m pytest -n 2

test-long: install
	$(BIN)/python -m pytest -n 2 -m long

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .hypothesis .mypy_cache .pytest_cache .ruff_cache build *.egg-info
