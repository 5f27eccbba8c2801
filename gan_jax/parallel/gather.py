"""Networks whose parameters are split over devices and gathered when a network is applied."""

from typing import Any

import jax
from jax.sharding import PartitionSpec

from gan_jax.parallel.arrays import has_explicit_axes
from gan_jax.types import GAN, Array, Network, PyTree


def gathered(gan: GAN) -> GAN:
    """Returns the GAN with networks that gather their parameters from all devices before use.

    Parameters, optimizer states and averages that are split over a mesh stay split between uses,
    and each device updates its own part (Rajbhandari et al. 2020, "ZeRO"). The batch is split over
    all devices. Without this function the compiler also splits the computation of the layers, which
    needs more communication, and JAX cannot trace the layers on a mesh with explicit axes.

    Use `gathered` with the `state_sharding` of `shard_step`. Without a mesh it changes nothing.
    """
    generator, discriminator = map(_gathering, (gan.generator, gan.discriminator))
    return gan._replace(generator=generator, discriminator=discriminator)


def _gathering(network: Network) -> Network:
    def apply(params: PyTree, model_state: PyTree, *rest: Any, **options: Any) -> Any:
        whole_params, whole_state = jax.tree.map(_gather, (params, model_state))
        y, changed = network.apply(whole_params, whole_state, *rest, **options)
        return y, jax.tree.map(_split_as, changed, model_state)

    return network._replace(apply=apply)


def _gather(x: Array) -> Array:
    if has_explicit_axes(x):
        return jax.reshard(x, PartitionSpec())
    if jax.sharding.get_abstract_mesh().auto_axes:
        return jax.lax.with_sharding_constraint(x, PartitionSpec())
    return x


def _split_as(x: Array, before: Array) -> Array:
    """Returns x with the sharding of `before`. With explicit axes a state must keep its own."""
    return jax.reshard(x, jax.typeof(before).sharding.spec) if has_explicit_axes(before) else x
