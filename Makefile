# Two commands for a newcomer: `make demo` does the main job, `make test` runs every test.
# Each sets up what it needs in .venv; PYTHON=/path/to/python3 chooses the interpreter.

SHELL := /bin/bash
.DEFAULT_GOAL := help
VENV := .venv/bin
export PATH := $(CURDIR)/$(VENV):$(PATH)
export PYTHON

.PHONY: help setup demo lab test test-quick test-sandbox browser check format bench wheel lock clean

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## /  \1|/p' $(MAKEFILE_LIST) | column -t -s '|'

setup: ## Make .venv with everything in it
	@tools/setup

demo: setup ## Do the main job and leave Lab running (HEADLESS=1: print, verify, exit)
	@python tools/demo.py --state .demo/state --study .demo/study $(if $(filter-out 0,$(HEADLESS)),--headless)

lab: setup ## Start site, backend and JupyterLab; Ctrl-C stops them
	@opensafely-lab up --state .demo/state --study .demo/study

test: setup ## Run every test; sets up Debian's chromium for those that drive a browser
	@OSL_CHROMIUM="$$(tools/browser)"; export OSL_CHROMIUM; python -m pytest -m "" -n 2 --dist loadgroup $(ARGS)

test-quick: setup ## Run the tests that take less than two minutes
	@python -m pytest $(ARGS)

test-sandbox: setup ## Run the quick tests of the sandbox, and the demo, alone
	@python -m pytest -m "(sandbox and not slow) or demo" -n 2 --dist loadgroup $(ARGS)

browser: ## Print the Chromium that the browser tests drive; installs Debian's if there is none
	@tools/browser

check: setup ## Lint, types, floors, front end
	@tools/check

format: setup ## Format the Python code
	@ruff format . && ruff check --fix-only .

bench: setup ## Time a trivial notebook against bare papermill
	@python benchmarks/turnaround.py $(ARGS)

wheel: setup ## Build dist/*.whl and the source distribution
	@python -m build --no-isolation --outdir dist .

lock: ## Choose the locked packages again (ARGS=--upgrade for the newest)
	@tools/lock $(ARGS)

clean: ## Remove everything that was made here: .venv, the demo, builds
	rm -rf .venv .demo dist build tests/.chromium opensafely_lab/labextension extension/lib extension/node_modules \
	  extension/tsconfig.tsbuildinfo .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find opensafely_lab tests benchmarks tools -name __pycache__ -prune -exec rm -rf {} +
