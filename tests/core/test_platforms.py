"""The whole program lowers for a GPU and a TPU, on a machine without either."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import mnist
from gan_jax.data.pipeline import on_bytes
from gan_jax.run.loop import Work, make_chunk
from gan_jax.types import Batch


@pytest.mark.parametrize("model", ["dcgan", "maxout", "mlp"])
def test_a_fused_chunk_lowers_for_every_platform(model):
    steps = []

    def begin():
        _, state, step = mnist.build(mnist.Config(model=model, width=8))
        steps.append(step)
        return state

    state = jax.eval_shape(begin)  # no weights are drawn: compiling the draws takes many seconds
    (step,) = steps
    work = Work(Batch(jnp.zeros((3, 1, 4, 28, 28, 1), jnp.uint8)), np.int32(3))
    traced = jax.jit(make_chunk(on_bytes(step), 3), donate_argnums=0).trace(state, work)
    for platform in ("cpu", "cuda", "tpu"):
        lowered = traced.lower(lowering_platforms=(platform,)).as_text()
        assert "stablehlo.while" in lowered
        # On a CPU, convolutions are matrix products.
        expected = model == "dcgan" and platform != "cpu"
        assert ("stablehlo.convolution" in lowered) == expected
