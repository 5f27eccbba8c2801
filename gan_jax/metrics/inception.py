"""The Inception-v3 of the Fréchet Inception distance and of the Inception Score.

Heusel et al. 2017 (arXiv:1706.08500) use the graph that TensorFlow published on 2015-12-05. This
module computes the same network as pytorch-fid and torch-fidelity, with their weights. The network
differs from torchvision's Inception-v3 in three ways: average pools do not count the padding, the
pool of the last block takes the maximum, and there are 1,008 classes.

A Fréchet distance depends on the method that resizes images from height H to 299 pixels:

- "clean": Pillow's bicubic, antialiased, of each channel as float, then clipped to [0, 255]. The
  network gets (x - 128) / 128. This is clean-fid's default.
- "legacy": TensorFlow 1's bilinear, not antialiased: row i is read at i H / 299. The network gets
  (x - 128) / 128. This is the FID of the paper, of torch-fidelity, and of clean-fid's
  "legacy_tensorflow".
- "legacy_pytorch": PyTorch's bilinear, not antialiased: row i is read at (i + 1/2) H / 299 - 1/2.
  The network gets 2 (x / 255) - 1. This is the FID of pytorch-fid.
"""

import functools
import hashlib
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from numpy.typing import NDArray

from gan_jax.metrics.extractor import Extractor, convolution, in_batches
from gan_jax.metrics.torch_file import read_state

SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
SIZE = 299

Resize = Literal["clean", "legacy", "legacy_pytorch"]
Weights = Mapping[str, tuple[jax.Array, jax.Array]]

_BATCH = 32  # images per call
_HIGHEST = jax.lax.Precision.HIGHEST


def extractor(content: bytes, *, resize: Resize = "clean", insist: bool = False) -> Extractor:
    """Returns the extractor of 2,048 Inception features and of 1,008 class probabilities.

    It takes uint8 images of any size with one channel, which is repeated, or three (RGB).

    As in torch-fidelity and in TensorFlow's graph, the probabilities of the Inception Score are the
    softmax of the logits without the bias.

    Args:
      content: the content of pytorch-fid's `pt_inception-2015-12-05-6726825d.pth`. torch-fidelity
        names the same file `weights-inception-2015-12-05-6726825d.pth`.
      resize: the method that resizes images to 299 x 299 pixels. The module's
        docstring compares the methods.
      insist: also take other weights for this network. The extractor's name contains their hash.

    Raises:
      ValueError: the SHA-256 of the content is not `SHA256`, the content does not hold weights for
        this network, or `resize` is unknown.
    """
    if resize not in get_args(Resize):
        raise ValueError(f"resize must be one of {', '.join(get_args(Resize))}, got {resize!r}")
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256 and not insist:
        raise ValueError(
            f"the Inception weights have SHA-256 {found}, not {SHA256}: name the file "
            "pt_inception-2015-12-05-6726825d.pth, or insist on these weights"
        )
    weights, fc = parse_weights(read_state(content))

    def features(x: NDArray[np.uint8]) -> NDArray[np.float32]:
        _check(x)
        return in_batches(
            lambda batch: _features(weights, _prepare(batch, resize)), x, _BATCH, len(fc)
        )

    def probabilities(x: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.asarray(_probabilities(fc, features(x)))

    return Extractor(f"FID Inception-v3 {found[:8]}, {resize} resize", features, probabilities)


def parse_weights(state: Mapping[str, NDArray[Any]]) -> tuple[Weights, jax.Array]:
    """Returns the weights of the convolutions and the matrix [2048, K] of the last layer.

    Each batch normalisation becomes part of its convolution, which then has a kernel
    [h, w, in, out] and a bias [out].

    Args:
      state: the state dict of pytorch-fid's or torch-fidelity's network.

    Raises:
      ValueError: a tensor is missing or has the wrong shape.
    """
    try:
        weights = {
            name.removesuffix(".conv.weight"): _fold(state, name.removesuffix(".conv.weight"))
            for name in state
            if name.endswith(".conv.weight")
        }
        weights, fc = jax.device_put((weights, state["fc.weight"].T.astype(np.float32)))
        image = jax.ShapeDtypeStruct((1, SIZE, SIZE, 3), jnp.float32)
        jax.eval_shape(lambda x: _pooled(weights, x) @ fc, image)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"these are not weights of FID's Inception-v3: {error}") from error
    return weights, fc


