# `make help` lists the verbs. CI runs the same ones.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
HOST   ?= 127.0.0.1
PORT   ?= 8080
# What the tests drive for real: a proxy, a browser, a metrics server, network namespaces.
DEBIAN := nginx:nginx-light chromium:chromium prometheus:prometheus ip:iproute2 openssl:openssl

.DEFAULT_GOAL := help
.PHONY: help setup run test soak check cover bench load audit lock clean

help: ## List the verbs
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.tests ## Make .venv with all that running and testing need

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.service: $(BIN)/python requirements.lock
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements.lock
	@touch $@

$(VENV)/.tests: $(VENV)/.service tests/requirements.lock
	$(BIN)/python -m pip install --quiet --require-hashes -r tests/requirements.lock
	@touch $@

.PHONY: system
system:
	@missing=""; for pair in $(DEBIAN); do \
	  PATH="$$PATH:/usr/sbin:/sbin" command -v $${pair%%:*} >/dev/null || missing="$$missing $${pair##*:}"; done; \
	if [ -n "$$missing" ]; then \
	  echo "installing$$missing"; apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install $$missing >/dev/null; fi

run: $(VENV)/.service ## Serve on http://127.0.0.1:8080, with a simulated Claude where no API key is set
	$(BIN)/python -m app serve --simulate --host $(HOST) --port $(PORT)

test: $(VENV)/.tests system ## Check the code and run every test (some minutes)
	$(MAKE) --no-print-directory check
	$(BIN)/python -m pytest -n 2 --dist loadfile

soak: $(VENV)/.tests system ## Run the tests that take longer than `make test` may
	$(BIN)/python -m pytest -m soak --timeout 1800

check: $(VENV)/.tests ## Lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

cover: $(VENV)/.tests system ## Run the tests with branch coverage
	$(BIN)/python -m pytest --cov --cov-report=term-missing:skip-covered

audit: $(VENV)/.tests ## Compare the ledger's estimates with known truth, on simulated streams (some minutes)
	$(BIN)/python -m app.tools.audit.run --out build/audit

bench: $(VENV)/.tests system ## Measure the service beside nginx's plain pass-through (some minutes, a quiet machine)
	$(BIN)/python -m tests.bench.bench $(ARGS)

load: $(VENV)/.tests ## Load a deployment: make load ARGS="--url http://127.0.0.1:8080 --preset slow-readers"
	$(BIN)/python -m app load $(ARGS)

lock: $(VENV)/.tests ## Pin what pyproject.toml asks for, with hashes
	$(BIN)/python -m pip install --quiet pip-tools
	$(BIN)/pip-compile --quiet --generate-hashes --no-emit-index-url --no-emit-find-links --allow-unsafe -o requirements.lock pyproject.toml
	$(BIN)/pip-compile --quiet --extra test --generate-hashes --no-emit-index-url --no-emit-find-links --allow-unsafe -o tests/requirements.lock pyproject.toml

clean: ## Remove what the other verbs made
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage htmlcov
	find app tests grafana -name __pycache__ -type d -prune -exec rm -rf {} +
