# Needs Python 3.11 or newer and make. Everything is installed into .venv, once, as constraints.txt
# pins it. To choose the Python: make demo PYTHON=/path/to/python3.12

PYTHON ?= python3 python3.13 python3.12 python3.11
VENV := .venv
BIN := $(VENV)/bin
# Two files of tests at a time, each on one thread.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt

# pyright: use the version installed, ask no registry for a newer one.
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

.PHONY: help demo test test-all mutate torture check format clean

help:
	@echo "make demo      train two networks on handwritten digits, against two baselines (about a minute)"
	@echo "make test      the checks, then the tests"
	@echo "make test-all  the same with the slow tests"
	@echo "make mutate    change the sources in one place at a time: the tests must notice (up to 40 minutes)"
	@echo "make torture   kill, cut and starve training runs: nothing may be lost (minutes; as root)"
	@echo "make check     ruff, pyright and the import contract"
	@echo "make format    let ruff format and fix"
	@echo "make clean     remove .venv, builds and caches"

demo: $(VENV)/installed
	$(BIN)/deepen demo

test: check
	$(PYTEST)

test-all: check
	$(PYTEST) -m ""

mutate: $(VENV)/installed-dev
	$(BIN)/python tests/mutation/mutate.py

torture: $(VENV)/installed-dev
	$(BIN)/python tests/torture/torture.py

check: $(VENV)/installed-dev
	$(BIN)/python -m ruff check
	$(BIN)/python -m ruff format --check
	$(BIN)/lint-imports
	$(BIN)/pyright

format: $(VENV)/installed-dev
	$(BIN)/python -m ruff check --fix
	$(BIN)/python -m ruff format

clean:
	rm -rf $(VENV) build dist src/deepen.egg-info .pytest_cache .ruff_cache .hypothesis .import_linter_cache

# The two stamps are touched last, so an install that was killed is done again. A sound .venv is kept.
$(VENV)/installed: pyproject.toml constraints.txt
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { \
	    for python in $(PYTHON); do \
	        if "$$python" -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; \
	        then exec "$$python" -m venv --clear $(VENV); fi; \
	    done; \
	    echo "deepen needs Python 3.11 or newer with venv; none of these is: $(PYTHON)." \
	        "Name one: make PYTHON=/path/to/python3.12" >&2; \
	    exit 1; }
	$(INSTALL) setuptools
	$(INSTALL) --no-build-isolation --editable .
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(INSTALL) --no-build-isolation --editable ".[dev]"
	@touch $@
