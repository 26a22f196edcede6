# Two commands matter: `make audit` (install and audit the demo network) and `make test`.
# Everything lives in .venv; a second call finds the stamp files and starts at once.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help audit install dev peers test lint format types docs table methods check bench clean

help:  ## list the commands
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 16

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "expected Python 3.11 or newer as $(PYTHON); set PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# -qq hides pip's warnings, not its errors.
$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing into $(VENV); the first time takes some minutes"
	$(PIP) install -qq --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.installed
	$(PIP) install -qq --constraint constraints.txt --editable ".[dev]"
	@touch $@

# Without their dependencies: torchvision would replace a CPU build of torch by one of several gigabytes.
# What they import beyond ours: tqdm (all), click (Zennit), what transformers brings (timm); the second line
# is for Quantus alone.
$(VENV)/.peers: $(VENV)/.dev
	$(PIP) install -qq --constraint constraints.txt tqdm click transformers
	$(PIP) install -qq --constraint constraints.txt --no-deps opencv-python-headless pandas \
		scikit-learn narwhals joblib threadpoolctl cloudpickle
	$(PIP) install -qq --constraint constraints.txt --no-deps torchvision zennit captum quantus timm
	@touch $@

install: $(VENV)/.installed  ## create .venv and install the package

dev: $(VENV)/.dev  ## the same with the tools of developers

peers: $(VENV)/.peers  ## the same with Captum, Zennit, Quantus and torchvision for the parity tests

audit: $(VENV)/.installed  ## install and audit the demo network; ARGS="--preset standard" passes options
	$(BIN)/veridical audit $(ARGS)

test: $(VENV)/.peers  ## install and run the test suite; ARGS="-m slow" passes options
	$(BIN)/python -m pytest $(ARGS)

lint: $(VENV)/.dev  ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.dev  ## mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/.dev  ## mypy, strict
	$(BIN)/mypy

docs: $(VENV)/.dev  ## links and paths in the Markdown files; the generated page is current
	$(BIN)/python scripts/check_docs.py
	$(BIN)/python scripts/methods_page.py --check

methods: $(VENV)/.dev  ## write docs/methods.md from the code
	$(BIN)/python scripts/methods_page.py

table: $(VENV)/.peers  ## run every method on every network, write docs/networks.md
	$(BIN)/python scripts/coverage_table.py

check: test lint types docs  ## everything that CI runs

bench: $(VENV)/.peers  ## measure speed side by side with the peers
	$(BIN)/python -m benchmarks $(ARGS)

clean:  ## remove the virtual environment and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
