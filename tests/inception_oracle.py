"""Random weights for FID's Inception-v3, and what torch-fidelity computes with them.

`tests/parity/test_inception.py` computes the figures again.
"""

import numpy as np

THIN = 16  # the network of the stored figures has a sixteenth of the channels


def state(divisor=1):
    """A state dict of random weights, with `divisor` times fewer channels."""
    rng = np.random.default_rng(0)
    tensors = {}
    for name, (into, out, *kernel) in SHAPES.items():
        into, out = into // divisor if into > 3 else into, out // divisor
        weight = rng.standard_normal((out, into, *kernel), np.float32)
        tensors[f"{name}.conv.weight"] = weight * np.sqrt(2 / weight[0].size).astype(np.float32)
        for key, values in (
            ("weight", rng.uniform(0.8, 1.2, out)),
            ("bias", rng.normal(0, 0.1, out)),
            ("running_mean", rng.normal(0, 0.1, out)),
            ("running_var", rng.uniform(0.5, 1.5, out)),
        ):
            tensors[f"{name}.bn.{key}"] = values.astype(np.float32)
    into, out = 2048 // divisor, 1008 // divisor
    weight = rng.standard_normal((out, into), np.float32)
    tensors["fc.weight"] = weight * np.sqrt(2 / into).astype(np.float32)
    tensors["fc.bias"] = rng.normal(0, 1, out).astype(np.float32)
    return tensors


def images():
    """Three uint8 images [20, 24, 3]."""
    return np.random.default_rng(1).integers(0, 256, (3, 20, 24, 3), np.uint8)


def _a(n, pool):
    return {
        "branch1x1": (n, 64, 1, 1),
        "branch5x5_1": (n, 48, 1, 1),
        "branch5x5_2": (48, 64, 5, 5),
        "branch3x3dbl_1": (n, 64, 1, 1),
        "branch3x3dbl_2": (64, 96, 3, 3),
        "branch3x3dbl_3": (96, 96, 3, 3),
        "branch_pool": (n, pool, 1, 1),
    }


def _b(n):
    return {
        "branch3x3": (n, 384, 3, 3),
        "branch3x3dbl_1": (n, 64, 1, 1),
        "branch3x3dbl_2": (64, 96, 3, 3),
        "branch3x3dbl_3": (96, 96, 3, 3),
    }


def _c(n, m):
    return {
        "branch1x1": (n, 192, 1, 1),
        "branch7x7_1": (n, m, 1, 1),
        "branch7x7_2": (m, m, 1, 7),
        "branch7x7_3": (m, 192, 7, 1),
        "branch7x7dbl_1": (n, m, 1, 1),
        "branch7x7dbl_2": (m, m, 7, 1),
        "branch7x7dbl_3": (m, m, 1, 7),
        "branch7x7dbl_4": (m, m, 7, 1),
        "branch7x7dbl_5": (m, 192, 1, 7),
        "branch_pool": (n, 192, 1, 1),
    }


def _d(n):
    return {
        "branch3x3_1": (n, 192, 1, 1),
        "branch3x3_2": (192, 320, 3, 3),
        "branch7x7x3_1": (n, 192, 1, 1),
        "branch7x7x3_2": (192, 192, 1, 7),
        "branch7x7x3_3": (192, 192, 7, 1),
        "branch7x7x3_4": (192, 192, 3, 3),
    }


def _e(n):
    return {
        "branch1x1": (n, 320, 1, 1),
        "branch3x3_1": (n, 384, 1, 1),
        "branch3x3_2a": (384, 384, 1, 3),
        "branch3x3_2b": (384, 384, 3, 1),
        "branch3x3dbl_1": (n, 448, 1, 1),
        "branch3x3dbl_2": (448, 384, 3, 3),
        "branch3x3dbl_3a": (384, 384, 1, 3),
        "branch3x3dbl_3b": (384, 384, 3, 1),
        "branch_pool": (n, 192, 1, 1),
    }


_BLOCKS = {
    "Mixed_5b": _a(192, 32),
    "Mixed_5c": _a(256, 64),
    "Mixed_5d": _a(288, 64),
    "Mixed_6a": _b(288),
    "Mixed_6b": _c(768, 128),
    "Mixed_6c": _c(768, 160),
    "Mixed_6d": _c(768, 160),
    "Mixed_6e": _c(768, 192),
    "Mixed_7a": _d(768),
    "Mixed_7b": _e(1280),
    "Mixed_7c": _e(2048),
}

# Channels in, channels out, height and width of each convolution's kernel.
SHAPES = {
    "Conv2d_1a_3x3": (3, 32, 3, 3),
    "Conv2d_2a_3x3": (32, 32, 3, 3),
    "Conv2d_2b_3x3": (32, 64, 3, 3),
    "Conv2d_3b_1x1": (64, 80, 1, 1),
    "Conv2d_4a_3x3": (80, 192, 3, 3),
    **{f"{name}.{conv}": shape for name, b in _BLOCKS.items() for conv, shape in b.items()},
}

# torch-fidelity 0.4 with `state(THIN)` and `images()`: the first features and logarithms of
# probabilities.
FEATURES = [
    [5.08491, 1.31715, 0.87739, 5.58349],
    [4.33922, 1.04222, 0.74478, 4.87553],
    [4.50289, 1.33074, 0.91503, 4.96285],
]
LOG_PROBABILITIES = [
    [-14.0011, -13.5549, -12.3742, -7.9488],
    [-13.1911, -12.72, -11.2998, -7.6945],
    [-13.2507, -12.8171, -11.5491, -7.6007],
]

# torch.tensor([0.0, 255, 10, 200, 90]) resized to 299, at outputs 0, 1, 30, 100, 150, 250, 298.
RESIZED = {
    "legacy": [0.0, 4.2642, 127.9264, 90.301, 106.5886, 90.0, 90.0],
    "legacy_pytorch": [0.0, 0.0, 2.5585, 210.7525, 13.1772, 124.2141, 90.0],
}
