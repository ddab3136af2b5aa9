# `make demo` and `make test` set up what they need in .venv and run; both can be repeated and are quick then.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SHELL := /bin/bash

.PHONY: demo test test-slow test-faults test-browser test-numpy test-arm64 fuzz check format clean

demo: $(VENV)/.ready-demo
	@$(BIN)/hedgerow demo $(ARGS)

test: $(VENV)/.ready-dev
	@command -v mosquitto >/dev/null || test -x /usr/sbin/mosquitto || { echo "make test: the tests need the Mosquitto broker: apt-get install mosquitto"; exit 1; }
	@echo "make test: running the tests"
	@$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

test-slow: $(VENV)/.ready-dev
	@$(BIN)/python -m pytest -m slow $(ARGS)

test-faults: $(VENV)/.ready-dev
	@$(BIN)/python -m pytest -n 0 -s -m "slow or not slow" tests/faults $(ARGS)

test-browser: $(VENV)/.ready-dev
	@$(BIN)/python -m pytest -m browser $(ARGS)

# The codecs' bytes with the oldest and the newest numpy, on an emulated ARM, and under a fuzzer: minutes, and downloads.
test-numpy:
	@PYTHON="$(PYTHON)" bash tests/determinism/run.sh

test-arm64: $(VENV)/.ready-dev
	@PYTHON="$(BIN)/python" bash tests/arm64/run.sh $(ARGS)

fuzz:
	@PYTHON="$(PYTHON)" bash tests/fuzz/run.sh $(ARGS)

check: $(VENV)/.ready-dev
	@echo "make check: ruff, mypy, pyright"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/pyright

format: $(VENV)/.ready-dev
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist

$(VENV)/.ready-%: pyproject.toml constraints.txt scripts/set_up.sh
	@PYTHON="$(PYTHON)" bash scripts/set_up.sh $(VENV) $*
