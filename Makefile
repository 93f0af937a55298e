# Every target makes its own .venv when there is none; `make help` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check
# More arguments for the command behind a target: make test ARGS="-k guard"
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup quickstart test test-slow test-long check format bench clean

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | awk -F '\t' '{printf "make %-11s %s\n", $$1, $$2}'

setup: $(STAMP)  ## make .venv and install everything, once

# torch comes first, by itself: the other packages then find it there and cannot pull in another build.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
		|| { echo "PSAlign needs Python 3.10 or newer. Run: make setup PYTHON=/path/to/python3.11" >&2; exit 1; }
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(PIP) install --constraint constraints.txt torch
	$(PIP) install --constraint constraints.txt --editable '.[dev]'
	@touch $@

quickstart: $(STAMP)  ## users to report on the mini base, offline: outputs/quickstart/report.html
	$(BIN)/psalign quickstart --out outputs/quickstart $(ARGS)

# A file's tests stay in one process: they share what they need. Files in their own order, not the ones of most tests
# first: then the last ones are short, and no process waits long for the other. With an empty PYTHONDONTWRITEBYTECODE
# the processes that tests start read our modules compiled.
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

test: $(STAMP)  ## the tests (offline, CPU)
	$(PYTEST) $(ARGS)

test-slow: $(STAMP)  ## whole commands, several processes, many inputs
	$(PYTEST) -m "slow and not long and not gpu and not network" $(ARGS)

test-long: $(STAMP)  ## the tests that take minutes: many kills, long fuzzing, every published command, a browser
	$(PYTEST) -m long $(ARGS)

check: $(STAMP)  ## lint, format and types, without changing anything
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)  ## mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)  ## cost of the adapter per UNet call; the long benchmarks are named in benchmarks/README.md
	$(BIN)/python benchmarks/inference.py $(ARGS)

clean:  ## remove .venv and caches (never data, models or outputs)
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache build dist
