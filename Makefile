# `make help` lists the verbs. CI runs the same ones.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# Which one that is, such as 3.11.7: a .venv of another Python is made anew.
PYTHON_VERSION := $(or $(shell $(PYTHON) -c 'import platform; print(platform.python_version())' 2>/dev/null),none)
# Where the environment forbids to keep what was compiled, each of the tests' processes would compile it all again.
export PYTHONDONTWRITEBYTECODE =
HOST   ?= 127.0.0.1
PORT   ?= 8080
# What the tests drive for real: a proxy, a browser, a metrics server, Redis, network namespaces.
DEBIAN := nginx:nginx-light chromium:chromium prometheus:prometheus redis-server:redis-server ip:iproute2 openssl:openssl systemd-analyze:systemd

.DEFAULT_GOAL := help
.PHONY: help setup run test unit mutants soak client clients check cover bench load audit lock advisories clean

help: ## List the verbs
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.tests ## Make .venv with all that running and testing need

$(VENV)/.python-$(PYTHON_VERSION):
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version) if sys.version_info < (3, 11) else None'
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	@touch $@

# What is locked, and nothing else: pip neither resolves nor builds, it checks the hashes, then that nothing is missing.
define INSTALL
$(BIN)/python -m pip install --quiet --no-deps --only-binary :all: --require-hashes -r $(1)
@$(BIN)/python -m pip check || { echo "$(VENV) does not agree with $(1): run make clean, then this again"; exit 1; }
endef

$(VENV)/.service: $(VENV)/.python-$(PYTHON_VERSION) requirements.lock
	$(call INSTALL,requirements.lock)
	@touch $@

$(VENV)/.tests: $(VENV)/.service tests/requirements.lock
	$(call INSTALL,tests/requirements.lock)
	@touch $@

