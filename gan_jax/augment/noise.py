"""Gaussian noise in front of the discriminator."""

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp

from gan_jax.random import per_example
from gan_jax.types import GAN, Array, AxisName, Network, PyTree

Scale: TypeAlias = float | Array | Callable[[Array, Array], Array]
"""The noise's scale: a number, an array [], or a function `(key, passes) -> []` that is called with
the key of each example. `passes` [] int32 is the number of D's training passes before this one.
Each microbatch of each update makes two."""


def instance_noise(gan: GAN, scale: Scale, *, axis_name: AxisName | None = None) -> GAN:
    """The same GAN, its D shown real and fake samples with Gaussian noise added in training.

    Where the two distributions hardly overlap, noise makes them: D's slope then says where to go
    (Sonderby et al. 2017, section 3; Arjovsky and Bottou 2017). The solution stays p = q at any
    scale, but what is finer than the noise is learned slowly: let it fall, or use `mixed_scales`.

    Args:
      gan: any.
      scale: the standard deviation.
      axis_name: the mapped axis, if any, that the batch is split over.

    Returns:
      A GAN with the same parameters. D's model state is {"network": that of the given D, "passes":
      [] int32}.

    Raises:
      ValueError: `scale` is a number below 0; (on a call) training without a key.
    """
    if isinstance(scale, float | int) and scale < 0:
        raise ValueError(f"scale must be at least 0, got {scale}")
    network = gan.discriminator

    def init(key: Array, x: Array, label: Array | None = None) -> tuple[PyTree, PyTree]:
        params, model_state = network.init(key, x, label)
        # A float32 would stop counting at 2^24.
        return params, {"network": model_state, "passes": jnp.zeros((), jnp.int32)}

    def noisy(x: Array, key: Array, passes: Array) -> Array:
        """Of one example."""
        key_scale, key_noise = jax.random.split(key)
        factor = scale(key_scale, passes) if callable(scale) else scale
        return x + jnp.asarray(factor, x.dtype) * jax.random.normal(key_noise, x.shape, x.dtype)

    def apply(
        params: PyTree,
        model_state: PyTree,
        x: Array,
        label: Array | None = None,
        *,
        train: bool,
        key: Array | None = None,
    ) -> tuple[Array, PyTree]:
        passes = model_state["passes"]
        if train:
            if key is None:
                raise ValueError("instance_noise draws in training: give apply a key")
            key, key_noise = jax.random.split(key)
            keys = per_example(key_noise, x, axis_name)
            x = jax.vmap(noisy, in_axes=(0, 0, None))(x, keys, passes)
            passes = passes + 1
        y, inner = network.apply(params, model_state["network"], x, label, train=train, key=key)
        return y, {"network": inner, "passes": passes}

    return gan._replace(discriminator=Network(init, apply))


def mixed_scales(highest: float | Array, *, share: float = 0.5) -> Callable[[Array, Array], Array]:
    """Noise of all scales up to the highest, on a share of the examples; none on the others.

    With D seeing every scale at once nothing needs to be annealed, as in Diffusion-GAN (Wang et
    al. 2023). Wide noise joins distant modes: only through it does a mode that is drawn too often
    feel those that are drawn too seldom.

    Args:
      highest: the scale is uniform in [0, highest].
      share: of examples that are given noise, in [0, 1].

    Returns:
      What `instance_noise` takes as its scale.

    Raises:
      ValueError: `share` outside of [0, 1].
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share must be in [0, 1], got {share}")

    def draw(key: Array, passes: Array) -> Array:
        key_share, key_scale = jax.random.split(key)
        some = jax.random.bernoulli(key_share, share)
        return jnp.where(some, highest * jax.random.uniform(key_scale), 0.0)

    return draw
