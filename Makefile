# Every target sets up what it needs. `make demo` and `make test` are all that a fresh machine has to type.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# How many test processes: as many as there are cores, each with one torch thread.
WORKERS ?= auto
# Which tests: all of them, or those named here.
TESTS ?=
export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false

.PHONY: help venv demo eval-quick test test-oldest test-slow test-all fuzz lint types format clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

venv: $(VENV)/.ready ## build .venv with the pinned versions

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -q -c constraints.txt torch
	$(PIP) install -q -c constraints.txt -e '.[dev]'
	touch $@

demo: venv ## answer questions about fresh images with 1/4 and 1/9 of the visual tokens
	$(BIN)/greedyprune demo

test: venv ## run the tests on the newest supported transformers
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) $(TESTS)

test-oldest: ## run the tests on the oldest supported transformers, in .venv-oldest
	$(MAKE) venv VENV=.venv-oldest
	.venv-oldest/bin/python -m pip install -q -c constraints-oldest.txt transformers tokenizers
	OMP_NUM_THREADS=1 .venv-oldest/bin/python -m pytest -n $(WORKERS) $(TESTS)

eval-quick: venv ## the accuracy of every method on a few questions, in two minutes
	OMP_NUM_THREADS=1 $(BIN)/greedyprune eval --quick

test-slow: venv ## ten minutes of training for each bundled model, against the recorded curves
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m slow

test-all: ## the whole matrix of families too, on the newest and the oldest supported transformers
	$(MAKE) test TESTS="-m 'not slow'"
	$(MAKE) test-oldest TESTS="-m 'not slow'"

fuzz: venv ## random cues for every method: each selection is right, or refused in words
	OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz.py --cases 12000

lint: venv ## ruff and basedpyright
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright

format: venv ## let ruff fix and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove the environments and what the tools wrote
	rm -rf .venv .venv-oldest build dist demo-output .pytest_cache .ruff_cache .hypothesis
