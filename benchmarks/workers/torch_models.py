"""Models of `gan_jax.models` as PyTorch modules, built from the library's parameters.

Each network computes what the network of the same name in `gan_jax.models` does, in the form that
is fastest in PyTorch. A network takes the parameters as a dictionary of arrays by path, such as
"Conv_0/kernel", so it has the same parameters by construction. Images are [C, H, W] and stored with
channels last.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.problem import Weights

_BLUR = np.outer([1, 3, 3, 1], [1, 3, 3, 1]).astype(np.float32) / 64


@dataclasses.dataclass(frozen=True)
class Params:
    """The parameters below a path, and the directions of spectral norm by the paths of layers."""

    weights: Mapping[str, Any]
    directions: Mapping[str, Any]
    path: str = ""

    def __getitem__(self, name: str) -> Any:
        return torch.tensor(self.weights[self.path + name])

    def __contains__(self, name: str) -> bool:
        return self.path + name in self.weights

    def below(self, name: str) -> "Params":
        """Returns the parameters of a layer or block."""
        return dataclasses.replace(self, path=f"{self.path}{name}/")

    def each(self, name: str) -> "Iterator[Params]":
        """Yields the parameters of all layers `name`_0, `name`_1 and so on."""
        found = {p.split("/")[0] for p in self.weights if p.startswith(f"{name}_")}
        return (self.below(f"{name}_{number}") for number in range(len(found)))


def network(model: str, player: str, weights: list[Weights]) -> nn.Module:
    """Returns a player, "generator" or "discriminator", with the weights of a problem."""
    params = Params(weights[0], weights[1] if len(weights) > 1 else {})
    module = NETWORKS[model][player](params)
    return module.to(memory_format=torch.channels_last)


def _conv(p: Params, padding: int = 0) -> nn.Module:
    kernel = p["kernel"].permute(3, 2, 0, 1)
    features, inputs, size, _ = kernel.shape
    bias = "bias" in p
    groups = features // inputs if p.path.startswith("_Block_") and size == 3 else 1
    layer = nn.Conv2d(inputs * groups, features, size, 1, padding, 1, groups, bias)
    return _filled(layer, p, kernel)


def _dense(p: Params) -> nn.Module:
    kernel = p["kernel"].T
    return _filled(nn.Linear(kernel.shape[1], kernel.shape[0], "bias" in p), p, kernel)


def _filled(layer: Any, p: Params, kernel: Tensor) -> nn.Module:
    with torch.no_grad():
        layer.weight.copy_(kernel)
        if "bias" in p:
            layer.bias.copy_(p["bias"].flatten())
        if (v := p.directions.get(p.path[:-1])) is None:
            return layer
        layer = nn.utils.parametrizations.spectral_norm(layer)
        inner = layer.parametrizations.weight[0]
        if kernel.ndim == 4:  # the library's direction is [kh, kw, I]
            v = v.reshape(*kernel.shape[2:], kernel.shape[1]).transpose(2, 0, 1)
        inner._v.copy_(torch.tensor(np.ascontiguousarray(v)).flatten())
        inner._u.copy_(F.normalize(kernel.reshape(len(kernel), -1) @ inner._v, dim=0))
    return layer


def _norm(p: Params) -> nn.Module:
    p = p.below("BatchNorm_0")
    layer = nn.BatchNorm2d(len(p["scale"]))
    layer.weight.data, layer.bias.data = p["scale"], p["bias"]
    return layer


class _Blur(nn.Module):
    """Filters by [1, 3, 3, 1] with a depthwise convolution."""

    kernel: Tensor

    def __init__(self, features: int, gain: float = 1.0) -> None:
        super().__init__()
        kernel = torch.tensor(gain * _BLUR).expand(features, 1, 4, 4)
        kernel = kernel.clone(memory_format=torch.channels_last)
        self.register_buffer("kernel", kernel, persistent=False)

    def forward(self, x: Tensor, padding: int, stride: int = 1) -> Tensor:
        return F.conv2d(x, self.kernel, None, stride, padding, groups=len(self.kernel))

    def double(self, x: Tensor) -> Tensor:
        """Returns images of twice the size."""
        return F.conv_transpose2d(x, self.kernel, None, 2, 1, groups=len(self.kernel))


# --- R3GAN ---------------------------------------------------------------------------------------


class _R3Block(nn.Module):
    def __init__(self, p: Params) -> None:
        super().__init__()
        self.first, self.last = _conv(p.below("Conv_0")), _conv(p.below("Conv_2"))
        self.grouped = _conv(p.below("Conv_1"), padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.grouped(F.leaky_relu(self.first(x), 0.2))
        return x + self.last(F.leaky_relu(y, 0.2))


class _R3Generator(nn.Module):
    """Two blocks for each size, with the same number of features everywhere."""

    def __init__(self, p: Params) -> None:
        super().__init__()
        self.basis = nn.Parameter(p["basis"].permute(0, 3, 1, 2))
        self.dense, self.image = _dense(p.below("Dense_0")), _conv(p.below("Conv_0"))
        self.blocks = nn.ModuleList(map(_R3Block, p.each("_Block")))
        self.blur = _Blur(self.basis.shape[1], 4.0)

    def forward(self, z: Tensor) -> Tensor:
        x = (self.basis * self.dense(z)[:, :, None, None]).contiguous(
            memory_format=torch.channels_last
        )
        for number, block in enumerate(self.blocks):
            x = block(self.blur.double(x) if number and number % 2 == 0 else x)
        return self.image(x)


class _R3Discriminator(nn.Module):
    def __init__(self, p: Params) -> None:
        super().__init__()
        self.kernel = nn.Parameter(p["kernel"].permute(2, 3, 0, 1))
        self.dense, self.first = _dense(p.below("Dense_0")), _conv(p.below("Conv_0"))
        self.blocks = nn.ModuleList(map(_R3Block, p.each("_Block")))
        self.blur = _Blur(self.kernel.shape[1])

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for number, block in enumerate(self.blocks):
            x = block(self.blur(x, 1, 2) if number and number % 2 == 0 else x)
        return self.dense((x * self.kernel).sum((2, 3)))[:, 0]


# --- SNGAN ---------------------------------------------------------------------------------------


def _repeated(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")


class _UpBlock(nn.Module):
    def __init__(self, p: Params) -> None:
        super().__init__()
        self.norms = nn.ModuleList(map(_norm, (p.below("BatchNorm_0"), p.below("BatchNorm_1"))))
        self.first, self.last = (_conv(p.below(f"Conv3_{k}"), padding=1) for k in range(2))
        self.shortcut = _conv(p.below("Conv_0"))

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(_repeated(F.relu(self.norms[0](x))))
        y = self.last(F.relu(self.norms[1](y)))
        return y + _repeated(self.shortcut(x))


class _SNGenerator(nn.Module):
    def __init__(self, p: Params) -> None:
        super().__init__()
        self.dense = _dense(p.below("Dense_0"))
        self.blocks = nn.Sequential(*map(_UpBlock, p.each("UpBlock")))
        self.norm, self.image = _norm(p.below("BatchNorm_0")), _conv(p.below("Conv3_0"), padding=1)

    def forward(self, z: Tensor) -> Tensor:
        x = self.dense(z).reshape(len(z), 4, 4, -1).permute(0, 3, 1, 2)
        return torch.tanh(self.image(F.relu(self.norm(self.blocks(x)))))


class _DownBlock(nn.Module):
    def __init__(self, p: Params) -> None:
        super().__init__()
        number = int(p.path.split("/")[0].rsplit("_", 1)[1])
        self.is_first, self.halves = number == 0, number < 2
        self.first, self.last = (_conv(p.below(f"Conv3_{k}"), padding=1) for k in range(2))
        self.shortcut = _conv(p.below("Conv_0")) if "Conv_0/kernel" in p else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.last(F.relu(self.first(x if self.is_first else F.relu(x))))
        if self.halves:
            x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
        return y + self.shortcut(x)


class _SNDiscriminator(nn.Module):
    def __init__(self, p: Params) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*map(_DownBlock, p.each("DownBlock")))
        self.dense = _dense(p.below("Dense_0"))

    def forward(self, x: Tensor) -> Tensor:
        return self.dense(F.relu(self.blocks(x)).sum((2, 3)))[:, 0]


# --- StyleGAN2 -----------------------------------------------------------------------------------


def _activated(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.2) * math.sqrt(2.0)


class _EqualDense(nn.Module):
    def __init__(self, p: Params, rate: float = 1.0) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(p["dense/kernel"].T), nn.Parameter(p["bias"])
        self.rate, self.gain = rate, rate / math.sqrt(self.weight.shape[1])

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x * self.gain, self.weight, self.rate * self.bias)


class _EqualConv(nn.Module):
    def __init__(self, p: Params, down: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(p["kernel"].permute(3, 2, 0, 1))
        self.bias = nn.Parameter(p["bias"].flatten()) if "bias" in p else None
        _, inputs, self.size, _ = self.weight.shape
        self.gain = 1 / math.sqrt(inputs * self.size**2)
        self.blur = _Blur(inputs) if down else None

    def forward(self, x: Tensor) -> Tensor:
        padding, stride = self.size // 2, 1
        if self.blur is not None and self.size == 1:
            x = self.blur(x, 1, 2)
        elif self.blur is not None:
            x, padding, stride = self.blur(x, 2), 0, 2
        return F.conv2d(x, self.weight * self.gain, self.bias, stride, padding)


class _Modulated(nn.Module):
    def __init__(self, p: Params, up: bool = False, demodulate: bool = True) -> None:
        super().__init__()
        order = (2, 3, 0, 1) if up else (3, 2, 0, 1)
        self.weight = nn.Parameter(p["conv/kernel"].permute(order))
        self.bias = nn.Parameter(p["bias"].flatten())
        self.style, self.demodulate = _EqualDense(p.below("conv").below("style")), demodulate
        self.inputs, self.size = p["conv/kernel"].shape[2], self.weight.shape[2]
        self.blur = _Blur(self.weight.shape[1], 4.0) if up else None

    def forward(self, x: Tensor, w: Tensor, noise: Tensor | None = None) -> Tensor:
        style = self.style(w) / math.sqrt(self.inputs * self.size**2)
        x = x * style[:, :, None, None]
        if self.blur is None:
            x = F.conv2d(x, self.weight, None, 1, self.size // 2)
        else:
            x = self.blur(F.conv_transpose2d(x, self.weight, None, 2), 1)
        if self.demodulate:
            squares = self.weight.square().sum((2, 3))
            squares = style.square() @ (squares.T if self.blur is None else squares)
            x = x * torch.rsqrt(squares + 1e-8)[:, :, None, None]
        if noise is not None:
            x = x + noise
        return x + self.bias[:, None, None]


class _Styled(nn.Module):
    def __init__(self, p: Params, up: bool) -> None:
        super().__init__()
        self.conv, self.strength = _Modulated(p, up), nn.Parameter(p["noise"])

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        size = x.shape[2] * (1 if self.conv.blur is None else 2)
        noise = self.strength * torch.randn(len(w), 1, size, size)
        return _activated(self.conv(x, w, noise))


class _StyleGenerator(nn.Module):
    def __init__(self, p: Params) -> None:
        super().__init__()
        depth = sum(path.startswith("mapping/") and path.endswith("bias") for path in p.weights)
        mapping = (p.below("mapping").below(f"dense_{number}") for number in range(depth))
        self.mapping = nn.ModuleList(_EqualDense(layer, rate=0.01) for layer in mapping)
        self.constant = nn.Parameter(p["constant"].permute(0, 3, 1, 2))
        self.layers = nn.ModuleList(
            _Styled(layer, up=number % 2 == 1) for number, layer in enumerate(p.each("_Styled"))
        )
        self.images = nn.ModuleList(
            _Modulated(layer, demodulate=False) for layer in p.each("_ToImage")
        )
        self.blur = _Blur(self.images[0].weight.shape[0], 4.0)

    def forward(self, z: Tensor) -> Tensor:
        w = z * torch.rsqrt(z.square().mean(1, keepdim=True) + 1e-8)
        for layer in self.mapping:
            w = _activated(layer(w))
        x = self.layers[0](self.constant, w)
        image = self.images[0](x, w)
        for level in range(1, len(self.images)):
            x = self.layers[2 * level](self.layers[2 * level - 1](x, w), w)
            image = self.blur.double(image) + self.images[level](x, w)
        return image


class _StyleDiscriminator(nn.Module):
    def __init__(self, p: Params) -> None:
        super().__init__()
        first, *rest, last = p.each("EqualConv")
        self.first, self.last = _EqualConv(first), _EqualConv(last)
        self.convs = nn.ModuleList(
            _EqualConv(layer, down=number % 3 > 0) for number, layer in enumerate(rest)
        )
        self.dense, self.logit = map(_EqualDense, p.each("EqualDense"))

    def forward(self, x: Tensor) -> Tensor:
        x = _activated(self.first(x))
        for level in range(0, len(self.convs), 3):
            conv, down, skip = self.convs[level : level + 3]
            y = _activated(down(_activated(conv(x))))
            x = (y + skip(x)) * math.sqrt(0.5)
        deviation = (x.var(0, unbiased=False) + 1e-8).sqrt().mean()
        x = torch.cat([x, deviation.expand_as(x[:, :1])], 1)
        x = _activated(self.last(x)).permute(0, 2, 3, 1)
        return self.logit(_activated(self.dense(x.reshape(len(x), -1))))[:, 0]


NETWORKS: dict[str, dict[str, Callable[[Params], nn.Module]]] = {
    "r3gan": {"generator": _R3Generator, "discriminator": _R3Discriminator},
    "sngan": {"generator": _SNGenerator, "discriminator": _SNDiscriminator},
    "stylegan2": {"generator": _StyleGenerator, "discriminator": _StyleDiscriminator},
}
"""The networks by model and player."""
