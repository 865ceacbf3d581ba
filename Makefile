# Two commands do everything on a fresh machine: `make train` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# Passed on: make train ARGS="reward=static seed=1", make test ARGS="-k pairs"
ARGS ?=

.PHONY: help train test lint types clean

help:  ## list these targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## */  make \1\t/' | expand -t 16

$(INSTALLED): pyproject.toml setup.py constraints.txt
	@echo "setting up $(VENV) (once)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
		|| { echo "Python 3.10 or newer is needed: make PYTHON=python3.11 ..."; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --upgrade pip
	@$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	@touch $@

train: $(INSTALLED)  ## set up, then train policy and reward model on the embedded task
	@$(BIN)/cooper-train $(ARGS)

test: $(INSTALLED)  ## set up, then run the tests
	@$(BIN)/python -m pytest -n logical --maxprocesses 8 --dist loadfile $(ARGS)

lint: $(INSTALLED)  ## style, import layers
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports

types: $(INSTALLED)  ## static types
	@$(BIN)/pyright -p pyproject.toml --pythonpath $(BIN)/python

clean:  ## remove the environment and build results
	rm -rf $(VENV) build dist *.egg-info src/*.egg-info
