# `make train` and `make test` set everything up on a fresh machine; Python 3.11 or newer and git are all they need.
PYTHON ?= python3
BIN := .venv/bin
# Up to four tests at a time. A file's tests stay in one process, and files in order: the slow ones are not the last.
PARALLEL := --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
READY := .venv/.ready

.PHONY: help train test check fix experiment clean

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/:/'

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(READY)

train: $(READY)  ## run the main job: four stages in four processes, on handwritten digits
	$(BIN)/dni train quickstart

test: $(READY)  ## run every test
	$(BIN)/python -m pytest $(PARALLEL)

check: $(READY)  ## format, lint and types, without changing anything
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/python -m mypy

fix: $(READY)  ## format, and mend what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

experiment: $(READY)  ## run an experiment: make experiment NAME=jaderberg2017_synthetic
	$(BIN)/python -m experiments.$(NAME).run

clean:  ## remove the environment and the caches
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache
