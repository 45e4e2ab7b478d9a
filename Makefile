# `make` lists the targets. `make demo` and `make test` are all the set-up there is.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
OUT ?= runs/demo

.DEFAULT_GOAL := help
.PHONY: help install demo test test-torch fuzz faults check sanitize format clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

install: $(VENV)/.installed ## make the environment and install the package into it

demo: install ## train dense, L1 and Dynamic-5 on generated scenes; writes $(OUT)/report.html
	$(BIN)/dynamick demo --out $(OUT)

test: $(VENV)/.installed-dev ## run the tests (real data is found by DYNAMICK_DATA)
	$(BIN)/python -m pytest

test-torch: $(VENV)/.installed ## run the tests of ops and nn with another PyTorch: make test-torch VERSION=2.6.0
	@test -n "$(VERSION)" || { echo "make test-torch: say which PyTorch, as in VERSION=2.6.0"; exit 2; }
	$(PYTHON) -m venv $(VENV)-torch-$(VERSION)
	$(VENV)-torch-$(VERSION)/bin/python tests/ops/install_beside.py $(VERSION)
	PYTHONPATH=src $(VENV)-torch-$(VERSION)/bin/python -m pytest -p no:cacheprovider tests/ops tests/nn

fuzz: $(VENV)/.installed-dev ## read 10,000 damaged files of every kind: each ends right or in one line
	DYNAMICK_FUZZ=10000 DYNAMICK_FUZZ_SEED=$$(date +%s) $(BIN)/python -m pytest -s tests/fuzz

check: $(VENV)/.installed-dev ## lint, formatting, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

sanitize: $(VENV)/.installed-dev ## run the CPU kernel's tests under AddressSanitizer and UBSan
	$(BIN)/python tests/ops/sanitize.py

faults: $(VENV)/.installed-dev ## kill each command at every moment at which it changes a file, and start it again
	OMP_NUM_THREADS=1 $(BIN)/python tests/faults/kill.py

format: $(VENV)/.installed-dev ## put the code into the house's form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove the environment and the runs
	rm -rf $(VENV) runs

$(VENV)/.installed: pyproject.toml constraints.txt setup.py $(wildcard csrc/*)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@
