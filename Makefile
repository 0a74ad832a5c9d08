PYTHON ?= python3

# make test DJANGO=6.0 takes that release from requirements/django-6.0.txt, in an environment of its own.
venv := .venv$(addprefix -django-,$(DJANGO))
bin := $(venv)/bin
install = $(@D)/bin/pip install --quiet --disable-pip-version-check --require-hashes
compile = UV_CUSTOM_COMPILE_COMMAND="make lock" $(bin)/uv pip compile --quiet --universal --fork-strategy fewest \
    --generate-hashes $(ARGS)
oldest := $(if $(DJANGO),12,11)

.DEFAULT_GOAL := help
.PHONY: help demo serve screenshots reference check test test-live soak bench lint lock audit clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' Makefile

demo: $(venv)/base ## follow a recorded subnet into SQLite and route jobs on it
	@$(bin)/python -m project.demo

serve: $(venv)/base ## serve the demo and follow its chain, on http://127.0.0.1:8000 (PORT=8001 elsewhere)
	@DEBUG=1 $(bin)/python -m project.serve $(ARGS)

screenshots: $(venv)/test ## take the README's pictures of the demo's pages (needs a Chromium; CHROMIUM=/path if not on the PATH)
	@$(bin)/python -m tests.browser.screenshots

reference: $(venv)/test ## write what the code says of itself into docs/reference.md
	@$(bin)/python -m tests.reference

test: $(venv)/$(if $(DJANGO),django-$(DJANGO),test) ## run the tests on SQLite and on PostgreSQL (ARGS="-x -k ledger" go to pytest; DJANGO=6.0: on that)
	@$(bin)/python -m tests $(ARGS)

test-live: .venv-live/live ## run the tests with a chain, miners and services that are real or speak as the real ones do
	@.venv-live/bin/python -m tests.live $(ARGS)

check: $(venv)/test ## run the quick tests, on SQLite (ARGS="-x -k ledger" go to pytest)
	@DATABASE_URL=sqlite:///check.sqlite3 $(bin)/python -m pytest -q -n auto --maxprocesses=4 \
	    -m "not (browser or faults or races or servers or slow)" tests/unit tests/conformance tests/integration $(ARGS)

soak: $(venv)/test ## simulate at length, on SQLite or DATABASE_URL's (SOAK_OPS=1000000 SOAK_SEED=1 SOAK_JOBS=cores)
	@$(bin)/python -m tests.properties.soak

bench: $(venv)/test ## measure on PostgreSQL, in some 5 minutes (BENCH_FORMAT=json for programs, BENCH_ROWS=pick,size for some)
	@$(bin)/python -m tests.benchmarks

# The last two look at the settings of a server, whatever this checkout's .env says.
lint: $(venv)/lint ## check style, types, imports, migrations and the settings of a server
	@$(bin)/ruff check --quiet
	@$(bin)/ruff format --check --quiet
	@$(bin)/mypy
	@$(bin)/lint-imports --no-logo
	@export DEBUG=0 DATABASE_URL=sqlite://:memory: TRUSTED_MINER_ADDRESS=127.0.0.1 TRUSTED_MINER_PORT=8001 && \
	SECRET_KEY=$$($(bin)/python -c "import secrets; print(secrets.token_urlsafe(50))") && export SECRET_KEY && \
	$(bin)/python manage.py makemigrations --check --dry-run && \
	$(bin)/python manage.py check --deploy --fail-level WARNING

lock: $(venv)/made ## pin anew what pyproject.toml and requirements/*.in ask for (ARGS=--upgrade: the newest of all)
	@$(bin)/pip install --quiet --disable-pip-version-check uv
	@$(compile) --python-version 3.11 --extra site pyproject.toml -o requirements/base.txt
	@$(compile) --python-version 3.11 -c requirements/base.txt requirements/test.in -o requirements/test.txt
	@$(compile) --python-version 3.11 requirements/lint.in -o requirements/lint.txt
	@$(compile) --python-version 3.12 --no-deps requirements/django-6.0.in -o requirements/django-6.0.txt
	@$(compile) --python-version 3.11 --extra site --extra live --extra pylon pyproject.toml requirements/test.in \
	    -o requirements/live.txt
	@$(compile) --python-version 3.11 --extra site --extra live --extra pylon -c requirements/live.txt pyproject.toml \
	    -o requirements/follower.txt
	@$(compile) --python-version 3.11 requirements/pylon-service.in -o requirements/pylon-service.txt

audit: $(venv)/made ## look up the pinned packages among known vulnerabilities (asks a service on the network)
	@$(bin)/pip install --quiet --disable-pip-version-check pip-audit
	@$(bin)/pip-audit --strict --require-hashes --disable-pip -r requirements/base.txt

clean: ## remove what these targets made
	@rm -rf .venv .venv-* .cache .*_cache .hypothesis demo.sqlite3* test*.sqlite3*
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(venv)/made .venv-live/made:
	@$(PYTHON) -c "import sys; sys.exit(not (3, $(oldest)) <= sys.version_info < (3, 14))" || \
	    { echo "This needs Python 3.$(oldest) to 3.13. If you have one by another name: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -m venv --clear $(@D)
	@touch $@

$(venv)/base: requirements/base.txt $(venv)/made
$(venv)/test: requirements/test.txt $(venv)/base
$(venv)/lint: requirements/lint.txt $(venv)/test
# This environment has another websockets than the others, so its requirements are resolved together.
.venv-live/live: requirements/live.txt .venv-live/made
$(venv)/base $(venv)/test $(venv)/lint .venv-live/live:
	@echo "Installing $<"
	@$(install) -r $<
	@touch $@

$(venv)/django-%: requirements/django-%.txt $(venv)/test
	@echo "Installing $<"
	@$(install) --no-deps -r $<
	@touch $@
