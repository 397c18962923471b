# These targets need only Python 3.8 or later and make. `make help` lists them.

PYTHON ?= python3
# Interpreters for `make test-all`. By default, it uses every installed Python from 3.8 to 3.12.
PYTHONS ?=
# Additional arguments: `make test TESTS="tests/lib/test_config.py -k bounds"`,
# `make run ARGS="--port 8001"`. The tests spend much of their time waiting, so several processes
# run them; TESTS="-n 0 --pdb ..." uses one process.
TESTS ?=
ARGS ?=
# With INSTALL=0, `make test` installs no packages of the distribution, even as root.
INSTALL ?= 1
export INSTALL
# Allow .pyc files: the tests start hundreds of Python processes, and each would compile the pack.
unexport PYTHONDONTWRITEBYTECODE

REQUIREMENTS = -r requirements.txt -r requirements-tests.txt -r standalone/requirements.txt \
	--no-deps-r standalone/requirements-orquesta.txt
PYTEST = .venv/bin/python -m pytest -rs -n 6 --dist loadgroup

# Tests outside tests/fuzz that generate inputs. In `make fuzz`, they generate more.
FUZZED = tests/lib/test_alertmanager.py tests/lib/test_announcement.py tests/lib/trail/test_admission.py

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1	\2/p' Makefile | expand -t 20

demo: .venv ## See the pack in action without StackStorm (ARGS=--keep keeps its board running)
	@.venv/bin/python -m standalone.demo $(ARGS)

run: .venv ## Run the pack on this machine without StackStorm, until Ctrl-C (ARGS="--help")
	@.venv/bin/python -m standalone $(ARGS)

test-fast: .venv ## Run the quick tests, which need no server and no second process, in a few minutes
	@$(PYTEST) -n 3 -q -m "not services and not processes and not slow and not long" $(TESTS)

test: services .venv ## Run all tests except the long ones (TESTS="..." selects some; INSTALL=0 installs no servers)
	@$(PYTEST) -m "not long" $(TESTS)

test-long: services .venv ## Run the tests that `make test` skips: short fault suite, clusters, kills
	@$(PYTEST) -m long $(TESTS)

test-all: ## Run the tests that need no server, on every installed Python (PYTHONS="python3.8 ...")
	@$(PYTHON) scripts/test_all.py $(PYTHONS) -- $(REQUIREMENTS) -- $(TESTS)

lint: .venv-lint ## Check formatting, likely bugs, types, imports, and the files that StackStorm reads
	@.venv-lint/bin/python scripts/lint.py

faults: services .venv ## Kill processes, broker and database under load; nothing may be lost (ARGS="--help")
	@.venv/bin/python -m tests.faults $(ARGS)

fuzz: .venv .venv-fuzz ## Generate hostile inputs: parsers, models, schemathesis, a million requests (ARGS="--help")
	@HYPOTHESIS_PROFILE=fuzz SCHEMATHESIS_EXAMPLES=300 $(PYTEST) -m "not services" \
	tests/fuzz $(FUZZED) $(TESTS)
	@.venv/bin/python -m tests.fuzz.flood --requests 1000000 $(ARGS)

soak: services .venv ## Make two Alertmanagers and a Prometheus fail, for 30 minutes (ARGS="--help")
	@.venv/bin/python -m tests.cluster $(ARGS)

mutate: services .venv ## Remove each defence from a copy of the tree, and check that its test fails (ARGS="--help")
	@.venv/bin/python -m tests.defences $(ARGS)

bench: .venv ## Measure views and recording, with a short and a long history (ARGS="--help")
	@.venv/bin/python -m bench $(ARGS)

browser: .venv-browser ## Visit the board with Chromium (CHROMIUM=path; INSTALL=0 does not install it)
	@test ! -x .venv-browser/bin/playwright || .venv-browser/bin/python -m pytest -rs tests/browser $(TESTS)

screenshots: .venv-browser ## Write docs/screenshots: the board, with a history that is always the same
	@.venv-browser/bin/python -m tests.browser.screenshots $(ARGS)

live: .venv ## Run the scenarios on a live StackStorm (ST2_API_URL and ST2_API_KEY or ST2_AUTH_TOKEN)
	@test -n "$$ST2_API_URL" || { echo "make live needs ST2_API_URL, the URL of the API \
	of a StackStorm with this pack installed, for example https://stackstorm.example/api"; exit 2; }
	@test -n "$$ST2_API_KEY$$ST2_AUTH_TOKEN" || { echo "make live needs ST2_API_KEY (created by \
	'st2 apikey create') or ST2_AUTH_TOKEN (by 'st2 auth -t USER')"; exit 2; }
	@.venv/bin/python -m pytest -rs tests/scenarios $(TESTS)

up: ## Start StackStorm, PoundCake, Prometheus, Alertmanager, Grafana and sample hosts in Docker
	@$(PYTHON) scripts/compose.py up

down: ## Remove the containers of `make up`; the data remains
	@$(PYTHON) scripts/compose.py down

logs: ## Follow the logs of the containers
	@$(PYTHON) scripts/compose.py logs

# HOST=web-4 selects another sample host.
HOST ?=
BREAK = $(PYTHON) scripts/compose.py $(if $(HOST),--host $(HOST))

break-service: ## Stop nginx on a sample host (HOST=web-1); PoundCake restarts it
	@$(BREAK) break-service

fill-disk: ## Fill the disk of a sample host (HOST=web-2); PoundCake asks before it cleans up
	@$(BREAK) fill-disk

kill-host: ## Kill a sample host (HOST=web-3); PoundCake checks it and changes nothing
	@$(BREAK) kill-host

storm: ## Stop nginx on all sample hosts at once; PoundCake changes nothing
	@$(BREAK) storm

repair: ## Put all sample hosts right again
	@$(BREAK) repair

clean: ## Remove the virtual environments and the caches of the tools
	rm -rf .venv .venv-* .*_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +

# This is quick if nothing has changed: the script compares the requirements with a stamp.
.venv:
	@$(PYTHON) scripts/venv.py .venv $(REQUIREMENTS)

.venv-lint:
	@$(PYTHON) scripts/venv.py .venv-lint -r requirements.txt -r requirements-lint.txt

.venv-fuzz:
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 10))" && \
	$(PYTHON) scripts/venv.py .venv-fuzz -r requirements-fuzz.txt || \
	echo "skipped: schemathesis, which needs Python 3.10 or later and its packages"

.venv-browser:
	@sh scripts/install_services.sh Chromium
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 9))" && \
	$(PYTHON) scripts/venv.py .venv-browser -r requirements.txt -r requirements-tests.txt \
	-r requirements-browser.txt || \
	echo "skipped: tests/browser, which needs Python 3.9 or later and its packages"

services:
	@sh scripts/install_services.sh

.DEFAULT_GOAL := help
.PHONY: help demo run test-fast test test-long test-all lint faults fuzz soak mutate bench live browser screenshots \
	up down logs break-service fill-disk kill-host storm repair clean services \
	.venv .venv-lint .venv-fuzz .venv-browser
