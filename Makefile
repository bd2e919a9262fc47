# What a contributor runs. Needs make and Python 3.11 or newer; all else goes into $(VENV).
#
# INSTALL=editable  tests the checkout (default)
# INSTALL=wheel     tests the built wheel, installed as a user would install it
# WORKERS=n         processes that run tests side by side (default: one for each core, at most 4)

PYTHON ?= python3
VENV ?= .venv
INSTALL ?= editable
PYTEST_ARGS ?=
INSTALL_ARGS ?=
CORES := $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
WORKERS ?= $(shell echo $$(( $(CORES) < 4 ? $(CORES) : 4 )))
SIDE_BY_SIDE = -n $(WORKERS) --dist loadfile --no-loadscope-reorder
MODEL := smollm2-135m-instruct

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check $(INSTALL_ARGS) -c constraints.txt
STAMP := $(VENV)/.installed-$(INSTALL)
RUNTIME := $(VENV)/.installed-runtime
SOURCES := $(shell find validator -type f -not -name '*.pyc')

ifeq ($(filter $(INSTALL),editable wheel),)
$(error INSTALL must be editable or wheel, got '$(INSTALL)')
endif

.DELETE_ON_ERROR:
.PHONY: help venv model demo test fast lint types docs wheel clean

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## */\t/' | expand -t 10

venv: $(STAMP)  ## environment with everything development needs

model: $(STAMP)  ## fetch the default model once; tests marked `model` read it
	$(BIN)/validator models fetch $(MODEL)

demo: $(if $(wildcard $(STAMP)),$(STAMP),$(RUNTIME))  ## the demonstration; installs the run-time dependencies only
	$(BIN)/validator lm-eval install-tasks
	$(BIN)/validator demo

# The checkout must not shadow an installed wheel, in this process or in one that a test starts.
test: $(STAMP) model  ## every test, fast and slow
	PYTHONSAFEPATH=1 $(BIN)/python -m pytest $(SIDE_BY_SIDE) $(PYTEST_ARGS)

fast: $(STAMP)  ## the tests that need neither minutes nor a model
	PYTHONSAFEPATH=1 $(BIN)/python -m pytest $(SIDE_BY_SIDE) -m 'not slow and not model' $(PYTEST_ARGS)

lint: $(STAMP)  ## ruff, and the layering rules
	$(BIN)/ruff check .
	$(BIN)/lint-imports

types: $(STAMP)  ## mypy --strict
	$(BIN)/mypy

docs: $(STAMP)  ## the user guide, into site/; any warning is an error
	$(BIN)/mkdocs build --strict

wheel: $(STAMP)  ## a checked wheel in dist/
	rm -rf dist
	$(BIN)/python -m build --wheel
	$(BIN)/check-wheel-contents dist

clean:  ## remove what was built; the environment stays
	rm -rf dist build site .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find $(wildcard validator tests benchmarks) -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; make PYTHON=... names another one")'
	$(PYTHON) -m venv $(VENV)

$(RUNTIME): pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e '.[eval]'
	@touch $@

$(VENV)/.installed-editable: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) hatchling -e '.[dev]'
	@rm -f $(VENV)/.installed-wheel && touch $@

$(VENV)/.installed-wheel: pyproject.toml constraints.txt README.md LICENSE $(SOURCES) | $(BIN)/python
	$(PIP) build check-wheel-contents hatchling
	rm -rf dist
	$(BIN)/python -m build --wheel
	$(BIN)/check-wheel-contents dist
	$(BIN)/python -m pip uninstall --yes --quiet spectral-validator
	$(PIP) "$$(echo dist/*.whl)[dev]"
	@rm -f $(VENV)/.installed-editable $(RUNTIME) && touch $@
