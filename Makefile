# Each target makes or updates .venv by itself; nothing but the package registry is needed.
#   make demo   train, judge and report on built-in images, a few minutes on two CPU cores
#   make test   the tests          make lint   style, types, import contracts, spelling
#   make docs   the site in site/  make clean  remove .venv, caches and build outputs (never runs/)
# PYTHON=/path/to/python chooses the interpreter that .venv is made with.

SHELL := /bin/sh
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check
PINS := pyproject.toml constraints.txt
KNOWN := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))
NEW := import sys; sys.exit(sys.version_info < (3, 11))

.PHONY: help demo test lint docs clean
.NOTPARALLEL:

help:
	@sed -n 's/^#   //p' Makefile

demo: $(VENV)/.stamp-demo
	$(PY) -m openjepa demo

test: $(VENV)/.stamp-dev
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist loadfile

lint: $(VENV)/.stamp-dev
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(VENV)/bin/lint-imports
	$(VENV)/bin/codespell

docs: $(VENV)/.stamp-docs
	$(PY) docs/generate.py
	$(VENV)/bin/zensical build --strict

clean:
	rm -rf $(VENV) site build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache *.egg-info
	find openjepa tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps: .venv exists; .venv holds openjepa and what demo, dev or docs need, in the tested versions.
$(VENV)/.stamp-python:
	@chosen="$(PYTHON)"; \
	if [ -z "$$chosen" ]; then \
	  for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	    if "$$p" -c '$(KNOWN)' >/dev/null 2>&1; then chosen=$$p; break; fi; \
	  done; \
	fi; \
	if [ -z "$$chosen" ] || ! "$$chosen" -c '$(NEW)' >/dev/null 2>&1; then \
	  echo "openjepa needs Python 3.11 to 3.14, found: $$( ("$${chosen:-python3}" --version || echo none) 2>&1 | tail -n 1); install one or run make PYTHON=/path/to/python" >&2; exit 1; \
	fi; \
	if ! "$$chosen" -c 'import ensurepip, venv' >/dev/null 2>&1; then \
	  echo "$$chosen cannot make virtual environments: install its venv module (Debian, Ubuntu: sudo apt install python3-venv)" >&2; exit 1; \
	fi; \
	echo "making $(VENV) with $$("$$chosen" --version); torch is several GB, so this takes minutes"; \
	rm -rf $(VENV); \
	"$$chosen" -m venv $(VENV) || { rm -rf $(VENV); exit 1; }
	$(PIP) install --upgrade 'pip>=25.1'
	@touch $@

$(VENV)/.stamp-%: $(PINS) $(VENV)/.stamp-python
	$(PIP) install --editable . --group $* --constraint constraints.txt
	@touch $@
