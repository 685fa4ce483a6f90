# make demo | test | simulate | gpu | check | bench | peers | clean. Everything goes into .venv; PYTHON is the
# interpreter that makes it.
# `make TORCH= test` and `make TORCH= peers` do without PyTorch, which is a large download on some machines.
# `make peers PEERS="--rows forward --json peers.json"` hands options to the side-by-side.
PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
BIN := $(VENV)/bin
SOURCES := pyproject.toml setup.py fastpool/__init__.py fastpool/backends/_columns.pyx

.PHONY: demo test simulate gpu check bench peers clean
.DELETE_ON_ERROR:

demo: $(VENV)/.demo
	$(BIN)/python examples/demo.py

test: $(VENV)/.cuda-test $(VENV)/.torch
	$(BIN)/python -m pytest -q -n 2

# The CUDA backend without a card: its kernels run by Numba's simulator.
simulate: $(VENV)/.cuda-test $(VENV)/.torch
	NUMBA_ENABLE_CUDASIM=1 $(BIN)/python -m pytest -q -n 2 tests/test_conformance.py tests/test_rules.py tests/test_arrays_of_others.py

# And on one, with the interpreter GPU_PYTHON, which has numba-cuda, PyTorch, ml_dtypes, pytest and rich; CuPy and JAX if
# they are to take part. compute-sanitizer looks on where it is installed, at Numba's arrays: those have memory of their own.
GPU_PYTHON ?= $(PYTHON)
gpu:
	FASTPOOL_TEST_CUDA=1 $(GPU_PYTHON) -m pytest -q tests/test_conformance.py tests/test_rules.py -p no:benchmark -o addopts=
	$(GPU_PYTHON) -m pytest -q tests/test_gpu.py -p no:benchmark -o addopts=
	if command -v compute-sanitizer; then for tool in memcheck racecheck; do \
		compute-sanitizer --tool $$tool --error-exitcode 9 $(GPU_PYTHON) -m pytest -q tests/test_gpu.py -p no:benchmark \
			-o addopts= -k "specification and numba and float32 and not wide" || exit 1; done; fi
	$(GPU_PYTHON) -m benchmarks.gpu --json benchmarks/results/gpu.json

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.bench
	$(BIN)/python -m fastpool bench

peers: $(VENV)/.bench $(VENV)/.torch
	$(BIN)/python -m benchmarks.peers $(PEERS)

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	rm -f fastpool/backends/_columns.c fastpool/backends/_columns.*.so fastpool/backends/_columns.*.pyd
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# The package is built where it stands, once for each set of extras that is asked for.
$(VENV)/.%: $(SOURCES) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable ".[$*]"
	touch $@

# PyTorch judges from outside where it can be had; without it those tests are skipped.
$(VENV)/.torch: | $(VENV)/.cuda-test
	test -z "$(TORCH)" || $(BIN)/python -m pip install --quiet --only-binary :all: "$(TORCH)" \
		|| echo "make: no $(TORCH) to be had here; the tests that compare with PyTorch will be skipped" >&2
	touch $@
