"""Spectral normalisation: a network whose every linear layer has operator norm 1."""

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

_DIRECTIONS = 4
"""How many are kept of each layer. With one, training brings up singular vectors it cannot see."""

_SMALLEST = 1e-12
"""What is divided by is at least this: a kernel of zeros stays one."""


def spectral_norm(network: Network, *, iterations: int = 4) -> Network:
    """The network with each layer's kernel divided by the norm of the layer's linear map.

    As Miyato et al. 2018, but the norm is of the map itself, a convolution with its stride, padding
    and size of input; theirs is of the kernel reshaped to a matrix, which may be smaller. With
    1-Lipschitz activations and no batch norm the network is 1-Lipschitz, as far as the iteration
    has converged.

    The norm is estimated from directions kept in the model state, which each training pass
    improves, as in algorithm 1 there; gradients hold the directions constant (equation 12). What
    improves them is the block Lanczos method. An estimate is never too large. Kernels that rest are
    normalised to 1e-3 and better; in training a norm is a percent or two off for a few steps when
    one singular vector overtakes another (five times that by power iteration). In evaluation the
    directions are those of before the last update. They are the same on every device.

    Args:
      network: any with Linen layers: `flax.linen.Dense`, `Conv`, `ConvTranspose`, and those of
        `gan_jax.models.layers`. Biases and other layers are left as they are.
      iterations: in each training pass. D makes two passes in a step.

    Returns:
      A network of the same parameters; its model state is {"network": the network's own,
      "directions": {path: [4, ...]}}, each a block of inputs to the layer.

    Raises:
      ValueError: `iterations` < 1; (on a call) there is no such layer, or one is used twice on
        inputs of different shapes.
    """
    if iterations < 1:
        raise ValueError(f"iterations must be at least 1, got {iterations}")

    def init(key: Array, x: Array, label: Array | None = None) -> tuple[PyTree, PyTree]:
        key_network, key_directions = jax.random.split(key)
        params, model_state = network.init(key_network, x, label)
        directions = {}
        for number, (path, (_, shape)) in enumerate(_layers(network, x, label).items()):
            key = jax.random.fold_in(key_directions, number)
            block = jax.random.normal(key, (_DIRECTIONS, *shape))
            rows = _orthonormal(_rows(block), _rows(block)[:0])
            directions["/".join(path)] = rows.reshape(block.shape)
        return params, {"network": model_state, "directions": directions}

    def apply(
        params: PyTree,
        model_state: PyTree,
        x: Array,
        label: Array | None = None,
        *,
        train: bool,
        key: Array | None = None,
    ) -> tuple[Array, PyTree]:
        directions = dict(model_state["directions"])
        for path, (layer, _) in _layers(network, x, label).items():
            name, kernel = "/".join(path), _get(params, path)["kernel"]
            norm, kept = _norm(layer, kernel, directions[name], iterations if train else 0)
            normalised = kernel / jnp.maximum(norm, _SMALLEST).astype(kernel.dtype)
            params = _set(params, (*path, "kernel"), normalised)
            if train:
                directions[name] = kept
        y, inner = network.apply(params, model_state["network"], x, label, train=train, key=key)
        return y, {"network": inner, "directions": directions}

    return Network(init, apply)


def spectrally_normalised(gan: GAN, *, iterations: int = 4) -> GAN:
    """The same GAN, its D with `spectral_norm`."""
    return gan._replace(discriminator=spectral_norm(gan.discriminator, iterations=iterations))


def _norm(layer: Map, kernel: Array, block: Array, iterations: int) -> tuple[Array, Array]:
    """The norm of the layer's map from some directions, and the best directions found.

    By the block Lanczos method (Golub and Underwood 1977) on the map's square. Power iteration is
    too slow for a convolution, whose singular values lie close.
    """
    kernel = kernel.astype(block.dtype)
    fixed = jax.lax.stop_gradient(kernel)
    transpose = jax.linear_transpose(lambda v: layer(fixed, v), block)

    def extend(number: Array, basis: Array) -> Array:
        (further,) = transpose(layer(fixed, basis[number].reshape(block.shape)))
        rows = _orthonormal(_rows(further), basis.reshape(-1, basis.shape[-1]))
        return basis.at[number + 1].set(rows)

    # Made orthonormal anew: over thousands of passes rounding would add up.
    rows = _orthonormal(_rows(block), _rows(block)[:0])
    basis = jnp.zeros((iterations + 1, *rows.shape), rows.dtype).at[0].set(rows)
    basis = jax.lax.fori_loop(0, iterations, extend, basis).reshape(-1, rows.shape[1])
    # In the span of the basis, by rising norm of what the layer makes of them; rows of zeros first.
    made = _rows(layer(fixed, basis.reshape(-1, *block.shape[1:])))
    shares = jnp.linalg.eigh(made @ made.T + _SMALLEST * basis @ basis.T)[1].T
    block = (shares[-block.shape[0] :] @ basis).reshape(block.shape)
    v = _unit(block[-1:])
    return jnp.vdot(_unit(layer(fixed, v)), layer(kernel, v)), block


def _unit(v: Array) -> Array:
    return v / jnp.maximum(jnp.linalg.norm(v.ravel()), _SMALLEST)


def _rows(block: Array) -> Array:
    return block.reshape(block.shape[0], -1)


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
