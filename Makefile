# Needs Python 3.11 or newer (with venv) and make; everything else goes into .venv.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin

.PHONY: install demo lint test test-all bench clean-venv

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, not " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	-$(BIN)/python -m ipykernel install --user --name thesis --display-name 'Python (thesis)'
	touch $@

demo: install
	$(BIN)/thesis demo

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/nbstripout --verify --keep-id notebooks/*.ipynb

test: lint
	$(BIN)/python -m pytest --numprocesses auto

# Everything: browser, Slurm, torchrun, whole grids, and the faults: kills, damage, full disks.
test-all: lint
	$(BIN)/python -m pytest -m "slow or not slow" --dist loadgroup --numprocesses auto

bench: install
	$(BIN)/python -m benchmarks

clean-venv:
	rm -rf .venv
