# From a fresh clone with nothing but make, Python 3.11 or newer and a package index: `make help`.

VENV ?= .venv
PYTHON ?=
ARGS ?=
# Test processes at once. Tests wait for two thirds of their time, so three for each processor.
JOBS ?= $(shell expr 3 \* $$(nproc 2>/dev/null || echo 2))
SECONDS ?= 60
SEED ?= 1
LOOKUPS ?= 10000000
TARGET ?= line

RUN := $(VENV)/bin/python -m

export PYTHON
# Tests start some two thousand processes: without bytecode each would compile the package again.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
# Targets share one virtual environment.
.NOTPARALLEL:

.PHONY: help
help: ## this list
	@echo "make TARGET [PYTHON=/path/to/python] [ARGS='more arguments for the command']"
	@sed -n 's/^\([a-z-]*\):.*## /  \1|/p' $(MAKEFILE_LIST) | while IFS='|' read -r name text; do \
		printf '%-14s %s\n' "$$name" "$$text"; done

# One stamp for each dependency group that is in the virtual environment.
$(VENV)/.has-%: pyproject.toml constraints.txt src/shmroute/_native.c .ci/native.py
	@.ci/venv $(VENV) $*

TESTING := $(VENV)/.has-test $(VENV)/.has-redis-server $(VENV)/.has-kubernetes-tools $(VENV)/.has-browser
BENCHMARKING := $(VENV)/.has-bench $(TESTING)

.PHONY: venv
venv: $(VENV)/.has-check $(VENV)/.has-demo $(VENV)/.has-bench $(VENV)/.has-docs $(VENV)/.has-redis-server $(VENV)/.has-kubernetes-tools $(VENV)/.has-browser ## the virtual environment with everything

.PHONY: demo
demo: $(VENV)/.has-demo ## from a folder of AppModels to every worker of a server, in a minute
	$(RUN) examples.demo $(ARGS)

.PHONY: test
test: $(TESTING) ## all tests but the long ones, JOBS=6 at once (default: 3 for each processor)
	$(RUN) pytest --numprocesses=$(JOBS) --dist=worksteal --durations=15 $(ARGS)

.PHONY: test-long
test-long: $(TESTING) ## the long tests
	$(RUN) pytest -m long --timeout=7200 --hypothesis-profile=long $(ARGS)

.PHONY: faults
faults: $(TESTING) ## docs/_build/faults.md: the tests that prove each row of docs/failures.md
	$(RUN) pytest -p tests.faults.table --collect-only -q -m fault --fault-table docs/_build/faults.md >/dev/null
	@echo docs/_build/faults.md

.PHONY: check
check: $(VENV)/.has-check ## style, types, and which module may import which
	$(RUN) ruff check
	$(RUN) ruff format --check
	$(RUN) mypy
	$(RUN) mypy --platform darwin src
	$(VENV)/bin/lint-imports

.PHONY: bench
bench: $(BENCHMARKING) ## shmroute beside its peers and its former release, in a quarter of an hour
	$(RUN) benchmarks $(ARGS)

.PHONY: bench-quick
bench-quick: $(BENCHMARKING) ## the same in a minute, less exact
	$(RUN) benchmarks --quick $(ARGS)

.PHONY: chaos
chaos: $(TESTING) ## every fault at once, by a seeded schedule: SECONDS=600 SEED=1
	$(RUN) tests.chaos --seconds $(SECONDS) --seed $(SEED) $(ARGS)

.PHONY: fuzz
fuzz: $(TESTING) ## each fuzzer for SECONDS=60, from SEED=1 on
	$(RUN) tests.fuzz --seconds $(SECONDS) --seed $(SEED) $(ARGS)

.PHONY: sanitize
sanitize: $(TESTING) ## the native twin under ASan and UBSan: its tests, and LOOKUPS=10000000 in random segments
	$(RUN) tests.fuzz.sanitize --look-ups $(LOOKUPS) --seed $(SEED) $(ARGS)

.PHONY: fuzz-guided
fuzz-guided: $(VENV)/.has-fuzz $(TESTING) ## one of them guided by coverage: TARGET=line SECONDS=60
	$(RUN) tests.fuzz.guided $(TARGET) --seconds $(SECONDS) --seed $(SEED) $(ARGS)

.PHONY: docs
docs: $(VENV)/.has-docs ## the documentation as a site, in docs/_build; a warning is an error
	$(RUN) sphinx --fail-on-warning --keep-going docs docs/_build $(ARGS)

.PHONY: screenshots
screenshots: $(VENV)/.has-browser $(VENV)/.has-test ## the documentation's pictures of the status page (needs chromium)
	$(VENV)/bin/python docs/screenshots.py

.PHONY: wheel
wheel: $(VENV)/.has-build ## the wheel and the source archive, in dist/
	$(RUN) build --no-isolation $(ARGS)

.PHONY: pins
pins: ## constraints.txt anew, with the newest versions; run with the oldest Python supported
	.ci/pins

.PHONY: clean
clean: ## remove the virtual environment and whatever was made here
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache docs/_build
	rm -f src/shmroute/_native*.so
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
