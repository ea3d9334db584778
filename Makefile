# Two commands set up everything on a fresh machine: `make demo` and `make test`.
# Both install into .venv; a stamp says what is installed there.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# A process for each core, that takes tests from the others when it has none left.
PYTEST := $(BIN)/python -m pytest --numprocesses auto --dist worksteal
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt

# One thread for each process: with more, threads of small steps wait for each other,
# and on a busy machine a fit of two seconds takes half a minute.
export OMP_NUM_THREADS ?= 1

.PHONY: demo test test-all bench lint doctest docs array-api wheel clean

demo: $(VENV)/.demo
	$(BIN)/python examples/plot_unseen_pictures.py --out demo_output

test: $(VENV)/.test
	$(PYTEST)

# Also the slow checks, and each example as a user runs it.
test-all: $(VENV)/.test
	$(PYTEST) -m "slow or not slow"

# The estimators' whole contract once more, with scikit-learn's array API on
# (scipy reads the variable when it is imported, so it takes another process).
array-api: $(VENV)/.test
	SCIPY_ARRAY_API=1 $(PYTEST) -k scikit_learn_checks \
		tests/test_regressor.py tests/test_classifier.py

doctest: $(VENV)/.test
	$(PYTEST) --doctest-modules --doctest-glob="*.rst" \
		rezsl_sk features docs/start.rst docs/guide/xlsa17_files.rst

# The pages, with the gallery run anew; warnings are errors. No network is needed
# once everything is installed. Look at docs/_build/html/index.html.
# What the examples print is checked as well.
docs: $(VENV)/.docs $(VENV)/.test
	$(BIN)/python -m sphinx --fail-on-warning --keep-going -b html docs docs/_build/html
	REZSL_GALLERY=docs/auto_examples $(BIN)/python -m pytest -m slow tests/test_examples.py

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Alone on the machine, and so with both cores.
bench: export OMP_NUM_THREADS = 2
bench: $(VENV)/.bench
	$(BIN)/python benchmarks/bench_fit.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/bench_search.py
	$(BIN)/python benchmarks/bench_extract.py

# A built wheel, in an empty environment, away from the checkout.
wheel: $(VENV)/.test
	bash .ci/check_wheel $(BIN)/python

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: setup.py constraints.txt | $(VENV)/bin/python
	$(PIP) -e ".[extract,demo,plot]"
	touch $@

$(VENV)/.test: setup.py constraints.txt | $(VENV)/bin/python
	$(PIP) -e ".[test]"
	touch $@

$(VENV)/.bench: setup.py constraints.txt | $(VENV)/bin/python
	$(PIP) -e ".[bench]"
	touch $@

$(VENV)/.docs: setup.py constraints.txt | $(VENV)/bin/python
	$(PIP) -e ".[docs]"
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info demo_output examples/demo_output
	rm -rf docs/_build docs/api docs/auto_examples
