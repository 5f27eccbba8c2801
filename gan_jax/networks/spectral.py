"""Spectral normalisation: divides each linear layer of a network by its operator norm."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from gan_jax.nn import Conv, ConvTranspose, Doubled, Halved, Repainted
from gan_jax.nn.residual import Conv3
from gan_jax.types import GAN, Array, Network, PyTree

LAYERS = (
    *(nn.Dense, nn.Conv, nn.ConvTranspose, nn.Embed),
    *(Conv, ConvTranspose),
    *(Halved, Doubled, Repainted, Conv3),
)
"""The layer types that are normalised."""

_REWRITES = (nn.WeightNorm, nn.SpectralNorm)
"""Layers that rescale another layer's kernel, and so would undo the normalisation of that
kernel."""

_MATRICES = {"kernel", "embedding"}
"""Names of parameters that are linear maps, whatever their shape."""

_NO_MATRICES = {"bias", "scale"}
"""Names of parameters that are added to features or multiply features, whatever their shape."""

Map = Callable[[Array, Array], Array]
"""A layer without its bias: (kernel, v [N, ...]) -> [N, ...]."""

Path = tuple[str, ...]


class _Layer(NamedTuple):
    """A linear layer: its map, the shape of one input, and the name and shape of its parameter."""

    map: Map
    input_shape: tuple[int, ...]
    parameter: str
    shape: tuple[int, ...]


_FIRST_STEPS = 30
"""Number of power iteration steps at initialisation, from a random direction."""

_SMALLEST = 1e-12
"""Norms up to this value count as 0. Nothing is divided by such a norm."""


def spectral_norm(
    network: Network, *, iterations: int = 1, as_matrix: bool = False, embeddings: bool = True
) -> Network:
    """Returns the network with each layer's kernel divided by the norm of the layer's linear map.

    The norm is estimated by power iteration with a persistent state (Miyato et al. 2018, algorithm
    1). Let A be the linear map of a layer. The state holds a direction v for each layer. This v has
    the shape [...] of an input to A. A training pass updates v by `iterations` steps u = A v / |A
    v|, v = A^T u / |A^T u|, and then divides the kernel by |A v|. An evaluation pass divides by |A
    v| with the stored v. Gradients treat u and v as constants (equation 12). D sees real and fake
    samples in separate passes, so each update of D makes 2 x `iterations` steps. With microbatches,
    it makes that many steps for each microbatch.

    The estimate never exceeds the norm, except by rounding. Initialisation makes 30 steps from a
    random direction. The largest singular values of a random kernel lie close together, so the
    first estimates are up to 5 % too small. Later estimates are too small if training changes a
    kernel faster than the power iteration can follow. For small DCGANs with Adam at a rate of 2e-4,
    the estimates were up to 15 % too small in the first 50 steps, and up to 6 % later. A smaller
    rate or more `iterations` reduces the error.

    A is the complete layer without its bias. For a convolution, this map includes the stride, the
    padding and the size of the input. A chain of normalised layers and 1-Lipschitz activations is
    1-Lipschitz up to the error of the estimates. Batch norm, skip connections and attention break
    this. A layer with norm 0 does not change.

    Args:
      network: any network of Linen layers. These layers are normalised: `flax.linen.Dense`, `Conv`,
        `ConvTranspose`, `Embed` (as the map from one-hot rows) and the layers of `gan_jax.nn`.
        Parameters named "bias" or "scale" are not normalised, and neither are other vectors and
        scalars, such as the slope of a PReLU.
      iterations: power iteration steps in each training pass, at least 1.
      as_matrix: whether A is the kernel reshaped to a matrix that keeps the kernel's last axis, as
        in Miyato et al. and the recipes after them. The norm of a convolution with a window of kh x
        kw is up to sqrt(kh kw) times larger than the norm of that matrix, so the network is not
        1-Lipschitz. The power iteration is cheaper.
      embeddings: whether `Embed` is normalised.

    Returns:
      A network with the same parameters. Its model state is {"network": the network's own state,
        "directions": {path: an input to the layer, of length 1}}. The directions depend only on the
        parameters, so they are the same on every device.

    Raises:
      ValueError: `iterations` is below 1. A call raises ValueError if the network has no layer to
        normalise, or if one layer is used on inputs of different shapes. A call also raises
        ValueError for a matrix that cannot be normalised. Such a matrix is in another type of
        layer, or inside `nn.WeightNorm` or `nn.SpectralNorm`, or in a layer under `nn.vmap` or
        `nn.scan` that has separate parameters for each repetition.
    """
    if iterations < 1:
        raise ValueError(f"iterations must be at least 1, got {iterations}")
    layers_of = partial(_layers, network, as_matrix, embeddings)

    def init(key: Array, x: Array, label: Array | None = None) -> tuple[PyTree, PyTree]:
        key_network, key_directions = jax.random.split(key)
        params, model_state = network.init(key_network, x, label)
        directions = {}
        for i, (path, layer) in enumerate(layers_of(x, label).items()):
            v = jax.random.normal(jax.random.fold_in(key_directions, i), layer.input_shape)
            step = partial(_power_step, layer.map, _get(params, path)[layer.parameter])
            directions["/".join(path)] = jax.lax.fori_loop(
                0, _FIRST_STEPS, lambda _, v, step=step: step(v), v / _divisor(_length(v))
            )
        return params, {"network": model_state, "directions": directions}

    def apply(
        params: PyTree,
        model_state: PyTree,
        x: Array,
        label: Array | None = None,
        *,
        train: bool,
        **options: Any,
    ) -> tuple[Array, PyTree]:
        directions = dict(model_state["directions"])
        for path, layer in layers_of(x, label).items():
            name, kernel = "/".join(path), _get(params, path)[layer.parameter]
            for _ in range(iterations if train else 0):
                directions[name] = _power_step(layer.map, kernel, directions[name])
            norm = _norm(layer.map, kernel, directions[name])
            # Divide in the type of the norm, which is at least float32.
            normalised = (kernel / _divisor(norm)).astype(kernel.dtype)
            params = _set(params, (*path, layer.parameter), normalised)
        y, inner = network.apply(params, model_state["network"], x, label, train=train, **options)
        return y, {"network": inner, "directions": directions}

    return Network(init, apply)


def spectrally_normalised(gan: GAN, *, iterations: int = 1) -> GAN:
    """Returns `gan` with `spectral_norm` applied to D. `iterations` is as for `spectral_norm`.

    Raises:
      ValueError: as for `spectral_norm`.
    """
    return gan._replace(discriminator=spectral_norm(gan.discriminator, iterations=iterations))


def _power_step(layer: Map, kernel: Array, v: Array) -> Array:
    """Returns A^T A v scaled to length 1, where A is the layer's map. If A v is 0, returns v.

    Gradients do not pass through the result.
    """
    kernel, v = jax.lax.stop_gradient((kernel.astype(v.dtype), v))
    linear = partial(layer, kernel)
    y = linear(v[None])
    # A v is scaled to length 1 before A^T is applied, because squares of a small norm would
    # underflow.
    (pulled,) = jax.linear_transpose(linear, v[None])(y / _divisor(_length(y)))
    length = _length(pulled)
    return jnp.where(length > _SMALLEST, pulled[0] / _divisor(length), v)


def _norm(layer: Map, kernel: Array, v: Array) -> Array:
    """Returns |A v| / |v|, where A is the layer's map.

    It is computed as <u, A v> with v of length 1. Gradients treat u and v as constants.

    The division by |v| is needed because v may be an average of directions, which is shorter than
    1.
    """
    v = jax.lax.stop_gradient(v)
    y = layer(kernel.astype(v.dtype), (v / _divisor(_length(v)))[None])
    return jnp.vdot(jax.lax.stop_gradient(y / _divisor(_length(y))), y)


def _length(v: Array) -> Array:
    return jnp.linalg.norm(v.ravel())


def _divisor(length: Array) -> Array:
    """Returns the length, or 1 if the length counts as 0."""
    return jnp.where(length > _SMALLEST, length, 1.0)


def _layers(
    network: Network, as_matrix: bool, embeddings: bool, x: PyTree, label: PyTree | None
) -> dict[Path, _Layer]:
    """Returns every linear layer to normalise by the path of its parameters.

    An initialisation with abstract arrays finds the layers. It needs no mapped axis.
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
            found[path] = _Layer(_matrix_map, shape[:1], "embedding", shape)
        elif isinstance(module, LAYERS) and context.method_name == "__call__":
            kernel: Any = module.get_variable("params", "kernel")
            shape = arguments[0].shape[1:]
            if as_matrix:
                shape = (kernel.size // kernel.shape[-1],)
            if path in found and found[path].input_shape != shape:
                raise ValueError(
                    f"the layer {'/'.join(path)!r} is used on inputs of shapes "
                    f"{found[path].input_shape} and {shape}, so its norm is ambiguous: use a "
                    "separate layer for each shape"
                )
            layer = _matrix_map if as_matrix else _map_of(module)
            found[path] = _Layer(layer, shape, "kernel", kernel.shape)
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
            f"spectral_norm found {', '.join(sorted(others)) or 'no layer'}, but can normalise "
            "only Linen's Dense, Conv, ConvTranspose and Embed, and those of gan_jax.nn. Name a "
            "parameter bias or scale if it is only added, or multiplied per feature"
        )
    return {
        path: layer for path, layer in found.items() if embeddings or layer.parameter != "embedding"
    }


def _matrices(params: PyTree) -> dict[Path, tuple[int, ...]]:
    """Returns the shapes of the parameters that may be linear maps."""
    shapes = {
        tuple(str(getattr(entry, "key", entry)) for entry in path): leaf.shape
        for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]
    }
    return {
        (*path, name): shape
        for (*path, name), shape in shapes.items()
        if name in _MATRICES or (name not in _NO_MATRICES and sum(n > 1 for n in shape) > 1)
    }


def _matrix_map(kernel: Array, v: Array) -> Array:
    """Returns v [N, F] times the kernel reshaped to a matrix [F, ...]."""
    return v @ kernel.reshape(-1, kernel.shape[-1])


def _map_of(module: nn.Module) -> Map:
    # Without its bias the layer is linear. Its norm is computed in the type of the kernel.
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
    """Returns the tree of dictionaries with `value` at the path."""
    if not path:
        return value
    first, *rest = path
    return {**tree, first: _set(tree[first], tuple(rest), value)}
