"""Spectral normalisation: a network whose every linear layer has operator norm 1."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from gan_jax.keys import for_step
from gan_jax.models.lanczos import SMALLEST, lanczos, unit
from gan_jax.models.layers import Conv, ConvTranspose
from gan_jax.models.small_dcgan import Doubled, Halved, Repainted
from gan_jax.types import GAN, Array, Network, PyTree

LAYERS = (
    *(nn.Dense, nn.Conv, nn.ConvTranspose),
    *(Conv, ConvTranspose),
    *(Halved, Doubled, Repainted),
)
"""The kinds of layer that are normalised."""

Map = Callable[[Array, Array], Array]
"""A layer without its bias: (kernel, v [N, ...]) -> [N, ...]."""

Path = tuple[str, ...]

_RUNS = 4
"""Of the Lanczos method, at the most."""

_RANDOM = 2
"""How many random directions each run starts from, besides the one that is kept."""

_SAME = 1e-6
"""Of a kernel's length: a print that differs by less is that of the same kernel."""


def spectral_norm(network: Network) -> Network:
    """The network with each layer's kernel divided by the norm of the layer's linear map.

    As Miyato et al. 2018, but the norm is of the map itself, a convolution with its stride, padding
    and size of input; theirs is of the kernel reshaped to a matrix, which may be smaller. With
    1-Lipschitz activations and no batch norm the network is 1-Lipschitz, to 1e-3 for each layer.

    Each pass, in training and in evaluation, finds the norm by the block Lanczos method, from the
    direction that gave it last time and fresh random ones, in as many steps as it takes; in none if
    the kernel is still the same, as in D's second pass in a step. An estimate is never too large.
    The direction is kept in the model state by training passes, as in algorithm 1 there; gradients
    hold it constant (equation 12). It is the same on every device.

    Args:
      network: any with Linen layers: `flax.linen.Dense`, `Conv`, `ConvTranspose`, and those of
        `gan_jax.models.layers`. Biases and other layers are left as they are.

    Returns:
      A network of the same parameters; its model state is {"network": the network's own,
      "directions": {path: an input to the layer, of length 1}, "prints": {path: []}, of the kernels
      that these are for, "seed": [] int32, of the random directions, one more after each training
      pass}.

    Raises:
      ValueError: (on a call) there is no such layer, or one is used twice on inputs of different
        shapes, or there is a kernel of another kind of layer.
    """

    def init(key: Array, x: Array, label: Array | None = None) -> tuple[PyTree, PyTree]:
        key_network, key_seed, key_directions = jax.random.split(key, 3)
        params, model_state = network.init(key_network, x, label)
        directions = {
            "/".join(path): unit(jax.random.normal(jax.random.fold_in(key_directions, i), shape))
            for i, (path, (_, shape)) in enumerate(_layers(network, x, label).items())
        }
        found = {
            "directions": directions,
            "prints": {name: jnp.zeros(()) for name in directions},
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
        directions, prints = dict(model_state["directions"]), dict(model_state["prints"])
        seed = model_state["seed"]
        for i, (path, (layer, _)) in enumerate(_layers(network, x, label).items()):
            name, kernel = "/".join(path), _get(params, path)["kernel"]
            key = jax.random.fold_in(jax.random.key(seed), i)
            norm, directions[name], prints[name] = _norm(
                layer, kernel, directions[name], prints[name], key
            )
            normalised = kernel / jnp.maximum(norm, SMALLEST).astype(kernel.dtype)
            params = _set(params, (*path, "kernel"), normalised)
        y, inner = network.apply(params, model_state["network"], x, label, train=train, **options)
        found = {"directions": directions, "prints": prints, "seed": seed + 1} if train else {}
        return y, {**model_state, **found, "network": inner}

    return Network(init, apply)


def spectrally_normalised(gan: GAN) -> GAN:
    """The same GAN, its D with `spectral_norm`."""
    return gan._replace(discriminator=spectral_norm(gan.discriminator))


def _norm(
    layer: Map, kernel: Array, direction: Array, before: Array, key: Array
) -> tuple[Array, Array, Array]:
    """The norm of the layer's map, the direction in which it is attained, the kernel's print.

    From the direction last found and the print of the kernel it was found for; slow changes add up
    till they are seen. By runs of the Lanczos method, each from the last one's direction and random
    ones: without these, what training has made largest would be found late, for it may be
    orthogonal to what was.
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
        return number + 1, *lanczos(lambda v: layer(fixed, v), jnp.concatenate([v[None], fresh]))

    def norm_at(v: Array) -> Array:
        return jnp.vdot(unit(layer(fixed, v[None])), layer(kernel, v[None]))

    now = _print(fixed).astype(before.dtype)
    changed = jnp.abs(now - before) > _SAME * jnp.linalg.norm(fixed.ravel())
    _, v, _ = jax.lax.while_loop(unsettled, run, (jnp.zeros((), jnp.int32), start, changed))
    return norm_at(v), v, jnp.where(changed, now, before)


def _print(kernel: Array) -> Array:
    """The sum of the kernel's entries with random signs, the same ones each time.

    A change of the kernel in any direction shows in it, a large one by about its own length.
    """
    return jnp.vdot(
        jax.random.rademacher(for_step(jax.random.key(0)), kernel.shape, kernel.dtype), kernel
    )


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
        params, _ = jax.eval_shape(
            lambda: network.init(jax.random.key(0), jnp.zeros(x.shape, x.dtype), label)
        )
    names = [
        tuple(getattr(entry, "key", "") for entry in path)
        for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]
    ]
    kernels = {path[:-1] for path in names if path[-1:] == ("kernel",)}
    if not found or kernels - found.keys():
        others = ", ".join("/".join(path) for path in sorted(kernels - found.keys())) or "no layer"
        raise ValueError(
            f"spectral_norm found {others}, and can normalise Linen's Dense, Conv and "
            "ConvTranspose, those of gan_jax.models.layers and of small_dcgan"
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
