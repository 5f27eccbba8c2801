"""The augmentations of ADA for images (Karras et al. 2020, appendix B)."""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.ndimage import map_coordinates

from gan_jax.augment.images import check_image, cut_out
from gan_jax.trees import at_least_single
from gan_jax.types import Array

KINDS = {
    "blit": ("rotate90", "xint"),
    "geometry": ("scale", "rotate", "aniso", "xfrac"),
    "colour": ("brightness", "contrast", "lumaflip", "hue", "saturation"),
    "noise": ("noise",),
    "cutout": ("cutout",),
}
"""The transformations in each set. Their names are those of the authors' code."""

_AMOUNTS: dict[str, Callable[[Array, Array], Array]] = {
    "xflip": lambda u, z: jnp.floor(2 * u[0]),
    "rotate90": lambda u, z: jnp.floor(4 * u[0]),  # quarter turns
    "xint": lambda u, z: (2 * u - 1) / 8,  # shares of the sides
    "scale": lambda u, z: 0.2 * z[0],  # power of 2
    "rotate": lambda u, z: jnp.pi * (2 * u[0] - 1),  # radians
    "aniso": lambda u, z: 0.2 * z[0],  # power of 2
    "rotate_again": lambda u, z: jnp.pi * (2 * u[0] - 1),
    "xfrac": lambda u, z: z / 8,
    "brightness": lambda u, z: 0.2 * z[0],
    "contrast": lambda u, z: 0.5 * z[0],  # power of 2
    "lumaflip": lambda u, z: jnp.floor(2 * u[0]),
    "hue": lambda u, z: jnp.pi * (2 * u[0] - 1),  # radians
    "saturation": lambda u, z: z[0],  # power of 2
    "noise": lambda u, z: 0.1 * jnp.abs(z[0]),
    "cutout": lambda u, z: u,  # the centre, as shares of the sides
}
"""The amount of each transformation, from two uniform numbers u in [0, 1) and two normal numbers z.

An amount of 0 leaves the image unchanged.
"""


def pipe(
    key: Array,
    x: Array,
    p: float | Array,
    *,
    kinds: Sequence[str] = ("blit", "geometry", "colour"),
    flips: bool = False,
) -> Array:
    """Returns one image after ADA's transformations, each made with probability p.

    The distributions are those of Karras et al. 2020, appendix B. The authors' default is `kinds`
    as here with `flips=True`. With p = 0 the result is exactly x.

    All geometric transformations together are one affine map, and the image is sampled once. The
    plane around the image is filled with its mirror images. For sampling, a cubic filter first
    doubles the resolution, and the values between pixels are then linear. (The authors use a
    wavelet filter.) The amplification of frequency bands is left out.

    Bind the options and choose how p moves:

        augment = partial(ada.pipe, flips=True)
        adaptive(augment, rate=batch_size / 500_000)
        scheduled(augment, half_cosine(0.0, 0.55, 20e6, batch_size))

    Args:
      key: a single key.
      x: [H, W, C] in [-1, 1], H and W at least 2. The result may leave this range.
      p: [] the probability of each transformation, in [0, 1].
      kinds: names of sets in `KINDS`, or names of single transformations in these sets.
      flips: whether to mirror images left to right. Use False for data that has a handedness, such
        as digits. Consider `kinds` without "rotate90" and "rotate" if classes are rotations of each
        other.

    Raises:
      ValueError: x is not an image [H, W, C], a name in `kinds` is unknown, or colours are to
        change and C is neither 1 nor 3.
    """
    check_image(x)
    chosen = _chosen(kinds, flips)
    *keys, key_noise = jax.random.split(key, 3)
    amount = _amounts(keys, p, chosen)
    y = at_least_single(x)
    if chosen & {"xflip", *KINDS["blit"], *KINDS["geometry"]}:
        y = _warped(y, _affine(amount, y.shape[0], y.shape[1]))
    if chosen & set(KINDS["colour"]):
        y = _recoloured(y, amount)
    if "noise" in chosen:
        y = y + amount["noise"] * jax.random.normal(key_noise, y.shape, y.dtype)
    if "cutout" in chosen:
        centre = amount["cutout"]
        sides = np.array(y.shape[:2])
        y = cut_out(y, (centre - 0.25) * sides - 0.5, 0.5 * jnp.any(centre > 0) * sides)
    return y.astype(x.dtype)


def _chosen(kinds: Sequence[str], flips: bool) -> set[str]:
    single = {name: (name,) for names in KINDS.values() for name in names}
    known = single | KINDS
    if isinstance(kinds, str) or not set(kinds) <= set(known):
        raise ValueError(f"kinds must be a tuple of names among {', '.join(known)}, got {kinds!r}")
    chosen = {name for kind in kinds for name in known[kind]}
    return chosen | ({"xflip"} if flips else set())