def layers(weights: Weights, x: jax.Array) -> dict[str, jax.Array]:
    """Returns the outputs [B, h, w, c] of the layers and blocks, by name, in order.

    Args:
      weights: those of `parse_weights`.
      x: [B, 299, 299, 3], scaled to [-1, 1].
    """
    outputs = {}
    for name, stride, padding in (
        ("Conv2d_1a_3x3", 2, "VALID"),
        ("Conv2d_2a_3x3", 1, "VALID"),
        ("Conv2d_2b_3x3", 1, "SAME"),
        ("MaxPool_1", 2, "VALID"),
        ("Conv2d_3b_1x1", 1, "VALID"),
        ("Conv2d_4a_3x3", 1, "VALID"),
        ("MaxPool_2", 2, "VALID"),
    ):
        if name.startswith("Max"):
            x = _reduce(x)
        else:
            x = convolution(x, *weights[name], stride, padding)
        outputs[name] = x
    for name, block in _BLOCKS.items():
        x = jnp.concatenate(block(functools.partial(_branch, weights, name), x), axis=-1)
        outputs[name] = x
    return outputs


def resize_weights(size: int, resize: Resize) -> NDArray[np.float32]:
    """Returns the weights [299, size] with which pixels enter the resized ones, along one axis."""
    scale = size / SIZE
    if resize == "clean":  # Pillow's ImagingResample: the kernel widens when the image shrinks
        centre = (np.arange(SIZE) + 0.5) * scale
        weights = _cubic((np.arange(size) + 0.5 - centre[:, None]) / max(scale, 1))
        return (weights / weights.sum(1, keepdims=True)).astype(np.float32)
    # The reference libraries round positions to float32 once. An edge in a large image shows this.
    half = 0.5 if resize == "legacy_pytorch" else 0
    position = np.float64(np.float32(scale)) * (np.arange(SIZE) + half) - half
    position = position.astype(np.float32)
    offset = np.arange(size, dtype=np.float32) - position.clip(0, size - 1)[:, None]
    return (1 - np.abs(offset)).clip(0)


def _cubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the cubic convolution kernel of Keys 1981 with a = -1/2."""
    x = np.abs(x)
    near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0))


@functools.partial(jax.jit, static_argnames="resize")
def _prepare(x: jax.Array, resize: Resize) -> jax.Array:
    """Returns uint8 images [B, H, W, C] as the network's input [B, 299, 299, 3]."""
    rows, columns = (resize_weights(size, resize) for size in x.shape[1:3])
    x = jnp.einsum("bhwc,qw->bhqc", x.astype(jnp.float32), columns, precision=_HIGHEST)
    x = jnp.einsum("bhqc,ph->bpqc", x, rows, precision=_HIGHEST)
    if resize == "clean":
        x = x.clip(0, 255)
    x = 2 * (x / 255) - 1 if resize == "legacy_pytorch" else (x - 128) / 128
    return jnp.broadcast_to(x, (*x.shape[:3], 3))


def _pooled(weights: Weights, x: jax.Array) -> jax.Array:
    return jnp.mean(layers(weights, x)["Mixed_7c"], axis=(1, 2))


_features = jax.jit(_pooled)


@jax.jit
def _probabilities(fc: jax.Array, features: jax.Array) -> jax.Array:
    return jax.nn.softmax(jnp.matmul(features, fc, precision=_HIGHEST))


