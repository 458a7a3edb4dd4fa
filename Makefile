# Two commands do all the set-up: `make demo` and `make test`. Both may be called again at any time.
# Needed: make and Python 3.11 or newer. Everything is installed into .venv; removing that folder undoes it.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PYTHONS := $(PYTHON) python3.14 python3.13 python3.12 python3.11 python3 python
CORES := $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1)
# More than four test processes gain nothing: the longest tests decide.
WORKERS := $(shell [ $(CORES) -gt 4 ] && echo 4 || echo $(CORES))
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help install demo test check format clean

help:
	@echo "make demo     install, then draw a data set, train, evaluate, predict and report (minutes)"
	@echo "make test     install, then lint, types and the quick tests"
	@echo "make install  only install, into $(VENV)"
	@echo "make format   format the code and sort its imports"
	@echo "make clean    remove caches and the demonstration, keep $(VENV)"

demo: $(STAMP)
	@$(BIN)/perpixel demo --out demo

test: $(STAMP)
	@echo "lint"
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --check --quiet || { echo "some files are not formatted: make format"; exit 1; }
	@echo "types"
	@$(BIN)/mypy --no-error-summary
	@echo "tests"
	@# One thread a process: threads of several test processes would fight for the cores.
	@OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS)

check: test

install: $(STAMP)

# The stamp comes last, so that an installation that was cut off is taken up again.
$(STAMP): pyproject.toml constraints.txt
	@found=; for name in $(PYTHONS); do \
	  if $$name -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
	    found=$$name; break; fi; done; \
	if [ -z "$$found" ]; then \
	  echo "No Python 3.11 or newer with its venv module was found (tried: $(PYTHONS))." >&2; \
	  echo "Install one (Debian, Ubuntu: python3 and python3-venv), or name it: make PYTHON=/path/to/python $(MAKECMDGOALS)" >&2; \
	  exit 1; fi; \
	if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	  echo "Making $(VENV) with $$($$found --version)."; \
	  $$found -m venv --clear $(VENV); fi
	@echo "Installing perpixel and what it needs into $(VENV). The first time takes minutes: PyTorch is large."
	@$(BIN)/python -m pip install --quiet --quiet -c constraints.txt -e '.[dev]'
	@touch $(STAMP)
	@echo "Installed: $$($(BIN)/python --version), perpixel $$($(BIN)/perpixel --version)."

format: $(STAMP)
	@$(BIN)/ruff check --fix --quiet
	@$(BIN)/ruff format --quiet

clean:
	@rm -rf demo build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
