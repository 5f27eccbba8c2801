"""A case's layers as PyTorch modules with the given weights. Images are [C, H, W]."""

import torch
from torch import Tensor, nn

from benchmarks import cases
from benchmarks.problem import Weights


class Reshaped(nn.Module):
    """Reshapes one example. Images are [C, H, W] here and [H, W, C] in `cases`."""

    def __init__(self, before: cases.Shape, after: cases.Shape) -> None:
        super().__init__()
        self.before, self.after = before, after

    def forward(self, x: Tensor) -> Tensor:
        if len(self.before) == 3:
            x = x.permute(0, 2, 3, 1)
        x = x.reshape(-1, *self.after)
        return x.permute(0, 3, 1, 2) if len(self.after) == 3 else x


class Maxout(nn.Module):
    """The largest of each run of `pieces` neighbours."""

    def __init__(self, pieces: int) -> None:
        super().__init__()
        self.pieces = pieces

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (-1, self.pieces)).amax(2)


class Tanh(nn.Module):
    """tanh(scale x)."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x if self.scale == 1 else x * self.scale)


def player(layers: list[cases.Placed], weights: list[Weights], *, inplace: bool) -> nn.Sequential:
    """Returns the layers as modules with these weights."""
    rest = iter(weights)
    modules = []
    for placed in layers:
        given = next(rest) if cases.parameter_shapes(placed) else {}
        modules.append(_load(_module(placed, inplace), given))
    return nn.Sequential(*modules)


def _module(placed: cases.Placed, inplace: bool) -> nn.Module:
    layer, before, after = placed
    match layer:
        case cases.Dense(features, bias):
            return nn.Linear(before[0], features, bias)
        case cases.Conv(features, bias):
            return nn.Conv2d(before[2], features, 4, 2, 1, bias=bias)
        case cases.ConvTranspose(features):
            return nn.ConvTranspose2d(before[2], features, 4, 2, 1, bias=False)
        case cases.BatchNorm():
            return nn.BatchNorm2d(after[-1])
        case cases.LeakyReLU(slope):
            return nn.LeakyReLU(slope, inplace) if slope else nn.ReLU(inplace)
        case cases.Tanh(scale):
            return Tanh(scale)
        case cases.Maxout(pieces):
            return Maxout(pieces)
        case cases.Dropout(rate):
            return nn.Dropout(rate)
        case cases.Reshape(shape):
            return Reshaped(before, shape)


def _load(module: nn.Module, given: Weights) -> nn.Module:
    names = {"kernel": "weight", "scale": "weight", "bias": "bias"}
    for name, array in given.items():
        # Kernels are transposed from [I, O] to [O, I] and from [kh, kw, I, O] to [O, I, kh, kw].
        # For transposed convolutions [kh, kw, O, I] becomes [I, O, kh, kw].
        axes = (3, 2, 0, 1) if array.ndim == 4 else tuple(range(array.ndim))[::-1]
        value = torch.from_numpy(array.transpose(axes).copy())
        getattr(module, names[name]).data = value
    return module


def tutorial_ends(
    generator: nn.Sequential, discriminator: nn.Sequential, layers: dict[str, list[cases.Placed]]
) -> tuple[nn.Sequential, nn.Sequential]:
    """Returns a DCGAN with dense ends in the tutorial's form: convolutions with the image's
    size."""
    height, width, features = layers["generator"][1].after
    first = generator[0].weight
    opened = nn.ConvTranspose2d(first.shape[1], features, (height, width), bias=False)
    kernel = first.data.T.reshape(-1, height, width, features)
    opened.weight.data = kernel.permute(0, 3, 1, 2).contiguous()

    height, width, features = layers["discriminator"][-3].before
    last = discriminator[-2]
    closed = nn.Conv2d(features, 1, (height, width))
    closed.weight.data = last.weight.data.reshape(1, height, width, features).permute(0, 3, 1, 2)
    closed.weight.data = closed.weight.data.contiguous()
    closed.bias.data = last.bias.data
    return (
        nn.Sequential(nn.Unflatten(1, (-1, 1, 1)), opened, *generator[2:]),
        nn.Sequential(*discriminator[:-3], closed, nn.Flatten(0)),
    )
