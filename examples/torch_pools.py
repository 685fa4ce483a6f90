"""Networks of PyTorch before and after their pools are replaced: an inference and a training step, timed in turn.

    python examples/torch_pools.py [--batch 8 --size 96 --runs 5]

A small VGG and a small ResNet, whose layers are replaced, and a small LightCNN, which calls functions. With random
weights and images. Ends with 1 if the outputs or the gradients differ.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import sys
from contextlib import nullcontext
from time import perf_counter

import torch
from torch import nn

from fastpool.integrations.torch import replace_max_pool_calls, replace_max_pools


def vgg(width: int = 32) -> nn.Module:
    """Pairs of 3x3 convolutions with relu, a 2x2 pool behind each pair."""
    layers: list[nn.Module] = []
    channels = 3
    for filters in (width, 2 * width, 4 * width):
        for _ in range(2):
            layers += [nn.Conv2d(channels, filters, 3, padding=1), nn.ReLU()]
            channels = filters
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


class Residual(nn.Module):
    def __init__(self, channels: int, filters: int, stride: int) -> None:
        super().__init__()
        self.path = nn.Sequential(
            nn.Conv2d(channels, filters, 3, stride, 1, bias=False),
            nn.BatchNorm2d(filters),
            nn.ReLU(),
            nn.Conv2d(filters, filters, 3, padding=1, bias=False),
            nn.BatchNorm2d(filters),
        )
        self.shortcut = nn.Conv2d(channels, filters, 1, stride, bias=False)

    def forward(self, x):
        return torch.relu(self.path(x) + self.shortcut(x))


def resnet(width: int = 32) -> nn.Module:
    """The stem of a ResNet, a 3x3 pool of stride 2, and three residual blocks."""
    return nn.Sequential(
        nn.Conv2d(3, width, 7, 2, 3, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
        Residual(width, width, 1),
        Residual(width, 2 * width, 2),
        Residual(2 * width, 4 * width, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4 * width, 10),
    )


class LightCNN(nn.Module):
    """Convolutions with max-feature-map, and the sum of a maximum and an average behind each (Wu et al. 2018)."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        channels = [3, width, 2 * width, 4 * width]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, 2 * after, 3, padding=1) for before, after in itertools.pairwise(channels)
        )
        self.classes = nn.Linear(4 * width, 10)

    def forward(self, x):
        for convolution in self.convolutions:
            x = torch.maximum(*convolution(x).chunk(2, dim=1))
            x = nn.functional.max_pool2d(x, 2) + nn.functional.avg_pool2d(x, 2)
        return self.classes(x.mean((2, 3)))


def inference(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(x)


def training_step(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Forward, loss, backward; gives the gradient of the first weights."""
    model.train().zero_grad()
    nn.functional.cross_entropy(model(x), torch.arange(len(x)) % 10).backward()
    return next(model.parameters()).grad.clone()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=96, help="height and width of the images")
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    torch.manual_seed(0)
    images = torch.randn(args.batch, 3, args.size, args.size)
    print(
        f"{args.batch} images of {args.size}x{args.size}, {torch.get_num_threads()} threads; least of {args.runs} runs"
    )
    print(f"{'network':10}{'memory':16}{'step':15}{'PyTorch':>14}{'fastpool':>12}{'times as fast':>15}")
    same = True
    for name, make in (("VGG", vgg), ("ResNet", resnet), ("LightCNN", LightCNN)):
        for memory_format in (torch.contiguous_format, torch.channels_last):
            before = make().to(memory_format=memory_format)
            layers: list[str] = []
            after = replace_max_pools(copy.deepcopy(before), report=layers.append)
            models = {before: nullcontext, after: nullcontext if layers else replace_max_pool_calls}
            x = images.contiguous(memory_format=memory_format)
            for step in (inference, training_step):
                results, times = [], {model: [] for model in models}
                for run in range(args.runs + 1):
                    for model, replaced in models.items():
                        start = perf_counter()
                        with replaced():
                            result = step(model, x)
                        if run == 0:
                            results.append(result)
                        else:
                            times[model].append(perf_counter() - start)
                same &= torch.allclose(*results, rtol=1e-4, atol=1e-6)
                old, new = min(times[before]) * 1e3, min(times[after]) * 1e3
                memory = str(memory_format).removeprefix("torch.").removesuffix("_format")
                print(f"{name:10}{memory:16}{step.__name__:15}{old:11.1f} ms{new:9.1f} ms{old / new:15.2f}")
    print("outputs and gradients are the same" if same else "outputs or gradients differ")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
