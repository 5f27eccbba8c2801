"""Networks whose parameters are split over devices and gathered when a network is applied."""

from typing import Any

import jax
from jax.sharding import PartitionSpec

from gan_jax.contract import check_gan
from gan_jax.parallel.arrays import has_explicit_axes
from gan_jax.types import GAN, Array, Network, PyTree


def gathered(gan: GAN) -> GAN:
    """Returns the GAN with networks that gather their parameters from all devices before use.

    Parameters, optimizer states and averages that are split over a mesh stay split between uses,
    and each device updates its own part (Rajbhandari et al. 2020, "ZeRO"). The batch is split over
    all devices. Without this function the compiler also splits the computation of the layers, which
    needs more communication, and JAX cannot trace the layers on a mesh with explicit axes.

    On a mesh with explicit axes, the compiler chooses the layout inside a network, so the network
    may have any layers. The output is split like the input [B, ...], along the first axis only.
    Apply `gathered` after `packed` and other functions that reshape the input of a network.

    Use `gathered` with the `state_sharding` of `shard_step`. Without a mesh it changes nothing.

    Raises:
      TypeError: `gan` is not a `GAN` of two networks and a prior.
    """
    check_gan(gan)
    generator, discriminator = map(_gathering, (gan.generator, gan.discriminator))
    return gan._replace(generator=generator, discriminator=discriminator)


def _gathering(network: Network) -> Network:
    def apply(
        params: PyTree,
        model_state: PyTree,
        x: PyTree,
        label: PyTree | None = None,
        /,
        *,
        train: bool,
        key: Array | None = None,
    ) -> tuple[Any, PyTree]:
        def whole(
            params: PyTree, model_state: PyTree, x: PyTree, label: PyTree, key: Array | None
        ) -> tuple[Any, PyTree]:
            return network.apply(params, model_state, x, label, train=train, key=key)

        taken = (*jax.tree.map(_gather, (params, model_state)), x, label, key)
        first = jax.tree.leaves(x)[0]
        if not any(map(has_explicit_axes, [*jax.tree.leaves((params, model_state)), first])):
            return whole(*taken)
        # A state must keep its own layout.
        like_state = jax.tree.map(lambda leaf: jax.typeof(leaf).sharding.spec, model_state)
        of_results = PartitionSpec(*jax.typeof(first).sharding.spec[:1]), like_state
        result: tuple[Any, PyTree] = jax.sharding.auto_axes(whole, out_sharding=of_results)(*taken)
        return result

    return network._replace(apply=apply)


def _gather(x: Array) -> Array:
    if has_explicit_axes(x):
        return jax.reshard(x, PartitionSpec())
    if jax.sharding.get_abstract_mesh().auto_axes:
        return jax.lax.with_sharding_constraint(x, PartitionSpec())
    return x
