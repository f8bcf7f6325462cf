# Everything runs in .venv, which the first target that needs it makes from requirements.lock.
# Needed beforehand: git, a Python of 3.11 or newer (PYTHON names another than python3) and a
# package registry. `scripts/venv` does nothing when nothing changed.

PYTHON ?= python3
OTHER_PYTHONS ?= 3.12 3.13
BIN := .venv/bin

.PHONY: help demo web test test-others soak check docs bench lock venv peers clean

help:
	@echo 'make demo    watch a real agent being traced, about 30 seconds'
	@echo 'make web     build the web page into the package'
	@echo 'make test    run the tests'
	@echo 'make test-others    run those of the SDK on Python $(OTHER_PYTHONS), where installed'
	@echo 'make soak    simulate N=100000 seeds from SEED=0 on, until one fails'
	@echo 'make check   format, lint and types'
	@echo 'make docs    renew the pages written from the source, build the guide into build/docs'
	@echo 'make bench   measure against the promises and against others (benchmarks/)'
	@echo 'make lock    renew the lock files from pyproject.toml (needs uv)'
	@echo 'make clean   remove what these made'

venv:
	@scripts/venv '$(PYTHON)' .venv requirements.lock

# The page, where its sources changed; needs the registry of npm, but no Node.
web: venv
	@$(BIN)/python web/hatch_build.py

demo: web
	@$(BIN)/everyspan demo

# The SDKs that everyspan is measured against and must get on with; apart from .venv, since they pin
# old versions of what the demo needs new.
peers:
	@scripts/venv '$(PYTHON)' .venv-peers benchmarks/requirements.lock

test: web peers
	$(BIN)/python -m pytest --numprocesses=auto --maxprocesses=4 --ignore=tests/page
	# By itself: what drives the browser leaves a thread's loops and stack in no state for others.
	$(BIN)/python -m pytest --numprocesses=2 --dist=loadgroup tests/page

test-others:
	@for version in $(OTHER_PYTHONS); do scripts/test-on $$version || exit 1; done

N ?= 100000
SEED ?= 0

soak: venv
	$(BIN)/python -m tests.simulation $(N) --seed $(SEED)

check: venv
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python web/hatch_build.py check

# What makes a site of the guide, apart from .venv, since nothing else needs it.
docs: venv
	$(BIN)/python scripts/settings_page.py > docs/settings.md
	$(BIN)/python scripts/failures_page.py > docs/failures.md
	$(BIN)/python scripts/metrics_page.py > docs/metrics.md
	$(BIN)/python scripts/api_page.py > docs/api.md
	$(BIN)/python -m tests.rules
	@scripts/venv '$(PYTHON)' .venv-docs docs/requirements.lock
	rm -rf build/docs
	.venv-docs/bin/zensical build --clean --strict

bench: peers
	.venv-peers/bin/python -m benchmarks

# Hashes of every platform's files, and no registry's address (docs/decisions/001).
COMPILE := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-annotate --custom-compile-command 'make lock'

lock:
	$(COMPILE) --upgrade pyproject.toml --extra all --output-file requirements.lock
	$(COMPILE) --upgrade pyproject.toml benchmarks/requirements.in --output-file benchmarks/requirements.lock
	$(COMPILE) --upgrade docs/requirements.in --output-file docs/requirements.lock

clean:
	rm -rf .venv .venv-3.* .venv-peers .venv-docs .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
