# make demo | make test : both create .venv and install the tested set of packages first.

VENV  := .venv
BIN   := $(VENV)/bin
STAMP := $(VENV)/.installed

# The first of these that runs, is recent enough and can make environments; `make PYTHON=/path/to/python` takes another.
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3; do \
	$$python -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)

.PHONY: help install demo test pytest lint format clean

help:
	@echo "make demo    sharpen a simulated scene end to end, without network"
	@echo "make test    lint, types, layers and all tests"
	@echo "make lint    lint, types and layers only"
	@echo "make format  let ruff format and repair the code"
	@echo "make clean   remove .venv and caches"

install: $(STAMP)

demo: $(STAMP)
	$(BIN)/s2pipe demo

test: lint pytest

pytest: $(STAMP)
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/python -m pytest --numprocesses=logical --dist=worksteal

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache

$(BIN)/pip:
	@test -n "$(PYTHON)" || { echo "s2pipe needs Python 3.11 or newer with the venv module; install one, or name it: make PYTHON=/path/to/python" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(STAMP): pyproject.toml constraints.txt | $(BIN)/pip
	@echo "Installing s2pipe and what it needs into $(VENV); this takes some minutes, once."
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev,odc,planetary-computer,s3]"
	@touch $@
