"""Spectral normalisation: a network whose every linear layer has operator norm 1."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from gan_jax.keys import for_step
from gan_jax.models.lanczos import SMALLEST, lanczos, unit
from gan_jax.models.layers import Conv, ConvTranspose
from gan_jax.models.small_dcgan import Doubled, Halved, Repainted
from gan_jax.types import GAN, Array, Network, PyTree

LAYERS = (
    *(nn.Dense, nn.Conv, nn.ConvTranspose, nn.Embed),
    *(Conv, ConvTranspose),
    *(Halved, Doubled, Repainted),
)
"""The kinds of layer that are normalised."""

_REWRITES = (nn.WeightNorm, nn.SpectralNorm)
"""Layers that rescale the kernel of another, and so would undo its normalisation."""

_MATRICES = {"kernel", "embedding"}
"""Names of parameters that are linear maps, whatever their shape."""

_NO_MATRICES = {"bias", "scale"}
"""Names of parameters that are added or multiplied feature by feature, whatever their shape."""

Map = Callable[[Array, Array], Array]
"""A layer without its bias: (kernel, v [N, ...]) -> [N, ...]."""

Path = tuple[str, ...]


class _Layer(NamedTuple):
    """A linear layer: its map, the shape of one input, the name and shape of its parameter."""

    map: Map
    input_shape: tuple[int, ...]
    parameter: str
    shape: tuple[int, ...]


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
      network: any with Linen layers: `flax.linen.Dense`, `Conv`, `ConvTranspose`, `Embed` (the map
        from one-hot rows) and those of `gan_jax.models.layers`. What is named "bias" or "scale",
        and other vectors and numbers, such as the slope of a PReLU, are left as they are.

    Returns:
      A network of the same parameters; its model state is {"network": the network's own,
      "directions": {path: an input to the layer, of length 1}, "prints": {path: []}, of the kernels
      that these are for, "seed": [] int32, of the random directions, one more after each training
      pass}.

    Raises:
      ValueError: (on a call) there is no such layer; one is used twice on inputs of different
        shapes; there is a matrix of another kind of layer, of one under `nn.vmap` or `nn.scan` with
        parameters for each repetition, or of one inside `nn.WeightNorm` or `nn.SpectralNorm`.
    """

    def init(key: Array, x: Array, label: Array | None = None) -> tuple[PyTree, PyTree]:
        key_network, key_seed, key_directions = jax.random.split(key, 3)
        params, model_state = network.init(key_network, x, label)
        directions = {
            "/".join(path): unit(
                jax.random.normal(jax.random.fold_in(key_directions, i), layer.input_shape)
            )
            for i, (path, layer) in enumerate(_layers(network, x, label).items())
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
        for i, (path, layer) in enumerate(_layers(network, x, label).items()):
            name, kernel = "/".join(path), _get(params, path)[layer.parameter]
            key = jax.random.fold_in(jax.random.key(seed), i)
            norm, directions[name], prints[name] = _norm(
                layer.map, kernel, directions[name], prints[name], key
            )
            # In the norm's type, float32 at least: in float16 the smallest divisor would be 0.
            normalised = (kernel / jnp.maximum(norm, SMALLEST)).astype(kernel.dtype)
            params = _set(params, (*path, layer.parameter), normalised)
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


def _layers(network: Network, x: PyTree, label: PyTree | None) -> dict[Path, _Layer]:
    """Every linear layer by the path of its parameters.

    Found by initialising the network in the abstract, which needs no mapped axis.
    """
    found: dict[Path, _Layer] = {}
    rewritten: set[str] = set()

    def look(
        call: Callable[..., Any],
        arguments: Sequence[Any],
        options: dict[str, Any],
        context: nn.module.InterceptorContext,
    ) -> Any:
        made = call(*arguments, **options)
        module, path = context.module, context.module.path
        if isinstance(module, _REWRITES):
            rewritten.add("/".join(path))
        elif isinstance(module, nn.Embed) and context.method_name in ("__call__", "attend"):
            shape = (module.num_embeddings, module.features)
            found[path] = _Layer(lambda matrix, v: v @ matrix, shape[:1], "embedding", shape)
        elif isinstance(module, LAYERS) and context.method_name == "__call__":
            shape = arguments[0].shape[1:]
            if path in found and found[path].input_shape != shape:
                raise ValueError(
                    f"the layer {'/'.join(path)!r} is used on inputs of shapes "
                    f"{found[path].input_shape} and {shape}: it has no one norm"
                )
            kernel: Any = module.get_variable("params", "kernel")
            found[path] = _Layer(_map_of(module), shape, "kernel", kernel.shape)
        return made

    with nn.intercept_methods(look):
        params, _ = jax.eval_shape(
            lambda: network.init(
                jax.random.key(0), jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), x), label
            )
        )
    known = {(*path, layer.parameter): layer.shape for path, layer in found.items()}
    others = rewritten | {
        "/".join(path) for path, shape in _matrices(params).items() if known.get(path) != shape
    }
    if not found or others:
        raise ValueError(
            f"spectral_norm found {', '.join(sorted(others)) or 'no layer'}, and can normalise "
            "Linen's Dense, Conv, ConvTranspose and Embed, those of gan_jax.models.layers and of "
            "small_dcgan. A parameter that is only added, or multiplied feature by feature, can "
            "be named bias or scale"
        )
    return found


def _matrices(params: PyTree) -> dict[Path, tuple[int, ...]]:
    """The shapes of the parameters that are, or may be, linear maps."""
    shapes = {
        tuple(str(getattr(entry, "key", entry)) for entry in path): leaf.shape
        for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]
    }
    return {
        (*path, name): shape
        for (*path, name), shape in shapes.items()
        if name in _MATRICES or (name not in _NO_MATRICES and sum(n > 1 for n in shape) > 1)
    }


def _map_of(module: nn.Module) -> Map:
    # Without its bias the layer is linear. Norms are computed in the kernel's type.
    wanted: dict[str, Any] = {"use_bias": False, "dtype": None}
    fields = {name: value for name, value in wanted.items() if hasattr(module, name)}
    linear = module.clone(parent=None, **fields)

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
