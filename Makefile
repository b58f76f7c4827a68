# make demo   a prompt, a target and three nodes on this machine; says which token came from whom
# make test   everything that must hold: style, types, import rules, tests
# make setup  only prepares .venv (both of the above do it on their own)
# make interop  clients of others against our services, each in an environment of its own, made in .interop
# make clean  removes what these commands made; models stay in the user's cache
#
# Another interpreter: make demo PYTHON=python3.12
# Another build of torch, such as PyTorch's CPU index: make demo TORCH="torch==2.13.0 --index-url URL"

PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
INTEROP ?= .interop
STAMP := $(VENV)/.setup-stamp

.DEFAULT_GOAL := help
.PHONY: help setup demo test interop clean

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

setup: $(STAMP)

# torch comes first and alone: asked for together with others, pip may take a build with CUDA packages.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "wanspec needs Python 3.11 or later; name one: make setup PYTHON=python3.12"; exit 1; }
	@echo "Preparing $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)
	@echo "Installing torch (the largest download)"
	@$(PIP) $(TORCH)
	@echo "Installing wanspec and the pinned versions of everything else"
	@$(PIP) --constraint constraints.txt --editable ".[node,target,distill,dev]"
	@touch $@
	@echo "Ready: $(BIN)/wanspec --help"

demo: setup
	@$(BIN)/wanspec demo

test: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder

interop: setup
	@while read -r name package; do \
		test -e "$(INTEROP)/$$name/.ready" && continue; \
		echo "Installing $$package and what it needs into $(INTEROP)/$$name"; \
		$(PYTHON) -m venv --clear "$(INTEROP)/$$name" && \
		"$(INTEROP)/$$name/bin/pip" --disable-pip-version-check install --quiet --no-compile "$$package" && \
		touch "$(INTEROP)/$$name/.ready" || exit 1; \
	done < tests/interop/environments.txt
	WANSPEC_INTEROP="$(abspath $(INTEROP))" $(BIN)/pytest tests/interop

clean:
	rm -rf $(VENV) .interop .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage build dist
