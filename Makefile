# make demo   hosts on loopback, in one process: check, train, take down
# make test   the whole suite; test-fast leaves the long tests out, and runs three at a time
# make lint   ruff, mypy, import-linter
# All need python3 (3.10 or newer), make and a package index.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-fast lint format clean

demo: .venv/ready
	$(BIN)/ddp-orch demo

test: .venv/ready
	$(BIN)/python -m pytest $(PYTEST_ARGS)

test-fast: .venv/ready
	$(BIN)/python -m pytest -m "not slow" -n 3 --dist loadfile $(PYTEST_ARGS)

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --platform darwin
	$(BIN)/lint-imports

format: .venv/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,trainer]'
	touch $@

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
