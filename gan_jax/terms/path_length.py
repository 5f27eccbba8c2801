"""StyleGAN2's path length regularisation of G."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from gan_jax.random import per_example
from gan_jax.trees import squared_norms
from gan_jax.types import Array, Pass, PyTree, WithMemory


def _of_latents(seen: Pass) -> tuple[PyTree, Callable[[PyTree], Array]]:
    return seen.z, lambda z: seen.generator(z, seen.fake_label)


def path_length(
    decay: float = 0.99,
    *,
    path: Callable[[Pass], tuple[PyTree, Callable[[PyTree], Array]]] = _of_latents,
) -> WithMemory:
    """Returns the term (|J^T y| - a)^2 with J = dG(w)/dw (Karras et al. 2020, equation 4).

    Usual weight: 2.

    y is a random image whose numbers are normal with variance 1 / (H W). a is the moving average of
    |J^T y|. With this term, steps of equal length in w change the sample by equal lengths, for all
    w and all directions. The average includes only earlier updates, so it is the same on all
    devices and they need not exchange it. (In the authors' code the average includes the current
    update.) The first update has no average and therefore no penalty. The authors apply the term on
    every fourth update: `penalties.lazy(2, 4)`.

    Args:
      decay: decay of the average, in [0, 1).
      path: `(Pass) -> (w, function)`, the points w [B, ...] and the function w -> x [B, ...] to
        differentiate. By default, w is the latents z and the function is G. For a G with a mapping
        network, `path` should return two things: the mapping's output, and the synthesis network as
        the function. The parameters of both networks are in `seen.generator.params`, where `seen`
        is the `Pass`.

    Raises:
      ValueError: `decay` is out of range.
    """
    if not 0 <= decay < 1:
        raise ValueError(f"decay must be in [0, 1), got {decay}: 0.99 is usual")

    def init() -> dict[str, Array]:
        return {name: jnp.zeros(()) for name in ("length", "weight")}

    def apply(seen: Pass, memory: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
        w, function = path(seen)
        keys = per_example(seen.key, seen.fake)

        def projected(w: PyTree) -> Array:
            x = function(w)
            shape = x.shape[1:]
            y = jax.vmap(lambda key: jax.random.normal(key, shape, x.dtype))(keys)
            pixels = 1 if len(shape) < 2 else shape[0] * shape[1]
            return jnp.sum(x * y) / jnp.sqrt(float(pixels))

        lengths = jnp.sqrt(squared_norms(jax.grad(projected)(w)) + 1e-12)
        known = memory["weight"] > 0
        average = memory["length"] / jnp.where(known, memory["weight"], 1.0)
        now = {"length": jnp.mean(lengths), "weight": jnp.ones(())}
        after = {name: decay * memory[name] + (1 - decay) * now[name] for name in memory}
        return jnp.where(known, jnp.square(lengths - average), 0.0), after

    return WithMemory(init, apply, "path_length")
