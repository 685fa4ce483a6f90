"""What the tests of the integration with PyTorch share: tensors, and what they need."""

import shutil

import numpy as np
import pytest

torch = pytest.importorskip("torch")

FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
needs_compiler = pytest.mark.skipif(
    not (shutil.which("g++") or shutil.which("c++") or shutil.which("clang++")),
    reason="torch.compile needs a C++ compiler",
)


def draws(*shape, dtype=torch.float32, memory_format=torch.contiguous_format):
    """Distinct values, far enough apart that a small step changes no argmax."""
    x = torch.from_numpy(np.random.default_rng(0).permutation(int(np.prod(shape)))).to(dtype).reshape(shape) / 8
    return x.contiguous(memory_format=memory_format)
