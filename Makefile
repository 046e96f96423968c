# Each target sets up what it needs: a fresh clone on a fresh machine suffices.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test check docs bench clean

# Installed again whenever the project's own files say something new.
$(VENV)/.user: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Penstock needs Python 3.11 or newer: make PYTHON=/path/to/python3"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -e '.[eeg]' matplotlib
	touch $@

$(VENV)/.dev: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Penstock needs Python 3.11 or newer: make PYTHON=/path/to/python3"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	touch $@

demo: $(VENV)/.user
	$(BIN)/penstock demo --out penstock-demo

test: $(VENV)/.dev
	$(BIN)/python -m pytest -q
	$(BIN)/python -m pytest -q --doctest-modules penstock

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The site, in docs/_build/html; what is not right in it is an error.
docs: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet -e '.[docs]'
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/run.py eeg
	$(BIN)/python benchmarks/run.py spectra
	$(BIN)/python benchmarks/run.py regions
	$(BIN)/python benchmarks/run.py promise
	$(BIN)/python benchmarks/run.py load

clean:
	rm -rf $(VENV) penstock-demo benchmarks/work docs/_build docs/api/generated docs/notebooks