def _check(x: NDArray[np.uint8]) -> None:
    if x.dtype != np.uint8 or x.ndim != 4 or x.shape[3] not in (1, 3) or 0 in x.shape[1:]:
        raise ValueError(
            f"x must be uint8 [N, H, W, 1 or 3], got {x.dtype} {list(x.shape)}: "
            "gan_jax.data.pipeline.quantize converts samples in [-1, 1]"
        )


def _fold(state: Mapping[str, NDArray[Any]], name: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Returns the kernel and the bias of a convolution followed by its batch normalisation."""
    norm = {
        key: state[f"{name}.bn.{key}"].astype(np.float64)
        for key in ("weight", "bias", "running_mean", "running_var")
    }
    factor = norm["weight"] / np.sqrt(norm["running_var"] + 1e-3)
    kernel = state[f"{name}.conv.weight"].transpose(2, 3, 1, 0) * factor
    bias = norm["bias"] - norm["running_mean"] * factor
    return kernel.astype(np.float32), bias.astype(np.float32)


def _branch(weights: Weights, block: str, x: jax.Array, *names: str, stride: int = 1) -> jax.Array:
    """Returns x after the named convolutions of a block. A stride of 2 is the last one's alone."""
    for name in names[:-1]:
        x = convolution(x, *weights[f"{block}.{name}"])
    last = weights[f"{block}.{names[-1]}"]
    return convolution(x, *last, stride, "SAME" if stride == 1 else "VALID")


_Block = Callable[[Callable[..., jax.Array], jax.Array], list[jax.Array]]


def _a(conv: Callable[..., jax.Array], x: jax.Array) -> list[jax.Array]:
    return [
        conv(x, "branch1x1"),
        conv(x, "branch5x5_1", "branch5x5_2"),
        conv(x, "branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"),
        conv(_average(x), "branch_pool"),
    ]


def _b(conv: Callable[..., jax.Array], x: jax.Array) -> list[jax.Array]:
    return [
        conv(x, "branch3x3", stride=2),
        conv(x, "branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3", stride=2),
        _reduce(x),
    ]


def _c(conv: Callable[..., jax.Array], x: jax.Array) -> list[jax.Array]:
    return [
        conv(x, "branch1x1"),
        conv(x, *(f"branch7x7_{i}" for i in range(1, 4))),
        conv(x, *(f"branch7x7dbl_{i}" for i in range(1, 6))),
        conv(_average(x), "branch_pool"),
    ]


def _d(conv: Callable[..., jax.Array], x: jax.Array) -> list[jax.Array]:
    return [
        conv(x, "branch3x3_1", "branch3x3_2", stride=2),
        conv(x, *(f"branch7x7x3_{i}" for i in range(1, 5)), stride=2),
        _reduce(x),
    ]


def _e(
    pool: Callable[[jax.Array], jax.Array], conv: Callable[..., jax.Array], x: jax.Array
) -> list[jax.Array]:
    y, z = conv(x, "branch3x3_1"), conv(x, "branch3x3dbl_1", "branch3x3dbl_2")
    return [
        conv(x, "branch1x1"),
        conv(y, "branch3x3_2a"),
        conv(y, "branch3x3_2b"),
        conv(z, "branch3x3dbl_3a"),
        conv(z, "branch3x3dbl_3b"),
        conv(pool(x), "branch_pool"),
    ]


def _reduce(x: jax.Array) -> jax.Array:
    return nn.max_pool(x, (3, 3), (2, 2))


def _average(x: jax.Array) -> jax.Array:
    return nn.avg_pool(x, (3, 3), padding="SAME", count_include_pad=False)


def _maximum(x: jax.Array) -> jax.Array:
    return nn.max_pool(x, (3, 3), padding="SAME")


_BLOCKS: dict[str, _Block] = {
    **dict.fromkeys(("Mixed_5b", "Mixed_5c", "Mixed_5d"), _a),
    "Mixed_6a": _b,
    **dict.fromkeys(("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"), _c),
    "Mixed_7a": _d,
    "Mixed_7b": functools.partial(_e, _average),
    "Mixed_7c": functools.partial(_e, _maximum),
}