def _amounts(keys: Sequence[Array], p: float | Array, chosen: set[str]) -> dict[str, Array]:
    """Returns the amount of each transformation. It is 0 if the transformation is not made."""
    num = len(_AMOUNTS)
    uniform, normal = jax.random.uniform(keys[0], (num, 3)), jax.random.normal(keys[1], (num, 2))
    # At least one of the two rotations is made with probability p.
    once = 1 - jnp.sqrt(1 - jnp.asarray(p, float))
    amounts = {}
    for i, (name, amount) in enumerate(_AMOUNTS.items()):
        kind = name.removesuffix("_again")
        chance = (once if kind == "rotate" else p) if kind in chosen else 0.0
        amounts[name] = (uniform[i, 2] < chance) * amount(uniform[i, :2], normal[i])
    return amounts


def _affine(amount: dict[str, Array], height: int, width: int) -> Array:
    """Returns the matrix [3, 3] that maps points (x, y, 1) of the result to points of the image.

    The origin is the centre of the image. The last factor belongs to the last transformation.
    """
    size = np.array([width, height])
    shrink, stretch = jnp.exp2(-amount["scale"]), jnp.exp2(-amount["aniso"])
    factors = (
        _scaling(1 - 2 * amount["xflip"], 1.0),
        jnp.round(_rotation(-jnp.pi / 2 * amount["rotate90"])),
        _translation(-jnp.round(amount["xint"] * size)),
        _scaling(shrink, shrink),
        _rotation(-amount["rotate"]),
        _scaling(stretch, 1 / stretch),
        _rotation(-amount["rotate_again"]),
        _translation(-amount["xfrac"] * size),
    )
    # Not a matrix product, which accelerators compute with too few digits by default.
    return functools.reduce(lambda a, b: jnp.sum(a[:, :, None] * b[None], axis=1), factors)


# These matrices are sums, because `jnp.stack` refuses entries that a mesh with explicit axes shards
# differently.


def _scaling(x: Array, y: Array | float) -> Array:
    return jnp.diag(jnp.array([0, 0, 1.0])) + x * np.diag([1.0, 0, 0]) + y * np.diag([0, 1.0, 0])


def _rotation(angle: Array) -> Array:
    turned = np.array([[0, -1.0, 0], [1, 0, 0], [0, 0, 0]])
    plane = np.diag([1.0, 1, 0])
    return jnp.cos(angle) * plane + jnp.sin(angle) * turned + np.diag([0, 0, 1.0])


def _translation(by: Array) -> Array:
    return jnp.eye(3) + by[0] * np.eye(3, k=2) + by[1] * np.diag([0, 1.0], k=1)


def _warped(x: Array, matrix: Array) -> Array:
    """Returns the image [H, W, C], sampled at the points that the matrix of `_affine` gives."""
    middle = [(side - 1) / 2 for side in x.shape[:2]]
    rows, columns = jnp.meshgrid(
        *(jnp.arange(side) - m for side, m in zip(x.shape, middle, strict=False)), indexing="ij"
    )
    across, down = (a * columns + b * rows + c for a, b, c in matrix[:2])
    fine = _doubled(_doubled(x).swapaxes(0, 1)).swapaxes(0, 1)
    points = [2 * (down + middle[0]), 2 * (across + middle[1])]
    sample = functools.partial(map_coordinates, coordinates=points, order=1, mode="mirror")
    return jax.vmap(sample, -1, -1)(fine)


def _doubled(x: Array) -> Array:
    """Returns x [N, ...] with an interpolated value between neighbours: [2N - 1, ...].

    The values are those of Catmull and Rom's cubic. The array is mirrored at its ends.
    """
    far = jnp.pad(x, ((1, 1), (0, 0), (0, 0)), mode="reflect")
    between = (9 * (x[:-1] + x[1:]) - far[:-3] - far[3:]) / 16
    pairs = jnp.stack([x, jnp.pad(between, ((0, 1), (0, 0), (0, 0)))], axis=1)
    return pairs.reshape(-1, *x.shape[1:])[:-1]


def _recoloured(x: Array, amount: dict[str, Array]) -> Array:
    """Returns the image [H, W, C] with its colours changed.

    Brightness is added first. The other transformations scale the grey axis (1, 1, 1), and rotate
    or scale the plane perpendicular to it. These maps commute, so one matrix is enough.
    """
    x = x + amount["brightness"]
    contrast = jnp.exp2(amount["contrast"])
    grey = contrast * (1 - 2 * amount["lumaflip"])
    channels = x.shape[-1]
    if channels == 1:
        return grey * x
    if channels != 3:
        raise ValueError(
            f"colours need 1 or 3 channels, got {channels}: leave them out, for example by "
            'kinds=("blit", "geometry")'
        )
    onto_grey = np.full((3, 3), 1 / 3)
    quarter_turn = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)
    plane = jnp.cos(amount["hue"]) * (np.eye(3) - onto_grey)
    plane += jnp.sin(amount["hue"]) * quarter_turn
    colour = contrast * jnp.exp2(amount["saturation"])
    matrix = grey * onto_grey + colour * plane
    return jnp.matmul(x, matrix.T.astype(x.dtype), precision=jax.lax.Precision.HIGHEST)
