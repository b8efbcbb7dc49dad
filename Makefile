# make demo    set up all that is needed, build the default image, run the examples
# make test    set up all that is needed, then every check and every test
# make unit    the part of it that needs no guest
# make docs    build the docs' site into site/

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
# What has to happen within seconds is not tested beside guests that boot.
BY_THE_CLOCK := tests/guests/test_deaths.py

.DELETE_ON_ERROR:
.PHONY: demo test unit lint docs bench packages clean

demo: $(VENV)/.done
	$(BIN)/pytest-xhyve build debian12
	$(BIN)/pytest conftest_examples --xhyve-image=debian12 -v

# The images' tests come first, as they take longest and are one file.
test: lint docs
	$(BIN)/pytest tests/images tests/unit -n 2 --dist loadfile --no-loadscope-reorder --durations=5
	$(BIN)/pytest-xhyve build debian12 tiny tiny-partitioned
	$(BIN)/pytest $(BY_THE_CLOCK)
	$(BIN)/pytest tests/guests tests/standin $(BY_THE_CLOCK:%=--ignore=%) -n 2 --dist loadfile --durations=15

unit: lint docs
	$(BIN)/pytest tests/unit -n 2 --dist loadfile

lint: $(VENV)/.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

docs: $(VENV)/.done
	$(BIN)/python -m sphinx --quiet --fail-on-warning --fresh-env --doctree-dir build/docs docs site

bench: $(VENV)/.done
	$(BIN)/pip install --quiet --editable '.[bench]'
	$(BIN)/pytest-xhyve build debian12 tiny
	$(BIN)/python -m benchmarks.cold
	$(BIN)/python -m benchmarks.warm
	$(BIN)/python -m benchmarks.plot

packages:
	sh tools/install-packages

$(VENV)/.done: pyproject.toml tools/install-packages
	sh tools/install-packages
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable '.[dev,docs]'
	touch $@

clean:
	rm -rf $(VENV) dist build .mypy_cache .pytest_cache .ruff_cache .hypothesis site
