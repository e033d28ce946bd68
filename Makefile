# `make run` and `make test` are all that a newcomer needs; each sets up .venv first, once.

# `make help` shows the lines that begin with two #s.
## PYTHON  all: the Python of the .venv, from 3.11 on; default: the newest, the runtime's 3.13 first
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3.14 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
## FILES  run: the files and folders to send, FILES="'my events/a.json'" if a name has spaces; default: events
# The tests of each module measure its coverage.
MODULE_TESTS := $(wildcard $(foreach tier,unit integration,\
	$(patsubst function/%.py,tests/$(tier)/test_%.py,$(wildcard function/*.py))))
## PORT  serve: where to listen; default: 3000
PORT ?= 3000
## STACK  doctor, dead-letters: the name of the stack, or local; default: rudderstack-pagerduty
STACK ?= rudderstack-pagerduty
## ACTION  dead-letters: redrive or discard without asking; default: a terminal is asked, else they are only listed
# Not from the environment, because discarding is for good.
ACTION :=
## TEST_PAGE  doctor: yes sends one alert of severity info through the stack, and resolves it; default: none is sent
## ENV  deploy: the environment of samconfig.toml; default: default
# Not ?=, because some shells have a variable of that name.
ENV := default
## EVENTS  chaos: how many are sent in all; default: 2000
EVENTS ?= 2000
## SECONDS  mutants: for how long they are tried; 0: until all were; default: 300
SECONDS := 300
## MODULES  mutants: the modules of function/ that are changed, such as "flow sqs"; default: all
## SEED  chaos: decides what is sent and what fails; default: 1
SEED ?= 1

# Read by `python -m local`. Give secrets in the environment, `ROUTING_KEY=... make run`: `ps` shows make's arguments.
## PAGERDUTY_URL  run, serve: PagerDuty's URL instead of the sandbox, such as https://events.pagerduty.com
## ROUTING_KEY  run, serve: the routing key of service default, in the environment: ROUTING_KEY=... make run
## ROUTING_KEYS  run, serve: those of more services, in the environment: ROUTING_KEYS="checkout=... payments=..."
## WEBHOOK_TOKEN  serve: the token that callers present, in the environment
export PAGERDUTY_URL ROUTING_KEY ROUTING_KEYS WEBHOOK_TOKEN
export SAM_CLI_TELEMETRY := 0
# Each command starts several processes, which would all compile the modules anew.
unexport PYTHONDONTWRITEBYTECODE
export PATH := $(CURDIR)/$(BIN):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help run serve screenshot doctor dead-letters test test-unit mutants chaos bench storm storm-live check format lock build deploy clean

help: ## List the commands, and the variables that they take
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14
	@echo
	@grep -E '^## [A-Z_]+  ' $(MAKEFILE_LIST) | sed -E 's/^## //; s/  +/\t/' | expand -t 16

run: $(READY) ## Send every file of events/ through the local stack and show what PagerDuty received
	@$(BIN)/python -m local run $(FILES)

serve: $(READY) ## Keep the endpoint up on http://127.0.0.1:3000, or on PORT, with a page to try events on
	@exec $(BIN)/python -m local serve --port $(PORT)

screenshot: $(READY) ## Take the picture of that page again, docs/page.png; needs Chromium
	@$(BIN)/python -m local.command tests.e2e.browser

doctor: $(READY) ## Check a deployed stack, and say what to fix
	@$(BIN)/python -m local doctor --stack $(STACK) $(if $(TEST_PAGE),--test-page $(TEST_PAGE))

dead-letters: $(READY) ## List the dead letters of a stack, and redrive or discard them
	@$(BIN)/python -m local dead-letters --stack $(STACK) $(if $(ACTION),--action $(ACTION))

# The files in their order, in which the slow ones come first: by default those with the most tests would.
test: $(READY) ## Run the whole test suite, on every processor
	@$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

test-unit: $(READY) ## Run the tests of single modules: no network, under twenty seconds
	@$(BIN)/python -m pytest -q tests/unit

mutants: $(READY) ## Change function/ in one place at a time, and see whether a test fails; SECONDS=0 tries every change
	@$(BIN)/python -m tests.mutants --seconds $(SECONDS) --modules $(MODULES)

chaos: $(READY) ## Let everything fail under RudderStack's retry rules, and count broken promises
	@$(BIN)/python -m chaos --events $(EVENTS) --seed $(SEED)

bench: $(READY) ## Measure how fast it is, as ratios against baselines of the same run
	@PYTHONPATH=function $(BIN)/python -m local.command benchmarks

storm: $(READY) ## Simulate storms: how late pages are, and how long the backlog takes (SEED=1)
	@PYTHONPATH=function $(BIN)/python -m local.command benchmarks.storm --seed $(SEED)

storm-live: $(READY) ## Send a storm through the local stack, and time pages and resolves meanwhile: 90 seconds
	@$(BIN)/python -m local.command benchmarks.storm_live

check: $(READY) ## Lint, type-check, validate the template and the workflows, and measure the tests' coverage
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/sam validate --lint
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml docs/deploy-workflow.yaml
	$(BIN)/check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml
	$(BIN)/python -m pytest -q -n auto --dist loadfile --cov=function $(MODULE_TESTS)

format: $(READY) ## Format the code, and fix what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: $(READY) ## Write both requirements.txt files anew from their .in files
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --no-header --no-emit-index-url --generate-hashes \
		-o function/requirements.txt function/requirements.in
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --no-header --no-emit-index-url --generate-hashes \
		-o requirements-dev.txt requirements-dev.in

build: $(READY) ## Build what is deployed, under .aws-sam/build
	$(BIN)/sam build

deploy: build ## Deploy with the settings of samconfig.toml
	$(BIN)/sam deploy --config-env $(ENV)

clean: ## Remove the virtual environment, builds, caches and results
	rm -rf $(VENV) .aws-sam .coverage benchmarks/results.json .local .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The lock file names every package, so pip resolves nothing: a newer release of a dependency that is asked for with an
# extra would otherwise be considered, and refused because it has no hash.
$(READY): requirements-dev.txt function/requirements.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed and none was found. Install it, or name it: make PYTHON=/path/to/python3.13 $(MAKECMDGOALS)"; exit 1; }
	@echo "Setting up $(VENV) with $(PYTHON); this takes a minute or two, once."
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "The venv module is missing. On Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	@$(PYTHON) -m venv --clear $(VENV) || { echo "$(VENV) could not be made, for the reason above. It needs room, and write access to $(CURDIR)"; exit 1; }
	@$(BIN)/python -m pip install --no-user $$(test -t 1 || echo --quiet) --disable-pip-version-check --no-deps -r requirements-dev.txt
	@touch $@
