"""Spectral normalisation: a network whose every linear layer has operator norm 1."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from gan_jax.models.layers import Conv, ConvTranspose
from gan_jax.types import GAN, Array, Network, PyTree

LAYERS = (nn.Dense, nn.Conv, nn.ConvTranspose, Conv, ConvTranspose)
"""The kinds of layer that are normalised."""

Map = Callable[[Array, Array], Array]
"""A layer without its bias: (kernel, v [N, ...]) -> [N, ...]."""

Path = tuple[str, ...]

_BETWEEN, _LONGEST, _RUNS = 8, 16, 4
"""Steps of the Lanczos method between two looks at what it found, and in a run; and the runs."""

_RANDOM = 2
"""How many random directions each run starts from, besides the one that is kept."""

_TOLERANCE = 5e-3
"""Of the square of the norm, by bounds of first order: the error is of the second."""

_SAME = 1e-6
"""A norm that differs by less is that of the same kernel."""

_SMALLEST = 1e-12
"""What is divided by is at least this: a kernel of zeros stays one."""


def spectral_norm(network: Network) -> Network:
    """The network with each layer's kernel divided by the norm of the layer's linear map.

    As Miyato et al. 2018, but the norm is of the map itself, a convolution with its stride, padding
    and size of input; theirs is of the kernel reshaped to a matrix, which may be smaller. With
    1-Lipschitz activations and no batch norm the network is 1-Lipschitz, to 1e-3 for each layer.

    Each pass, in training and in evaluation, finds the norm by the block Lanczos method, from the
    direction that gave it last time and fresh random ones, in as many steps as it takes; none where
    the layer makes of the direction just what it did, as in D's second pass in a step. An estimate
    is never too large. The direction is kept in the model state by training passes, as in algorithm
    1 there; gradients hold it constant (equation 12). It is the same on every device.

    Args:
      network: any with Linen layers: `flax.linen.Dense`, `Conv`, `ConvTranspose`, and those of
        `gan_jax.models.layers`. Biases and other layers are left as they are.

    Returns:
      A network of the same parameters; its model state is {"network": the network's own,
      "directions": {path: an input to the layer, of length 1}, "norms": {path: []}, "seed": []
      int32, of the random directions, one more after each training pass}.

    Raises:
      ValueError: (on a call) there is no such layer, or one is used twice on inputs of different
        shapes.
    """

    def init(key: Array, x: Array, label: Array | None = None) -> tuple[PyTree, PyTree]:
        key_network, key_seed, key_directions = jax.random.split(key, 3)
        params, model_state = network.init(key_network, x, label)
        directions = {
            "/".join(path): _unit(jax.random.normal(jax.random.fold_in(key_directions, i), shape))
            for i, (path, (_, shape)) in enumerate(_layers(network, x, label).items())
        }
        found = {
            "directions": directions,
            "norms": {name: jnp.zeros(()) for name in directions},
            "seed": jax.random.randint(key_seed, (), 0, 2**30),
        }
        return params, {"network": model_state, **found}

    def apply(
        params: PyTree,
        model_state: PyTree,
        x: Array,
        label: Array | None = None,
        *,
        train: bool,
        **options: Any,
    ) -> tuple[Array, PyTree]:
        directions, norms = dict(model_state["directions"]), dict(model_state["norms"])
        seed = model_state["seed"]
        for i, (path, (layer, _)) in enumerate(_layers(network, x, label).items()):
            name, kernel = "/".join(path), _get(params, path)["kernel"]
            key = jax.random.fold_in(jax.random.key(seed), i)
            norm, directions[name], norms[name] = _norm(
                layer, kernel, directions[name], norms[name], key
            )
            normalised = kernel / jnp.maximum(norm, _SMALLEST).astype(kernel.dtype)
            params = _set(params, (*path, "kernel"), normalised)
        y, inner = network.apply(params, model_state["network"], x, label, train=train, **options)
        found = {"directions": directions, "norms": norms, "seed": seed + 1} if train else {}
        return y, {**model_state, **found, "network": inner}

    return Network(init, apply)


def spectrally_normalised(gan: GAN) -> GAN:
    """The same GAN, its D with `spectral_norm`."""
    return gan._replace(discriminator=spectral_norm(gan.discriminator))


def _norm(
    layer: Map, kernel: Array, direction: Array, before: Array, key: Array
) -> tuple[Array, Array, Array]:
    """The norm of the layer's map, the direction in which it is attained, the norm last found.

    From the direction and the norm that were last found; slow changes add up till they are seen. By
    runs of the Lanczos method, each from the last one's direction and random ones: without these,
    what training has made largest would be found late, for it may be orthogonal to what was.
    """
    kernel = kernel.astype(direction.dtype)
    fixed, start = jax.lax.stop_gradient((kernel, direction))

    def unsettled(carry: tuple[Array, Array, Array]) -> Array:
        run, _, doubt = carry
        return (run < _RUNS) & doubt

    def run(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        number, v, _ = carry
        shape = (_RANDOM, *v.shape)
        fresh = jax.random.normal(jax.random.fold_in(key, number), shape, v.dtype)
        return number + 1, *_lanczos(lambda v: layer(fixed, v), jnp.concatenate([v[None], fresh]))

    def norm_at(v: Array) -> Array:
        return jnp.vdot(_unit(layer(fixed, v[None])), layer(kernel, v[None]))

    changed = jnp.abs(jax.lax.stop_gradient(norm_at(start) - before)) > _SAME * before
    _, v, _ = jax.lax.while_loop(unsettled, run, (jnp.zeros((), jnp.int32), start, changed))
    norm = norm_at(v)
    return norm, v, jnp.where(changed, jax.lax.stop_gradient(norm), before)


def _lanczos(layer: Callable[[Array], Array], block: Array) -> tuple[Array, Array]:
    """The direction [...] in which the layer makes most of its length, and whether in doubt.

    The block Lanczos method (Golub and Underwood 1977) on the map's square A from the directions
    block [N, ...], with full reorthogonalisation. Around each Ritz value is an eigenvalue of A, no
    farther than the Ritz vector's residual (Parlett 1980, theorem 4.5.1): it stops when no such
    interval reaches above the largest Ritz value by more than the tolerance. What it has seen
    nothing of can be larger nevertheless; that is what random directions are for.
    """
    image = jax.eval_shape(layer, block)
    transpose = jax.linear_transpose(layer, block)
    blocks = (_LONGEST, len(block))

    def step(number: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        """One more block of the basis, what the layer makes of it, and what is to come next."""
        basis, made, further = carry
        rows = _orthonormal(further, _flat(basis))
        basis = basis.at[number].set(rows)
        y = layer(rows.reshape(block.shape))
        (further,) = transpose(y)
        made = made.at[number].set(_rows(y))
        return basis, made, _rows(further) - _rows(further) @ _flat(basis).T @ _flat(basis)

    def look(number: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        basis, made, further = _flat(carry[0]), _flat(carry[1]), carry[2]
        # By rising norm of what the layer makes of them; rows of zeros first.
        values, shares = jnp.linalg.eigh(made @ made.T + _SMALLEST * basis @ basis.T)
        of_last = shares.reshape(*blocks, -1)[number - 1]
        residuals = jnp.linalg.norm(of_last.T @ further, axis=1)
        doubt = jnp.max(values + residuals) > (1 + _TOLERANCE) * values[-1]
        return _unit(shares[:, -1] @ basis).reshape(block.shape[1:]), doubt

    def unsettled(carry: tuple[Array, Any, Array, Array]) -> Array:
        number, *_, doubt = carry
        return (number < _LONGEST) & doubt

    def go_on(carry: tuple[Array, Any, Array, Array]) -> tuple[Array, Any, Array, Array]:
        number, found, *_ = carry
        found = jax.lax.fori_loop(number, number + _BETWEEN, step, found)
        return number + _BETWEEN, found, *look(number + _BETWEEN, found)

    rows = _rows(block)
    zero = _zero(block)
    basis = jnp.full((*blocks, rows.shape[1]), zero)
    made = jnp.full((*blocks, math.prod(image.shape[1:])), zero)
    start = jnp.zeros((), jnp.int32), (basis, made, rows), block[0], zero == 0
    return jax.lax.while_loop(unsettled, go_on, start)[2:]


def _zero(v: Array) -> Array:
    """0 as an array of v's kind: in `shard_map` a loop may not begin with another."""
    return 0 * v.ravel()[0]


