# Needs Python 3.11 or newer (with venv) and make; everything else goes into .venv.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin

.PHONY: install demo test lint faults bench clean-venv

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, not " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: install
	$(BIN)/thesis demo

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

test: lint
	$(BIN)/python -m pytest

faults: install
	$(BIN)/python -m pytest tests/faults tests/data/test_archives.py -m "slow or not slow"
	$(BIN)/python -m pytest tests/slurm tests/workbook/test_parallel.py -m slow

bench: install
	$(BIN)/python -m benchmarks

clean-venv:
	rm -rf .venv
