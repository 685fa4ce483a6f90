# make demo | test | test-slow | test-all | kernels | wheel | fuzz | torture | sanitize | arm64 | interpret | gpu | check | docs | bench | peers | report | asv |
# asv-compare | dashboard | clean.
# Everything goes into .venv; PYTHON is the interpreter that makes it.
# `make TORCH= FRAMEWORKS= test` and `make TORCH= peers` leave out the largest downloads.
# `make peers PEERS="--rows forward --json peers.json"` passes options to the comparison with peers.
# `make arm64 ARM64="tests/test_rules.py -k numba"` runs these tests on an emulated 64-bit ARM processor, instead of the default selection.
# `make asv-compare BASE=main FACTOR=1.25` shows what this commit makes slower or faster by more than the factor.
# `make dashboard` shows the kept history; `make dashboard N=8 ASV="--bench max_pool2d"` first measures a part of the suite on the
# last eight commits that build.
PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
FRAMEWORKS ?= keras jax tensorflow-cpu ome-zarr-models ome-zarr onnx onnxruntime onnxscript
BASE ?= main
FACTOR ?= 1.25
ROUNDS ?= 10
N ?=
ASV ?=
SPEED ?= $(lastword $(sort $(wildcard .benchmarks/*/*.json)))
BIN := $(VENV)/bin
IN_BENCHMARKS := cd benchmarks && "$(abspath $(BIN))/python" -m asv
SOURCES := pyproject.toml setup.py fastpool/__init__.py \
	$(addprefix fastpool/backends/,_columns.pyx _passes.pyx) \
	$(addprefix fastpool/backends/numba/,_launch.pyx team.h cpu.h)
# What the library of kernels may depend on. The build finds which kernels must be compiled anew.
KERNEL_SOURCES := fastpool/_rules.py fastpool/build.py $(wildcard fastpool/backends/numba/*.py fastpool/backends/numba/*/*.py)
LEVELS ?=

.PHONY: demo test test-slow test-all kernels wheel fuzz torture sanitize sanitize-numba arm64 interpret gpu check docs bench peers report asv asv-compare dashboard clean
.DELETE_ON_ERROR:

demo: $(VENV)/.demo
	$(BIN)/python examples/demo.py

test: $(VENV)/.cuda-test $(VENV)/.dask $(VENV)/.torch $(VENV)/.frameworks $(VENV)/.kernels
	$(BIN)/python -m pytest -q -n 2 -m "not slow"

# The tests that take seconds each. They must pass, too, before a change goes in.
test-slow: $(VENV)/.cuda-test $(VENV)/.dask $(VENV)/.torch $(VENV)/.frameworks $(VENV)/.kernels
	$(BIN)/python -m pytest -q -n 2 -m slow

test-all: test test-slow

# Compile the kernels for this machine: some ten minutes the first time and after a change of a kernel or of Numba,
# otherwise seconds. `make kernels LEVELS="x86-64-v3 x86-64-v4"` compiles for these processors.
kernels: $(VENV)/.kernels
	$(BIN)/python -m fastpool.build $(LEVELS)

# A wheel with the kernels that are built here, for every Linux with a C library that is not older than this one's.
# setuptools would also add files left in build/ by an earlier wheel.
wheel: kernels $(VENV)/.dev
	rm -rf dist/*.whl build/lib* build/bdist*
	$(BIN)/python -m build --wheel --outdir dist .
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m auditwheel repair --wheel-dir dist dist/*-linux_*.whl
	rm dist/*-linux_*.whl

# Signals, forks, threads and refused memory at random, for so many seconds; the same SEED makes the same rounds.
SEED ?= $(shell date +%Y%m%d)
SECONDS ?= 300
torture: $(VENV)/.cuda-test
	$(BIN)/python tests/torture.py $(SEED) $(SECONDS)

# Random calls of every op in guarded memory, for so many minutes; `python tests/fuzz.py --seed N --case K` repeats one.
MINUTES ?= 120
fuzz: $(VENV)/.cuda-test
	$(BIN)/python tests/fuzz.py --minutes $(MINUTES) --seed $(SEED)

# The compiled modules under gcc's sanitizers of addresses, undefined behaviour and threads, in a separate build.
sanitize: $(VENV)/.cuda-test
	$(BIN)/python tests/sanitize.py $(SEED)

# Kernels compiled with bounds checks on array indices; loads and stores at an address are not checked.
sanitize-numba: $(VENV)/.cuda-test
	NUMBA_BOUNDSCHECK=1 FASTPOOL_KERNELS=jit $(BIN)/python tests/fuzz.py --backend numba --cases 20 --seed $(SEED)

# 64-bit ARM without such a machine: kernels and compiled modules are cross-compiled, and a part of the tests runs under
# qemu-user. Needs Debian with gcc-aarch64-linux-gnu and qemu-user: half an hour, a part of it for the kernels, which are cached.
ARM64 ?=
arm64: $(VENV)/.cuda-test
	$(BIN)/python tests/arm64.py $(ARM64)

# The CUDA backend without a GPU: the PTX of its kernels is run on the CPU. `make interpret INTERPRET="-k float32"` runs a part.
INTERPRET ?=
interpret: $(VENV)/.cuda-test $(VENV)/.torch
	FASTPOOL_TEST_CUDA=interpreted $(BIN)/python -m pytest -q -n 2 $(INTERPRET) tests/test_conformance.py tests/test_rules.py \
		tests/test_other_array_libraries.py

# On a GPU, with the interpreter GPU_PYTHON, which has numba-cuda, PyTorch, ml_dtypes, pytest and rich, and optionally CuPy
# and JAX. JAX must not preallocate memory, and deprecation warnings of these libraries are no failures here.
# compute-sanitizer, if installed, runs the tests of Numba's arrays, whose memory is not pooled.
# `make gpu GPU_PYTEST="-n 12"` compiles in 12 processes, if pytest-xdist is installed.
GPU_PYTHON ?= $(PYTHON)
GPU_PYTEST ?=
gpu: export FASTPOOL_TEST_CUDA = 1
gpu: export XLA_PYTHON_CLIENT_PREALLOCATE = false
gpu: ON_GPU = $(GPU_PYTHON) -m pytest -q -p no:benchmark -o addopts= -o filterwarnings=default
gpu:
	$(ON_GPU) $(GPU_PYTEST) tests/test_conformance.py tests/test_rules.py
	$(ON_GPU) $(GPU_PYTEST) tests/test_gpu.py
	if command -v compute-sanitizer; then for tool in memcheck racecheck initcheck; do \
		compute-sanitizer --tool $$tool --error-exitcode 9 $(ON_GPU) tests/test_gpu.py -k "specification and numba and float32 and not wide" || exit 1; done; fi
	$(GPU_PYTHON) -m benchmarks.gpu --json benchmarks/results/gpu.json

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.docs $(VENV)/.dask $(VENV)/.torch $(VENV)/.frameworks
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build

bench: $(VENV)/.bench
	$(BIN)/python -m fastpool bench

peers: $(VENV)/.bench $(VENV)/.torch
	$(BIN)/python -m benchmarks.peers $(PEERS)

report: $(VENV)/.bench
	$(BIN)/python -m benchmarks.plots benchmarks/results/peers.json \
		--folder docs/performance --readme README.md --page docs/performance.md
	$(BIN)/python -m benchmarks.report benchmarks/results/peers.json $(SPEED:%=--speed "%") --output report.html

# Each benchmark once, in this working tree: whether the suite runs, and rough times.
asv: $(VENV)/.machine
	$(IN_BENCHMARKS) run --python=same --quick --show-stderr $(ASV)

# Both commits are built and measured in alternating rounds.
asv-compare: $(VENV)/.machine
	$(IN_BENCHMARKS) continuous --factor $(FACTOR) --interleave-rounds --attribute rounds=$(ROUNDS) $(ASV) $(BASE) HEAD

dashboard: $(VENV)/.bench
	$(BIN)/python -m benchmarks.dashboard $(N:%=--commits %) $(ASV)

clean:
	rm -rf $(VENV) build dist docs/_build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	rm -rf benchmarks/.asv/env benchmarks/.asv/html benchmarks/.asv/npm report.html
	rm -f fastpool/backends/_columns.c fastpool/backends/_passes.c fastpool/backends/numba/_launch.c
	rm -f fastpool/backends/*.so fastpool/backends/*.pyd fastpool/backends/numba/*.so fastpool/backends/numba/*.pyd
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# asv asks about the machine once.
$(VENV)/.machine: $(VENV)/.bench
	$(BIN)/python -c "from benchmarks import dashboard; dashboard.register_machine()"
	touch $@

# The package is built in place, once for each requested set of extras.
$(VENV)/.%: $(SOURCES) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable ".[$*]"
	touch $@

# Libraries of older sources are deleted, for all levels.
$(VENV)/.kernels: $(KERNEL_SOURCES) | $(VENV)/.cuda-test
	rm -f fastpool/backends/numba/kernels.*.so
	$(BIN)/python -m fastpool.build
	touch $@

# PyTorch is an independent reference if it can be installed; without it those tests are skipped.
$(VENV)/.torch: | $(VENV)/.cuda-test
	test -z "$(TORCH)" || $(BIN)/python -m pip install --quiet --only-binary :all: "$(TORCH)" \
		|| echo "make: $(TORCH) cannot be installed here; the tests that compare with PyTorch will be skipped" >&2
	touch $@

# The frameworks of the integrations, each if it can be installed.
$(VENV)/.frameworks: | $(VENV)/.torch
	for each in $(FRAMEWORKS); do \
		$(BIN)/python -m pip install --quiet --only-binary :all: "$$each" \
			|| echo "make: $$each cannot be installed here; the tests that need it will be skipped" >&2; \
	done
	touch $@