def _unit(v: Array) -> Array:
    return v / jnp.maximum(jnp.linalg.norm(v.ravel()), _SMALLEST)


def _rows(block: Array) -> Array:
    """[N, ...] -> [N, D]."""
    return block.reshape(block.shape[0], -1)


def _flat(blocks: Array) -> Array:
    """[K, N, D] -> [K N, D]."""
    return blocks.reshape(-1, blocks.shape[-1])


def _orthonormal(rows: Array, basis: Array) -> Array:
    """Orthonormal rows that with the basis span what the given rows and the basis do.

    Where that is fewer, the others are zeros. By products of matrices: XLA's QR takes a hundred
    times as long on a CPU.
    """
    # The second time corrects the rounding of the first; what it finds to lie in the span of the
    # basis after all, was nothing but rounding.
    for relative, absolute in ((1e-6, 0.0), (0.0, 0.25)):
        rows = rows - rows @ basis.T @ basis
        squares, turn = jnp.linalg.eigh(rows @ rows.T)
        kept = squares > jnp.maximum(relative * squares[-1], absolute)
        scales = jnp.where(kept, jax.lax.rsqrt(jnp.where(kept, squares, 1.0)), 0.0)
        rows = scales[:, None] * (turn.T @ rows)
    return rows


def _layers(
    network: Network, x: Array, label: Array | None
) -> dict[Path, tuple[Map, tuple[int, ...]]]:
    """Every linear layer by the path of its parameters: its map, and the shape of one example.

    Found by initialising the network in the abstract, which needs no mapped axis.
    """
    found: dict[Path, tuple[Map, tuple[int, ...]]] = {}

    def look(
        call: Callable[..., Any],
        arguments: Sequence[Any],
        options: dict[str, Any],
        context: nn.module.InterceptorContext,
    ) -> Any:
        module = context.module
        if isinstance(module, LAYERS) and context.method_name == "__call__":
            shape = arguments[0].shape[1:]
            if found.get(module.path, (None, shape))[1] != shape:
                raise ValueError(
                    f"the layer {'/'.join(module.path)!r} is used on inputs of shapes "
                    f"{found[module.path][1]} and {shape}: it has no one norm"
                )
            found[module.path] = _map_of(module), shape
        return call(*arguments, **options)

    with nn.intercept_methods(look):
        jax.eval_shape(lambda: network.init(jax.random.key(0), jnp.zeros(x.shape, x.dtype), label))
    if not found:
        raise ValueError(
            "spectral_norm found no layer to normalise: it knows Linen's Dense, Conv and "
            "ConvTranspose, and those of gan_jax.models.layers"
        )
    return found


def _map_of(module: nn.Module) -> Map:
    # Without its bias the layer is linear.
    linear = module.clone(parent=None, **{"use_bias": False} if hasattr(module, "use_bias") else {})

    def apply(kernel: Array, v: Array) -> Array:
        y: Array = linear.apply({"params": {"kernel": kernel}}, v)  # type: ignore[assignment]
        return y

    return apply


def _get(tree: PyTree, path: Path) -> PyTree:
    for name in path:
        tree = tree[name]
    return tree


def _set(tree: PyTree, path: Path, value: Any) -> PyTree:
    """The tree of dictionaries with another value at the path."""
    if not path:
        return value
    first, *rest = path
    return {**tree, first: _set(tree[first], tuple(rest), value)}
