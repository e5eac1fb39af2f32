# `make check` is what CI runs. Everything works without make too: the lines are short.
PYTHON ?= .venv/bin/python

.PHONY: setup hooks fmt lint types test full check tables

setup:       ## Install for development (compiles the kernels if there is a C++ compiler)
	python3 -m venv .venv && .venv/bin/pip install -q -c constraints/tested.txt -e '.[dev]'

hooks:       ## Run lint, format and types before every commit, with the tools of the environment
	$(PYTHON) -m pip install -q -c constraints/tested.txt 'pre-commit>=4'
	$(PYTHON) -m pre_commit install

fmt:         ## Format and mend what lint can mend
	$(PYTHON) -m ruff format . && $(PYTHON) -m ruff check --fix .

lint:
	$(PYTHON) -m ruff check . && $(PYTHON) -m ruff format --check .

types:
	$(PYTHON) -m pyright --pythonpath $(PYTHON)

test:        ## The fast tests, of every commit: minutes
	$(PYTHON) -m pytest

full:        ## With the slow ones; what it said is in tests/full.log
	bash -o pipefail -c "{ git describe --always --dirty; date -u +%F; \
	$(PYTHON) -m pytest -m 'not network' --no-header --durations=20; } 2>&1 | tee tests/full.log"

tables:      ## Rewrite the measured tables of README and docs from committed results
	$(PYTHON) docs/tables.py

check:       ## What CI runs
	bash .ci/run