.PHONY: system
system:
	@missing=""; for pair in $(DEBIAN); do \
	  PATH="$$PATH:/usr/sbin:/sbin" command -v $${pair%%:*} >/dev/null || missing="$$missing $${pair##*:}"; done; \
	if [ -n "$$missing" ]; then \
	  [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null || { echo "the tests need$$missing (Debian's names)"; exit 1; }; \
	  echo "installing$$missing"; apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install $$missing >/dev/null; fi

run: $(VENV)/.service ## Serve on http://127.0.0.1:8080, with a simulated Claude where no API key is set
	$(BIN)/python -m app serve --simulate --config config/sluiceway.toml --host $(HOST) --port $(PORT)

test: ## Check the code and run every test (some minutes)
	$(MAKE) --no-print-directory --jobs 2 setup system
	$(MAKE) --no-print-directory --jobs 3 --output-sync=target check rules rest ASIDE="nice -n 5"

# Beside the tests with real parts, which wait for half of their time: mostly in what they leave of the processor, and with a
# quarter of it where they leave none, since a test that hardly runs meets its timeout.
.PHONY: rules
rules: $(VENV)/.tests
	$(ASIDE) $(BIN)/python -m pytest $(TWO) -m rules --hypothesis-profile quick $(EVERY_BRANCH)

# One `make` further down, which says each line as it comes: the others say theirs at their end.
.PHONY: rest
rest:
	@$(MAKE) --no-print-directory --output-sync=none every-other-test

.PHONY: every-other-test
every-other-test: $(VENV)/.tests
	$(BIN)/python -m pytest $(THREE) -m "(not rules or hypothesis) and not soak and not clients" --hypothesis-profile steady

unit: $(VENV)/.tests ## Run the tests that need neither socket, server, browser nor other program (seconds)
	$(BIN)/python -m pytest $(TWO) -m unit --hypothesis-profile quick

# The longest files are not all in one worker, nor last.
TWO = -n 2 --dist worksteal
# A test with real parts waits for more than half of its time, for a browser or for a second to pass.
THREE = -n 3 --dist worksteal
# What takes and gives nothing but values is tested at every branch, and by this lane alone. Coverage doubles a test's time,
# so that properties are tried with few examples there, and with all of them in the lane that follows; always the same, so
# that a change is what makes one fail. `make soak` tries others each time.
EVERY_BRANCH = tests/answer tests/flow tests/wire tests/money --cov=app/answer --cov=app/flow --cov=app/wire --cov=app/money --cov-branch --cov-fail-under=100 \
	--cov-report=term-missing:skip-covered

# Into a folder of its own: it brings a terminal's library along that nothing else needs.
build/mutants/.lib: tests/mutants/requirements.lock | $(VENV)/.tests
	rm -rf build/mutants/lib
	$(BIN)/python -m pip install --quiet --no-deps --only-binary :all: --require-hashes --target build/mutants/lib -r tests/mutants/requirements.lock
	@touch $@

mutants: build/mutants/.lib ## Change one thing at a time in the rules and name what no test notices (an hour)
	PYTHONPATH=$(abspath build/mutants/lib) nice -n 10 $(BIN)/python -m tests.mutants.run $(ARGS)

# What asks for everything that openapi.json describes, as its lock has it: too heavy for .venv.
build/openapi/.py: tests/openapi/requirements.lock
	$(PYTHON) -m venv --clear build/openapi/py
	build/openapi/py/bin/python -m pip install --quiet --no-deps --only-binary :all: --require-hashes -r tests/openapi/requirements.lock
	@touch $@

# What builds and runs the container there.
soak: DEBIAN += mmdebstrap:mmdebstrap buildah:buildah podman:podman crun:crun
soak: DEBIAN += firefox-esr:firefox-esr WebKitWebDriver:webkit2gtk-driver chromedriver:chromium-driver Xvfb:xvfb openbox:openbox
soak: $(VENV)/.tests build/openapi/.py system ## Run the tests that take longer than `make test` may; renew the engines' table
	$(BIN)/python -m pytest -m "soak or hypothesis" --timeout 1800
	$(BIN)/python -m tests.engines.table

client: $(VENV)/.service ## Pack the browser's client for npm: build/sluiceway-client-VERSION.tgz
	@$(BIN)/python -m app.tools.client_package build

# The clients, each as its own lock in tests/clients/matrix has it: too heavy for .venv.
build/clients/.py: tests/clients/matrix/requirements.lock | $(VENV)/.tests
	$(PYTHON) -m venv --clear build/clients/py
	build/clients/py/bin/python -m pip install --quiet --no-deps --only-binary :all: --require-hashes -r tests/clients/matrix/requirements.lock
	@touch $@

build/clients/.js: tests/clients/matrix/package-lock.json | $(VENV)/.tests
	mkdir -p build/clients/js
	cp tests/clients/matrix/package.json tests/clients/matrix/package-lock.json tests/clients/matrix/.npmrc build/clients/js/
	cd build/clients/js && PATH="$(abspath $(BIN)):$$PATH" npm ci --ignore-scripts --silent
	@touch $@

build/clients/.vite: tests/clients/vite/package-lock.json | $(VENV)/.tests
	mkdir -p build/clients/vite
	cp tests/clients/vite/package.json tests/clients/vite/package-lock.json tests/clients/vite/.npmrc build/clients/vite/
	cd build/clients/vite && PATH="$(abspath $(BIN)):$$PATH" npm ci --ignore-scripts --silent
	@touch $@

clients: build/clients/.py build/clients/.js build/clients/.vite system ## Drive real clients straight and through; renew their table in tests/README.md (some minutes)
	$(BIN)/python -m pytest -m clients --timeout 900 tests/clients
	$(BIN)/python -m tests.clients.matrix.table

check: $(VENV)/.tests ## Lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(ASIDE) $(BIN)/mypy

cover: $(VENV)/.tests system ## Run the tests with branch coverage
	$(BIN)/python -m pytest --cov --cov-report=term-missing:skip-covered

audit: $(VENV)/.tests ## Compare the ledger's estimates with known truth, on simulated streams (some minutes)
	$(BIN)/python -m app.tools.audit.run --out build/audit --transcripts tests/answers

# What the service is held against beside nginx, as its lock has it: too heavy for .venv.
build/peers/.py: tests/bench/peers/requirements.lock
	$(PYTHON) -m venv --clear build/peers/py
	build/peers/py/bin/python -m pip install --quiet --no-deps --only-binary :all: --require-hashes -r tests/bench/peers/requirements.lock
	@touch $@

bench: $(VENV)/.tests system $(if $(PEERS),build/peers/.py) ## Measure beside nginx's pass-through, renew its table in tests/README.md (25 minutes, a quiet machine); PEERS=1: others too
	$(BIN)/python -m tests.bench.bench $(ARGS)

load: $(VENV)/.tests ## Load a deployment: make load ARGS="--url http://127.0.0.1:8080 --preset slow-readers"
	$(BIN)/python -m app load $(ARGS)

lock: ## Pin what pyproject.toml asks for, with hashes, for every Python; ARGS=--upgrade takes the newest
	$(PYTHON) -m venv --clear build/lock
	build/lock/bin/python -m pip install --quiet uv
	$(COMPILE) $(ARGS) -o requirements.lock pyproject.toml
	$(COMPILE) $(ARGS) --extra otel --extra redis -c requirements.lock -o config/container.lock pyproject.toml
	$(COMPILE) $(ARGS) --extra test --extra otel --extra redis -c config/container.lock -o tests/requirements.lock pyproject.toml
	$(COMPILE) $(ARGS) -c tests/requirements.lock -o tests/mutants/requirements.lock tests/mutants/requirements.in
	$(COMPILE) $(ARGS) -o tests/clients/matrix/requirements.lock tests/clients/matrix/requirements.in
	$(COMPILE) $(ARGS) -o tests/bench/peers/requirements.lock tests/bench/peers/requirements.in
	$(COMPILE) $(ARGS) -o tests/openapi/requirements.lock tests/openapi/requirements.in

COMPILE = build/lock/bin/uv pip compile --quiet --python build/lock/bin/python --universal --python-version 3.11 \
	--generate-hashes --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock"

advisories: $(VENV)/.tests ## Audit the locks; FILE=all.zip renews the advisories from OSV's collection for PyPI
	$(BIN)/python -m tests.advisories.audit $(FILE)

clean: ## Remove what the other verbs made
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage htmlcov
	find app tests grafana -name __pycache__ -type d -prune -exec rm -rf {} +
