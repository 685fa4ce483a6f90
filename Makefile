# make demo | test | check | docs | bench | peers | clean. All goes into .venv; PYTHON is the interpreter that makes it.
# `make TORCH= FRAMEWORKS= test` and `make TORCH= peers` do without what is a large download on some machines.
# `make peers PEERS="--rows forward --json peers.json"` hands options to the side-by-side.
PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
FRAMEWORKS ?= keras jax tensorflow-cpu
BIN := $(VENV)/bin
SOURCES := pyproject.toml setup.py fastpool/__init__.py fastpool/backends/_columns.pyx

.PHONY: demo test check docs bench peers clean
.DELETE_ON_ERROR:

demo: $(VENV)/.demo
	$(BIN)/python examples/demo.py

test: $(VENV)/.test $(VENV)/.torch $(VENV)/.frameworks
	$(BIN)/python -m pytest -q -n 2

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.docs $(VENV)/.torch $(VENV)/.frameworks
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build

bench: $(VENV)/.bench
	$(BIN)/python -m fastpool bench

peers: $(VENV)/.bench $(VENV)/.torch
	$(BIN)/python -m benchmarks.peers $(PEERS)

clean:
	rm -rf $(VENV) build dist docs/_build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	rm -f fastpool/backends/_columns.c fastpool/backends/_columns.*.so fastpool/backends/_columns.*.pyd
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# The package is built where it stands, once for each set of extras that is asked for.
$(VENV)/.%: $(SOURCES) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable ".[$*]"
	touch $@

# PyTorch judges from outside where it can be had; without it those tests are skipped.
$(VENV)/.torch: | $(VENV)/.test
	test -z "$(TORCH)" || $(BIN)/python -m pip install --quiet --only-binary :all: "$(TORCH)" \
		|| echo "make: no $(TORCH) to be had here; the tests that compare with PyTorch will be skipped" >&2
	touch $@

# The frameworks that fastpool works in, each where it can be had.
$(VENV)/.frameworks: | $(VENV)/.torch
	for each in $(FRAMEWORKS); do \
		$(BIN)/python -m pip install --quiet --only-binary :all: "$$each" \
			|| echo "make: no $$each to be had here; the tests that need it will be skipped" >&2; \
	done
	touch $@
