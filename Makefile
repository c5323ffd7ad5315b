# Two commands do everything from a fresh checkout: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO ?=
SEEDS ?= 0..25

.PHONY: demo test test-compose chaos lint protos format clean
.DELETE_ON_ERROR:

demo: $(VENV)/.installed
	$(BIN)/edgenode demo $(DEMO)

test: $(VENV)/.installed-dev lint
	$(BIN)/python -m pytest

# deploy/compose.yaml for real: builds the image and runs the ring. Needs a Docker engine with `docker compose`.
test-compose: $(VENV)/.installed-dev
	$(BIN)/python -m pytest deploy

# The chaos scenarios of the test command, many times: faults on the network need root, iproute2, iptables, faketime.
chaos: $(VENV)/.installed-dev
	$(BIN)/python -m pytest tests/chaos --seeds $(SEEDS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python protos/generate.py --check

protos: $(VENV)/.installed-dev
	$(BIN)/python protos/generate.py

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit("edgenode needs Python 3.11 or newer") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --progress-bar off --disable-pip-version-check -q -e .
	touch $@

$(VENV)/.installed-dev: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --progress-bar off --disable-pip-version-check -q -e '.[dev]'
	touch $(VENV)/.installed $@

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
