# Two commands do everything from a fresh checkout: `make demo` and `make test`. docs/testing.md describes the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO ?=
SEEDS ?= 0..25
RUNS ?= 500000
# One more than processors, because some tests wait.
JOBS ?= $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1)
PYTEST := $(BIN)/python -m pytest -p tests.parallel --jobs $(JOBS)
# Where a user's setting forbids bytecode, every worker and process of a test would compile everything anew.
export PYTHONDONTWRITEBYTECODE =

.PHONY: demo test test-slow test-package test-compose test-all chaos fuzz lint docs protos format clean
.DELETE_ON_ERROR:

demo: $(VENV)/.installed
	$(BIN)/edgenode demo $(DEMO)

# What a person waits for. mypy takes one processor for half a minute: the tests begin meanwhile.
test: $(VENV)/.installed-dev
	$(MAKE) --no-print-directory lint & lint=$$!; $(PYTEST) -m "not slow" || failed=tests; \
	wait $$lint || failed="$$failed lint"; test -z "$$failed" || { echo "failed: $$failed"; exit 1; }

# The rest: more seeds, every mutant, every crash, the chaos scenarios, the package. Floods measure rates, so alone.
test-slow: $(VENV)/.installed-integrations
	$(PYTEST) -m slow --ignore=tests/floods
	$(BIN)/python -m pytest -m slow tests/floods

# The source distribution and the wheel, built, checked and installed alone: a part of test-slow.
test-package: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -s -m slow tests/test_installation.py

# deploy/compose.yaml for real: builds the image and runs the ring. Needs a Docker engine with `docker compose`.
test-compose: $(VENV)/.installed-dev
	$(BIN)/python -m pytest deploy

# Everything that CI runs, the containers only where a Docker engine answers.
test-all:
	$(MAKE) test
	$(MAKE) test-slow
	if docker info >/dev/null 2>&1; then $(MAKE) test-compose; else echo "no Docker engine: no test of the containers"; fi

# The chaos scenarios, many times. Network faults need root, iproute2, iptables and faketime.
chaos: $(VENV)/.installed-dev
	$(BIN)/python -m pytest tests/chaos --seeds $(SEEDS)

# Every decoder of bytes from outside, RUNS times in all: about a minute. Needs atheris, so Linux on x86-64.
fuzz: $(VENV)/.installed-dev
	$(BIN)/python -m tests.fuzz --runs $(RUNS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python protos/generate.py --check

# The documentation as a site, in site/. A broken link fails.
docs: $(VENV)/.installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

protos: $(VENV)/.installed-dev
	$(BIN)/python protos/generate.py

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit("edgenode needs Python 3.11 or newer") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml lab/pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --progress-bar off --disable-pip-version-check -q -e '.[plots]' -e lab
	touch $@

$(VENV)/.installed-dev: pyproject.toml lab/pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --progress-bar off --disable-pip-version-check -q -e '.[dev]' -e lab
	touch $(VENV)/.installed $@

# Several hundred megabytes of frameworks. Without them, their tests are skipped.
$(VENV)/.installed-integrations: $(VENV)/.installed-dev
	$(BIN)/python -m pip install --progress-bar off --disable-pip-version-check -q -e '.[dev,integrations]' -e 'lab[ray]'
	touch $@

clean:
	rm -rf $(VENV) build dist site *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
