"""Keras reads KERAS_BACKEND once, when it is imported, so each backend has a process of its own."""

from importlib.util import find_spec

import pytest

NEEDS = {"jax": "jax", "torch": "torch", "tensorflow": "tensorflow", "numpy": "jax"}
ALONE = {"numpy": ["tests/keras_numpy_checks.py"], "tensorflow": ["tests/keras_export_checks.py"]}


@pytest.mark.parametrize("keras_backend", NEEDS)
@pytest.mark.slow
def test_the_layers_work_on(keras_backend, python):
    for package in ("keras", NEEDS[keras_backend]):
        if find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    files = ["tests/keras_checks.py", *ALONE.get(keras_backend, [])]
    ran = python(
        *("-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-W", "default", *files),
        KERAS_BACKEND=keras_backend,
        TF_CPP_MIN_LOG_LEVEL=3,
    )
    assert " passed" in ran
