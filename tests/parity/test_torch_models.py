"""The benchmark's PyTorch networks against the library's, with the same weights and in training."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from flax.traverse_util import unflatten_dict

from benchmarks import driver, problem
from benchmarks.cases import MODELS
from benchmarks.library import library_gan, model_weights
from benchmarks.workers import jax_library, torch_variants
from benchmarks.workers.protocol import Setting, check
from benchmarks.workers.torch_models import network

WIDTHS = {"r3gan32": 16, "sngan32": 8, "stylegan2_32": 8}

pytestmark = pytest.mark.slow


def small(name):
    return dataclasses.replace(MODELS[name], latent=8, widths=(WIDTHS[name],))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("player", ["generator", "discriminator"])
def test_parameters_and_results_are_the_same(name, player):
    case, rng = small(name), np.random.default_rng(0)
    weights = model_weights(case, rng)[player]
    ours, theirs = getattr(library_gan(case), player), network(case.model, player, weights)
    params = unflatten_dict(weights[0], sep="/")
    made = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert sum(leaf.numel() for leaf in theirs.parameters()) == made

    shape = (case.latent,) if player == "generator" else case.shape
    x = rng.normal(size=(4, *shape)).astype(np.float32)
    _, state = ours.init(jax.random.key(0), jnp.asarray(x))
    if len(weights) > 1:
        state = {**state, "directions": weights[1]}
    train = player == "generator"  # batch norm then uses the batch
    expected, _ = ours.apply(params, state, jnp.asarray(x), train=train)
    with torch.no_grad():
        given = torch.tensor(x)
        found = theirs.train(train)(given if train else given.permute(0, 3, 1, 2))
    found = found.permute(0, 2, 3, 1) if train else found
    size = np.abs(expected).max()
    assert size > 0.01
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * size)


@pytest.mark.parametrize("name", MODELS)
def test_three_steps_have_the_same_losses(name):
    digits = np.random.default_rng(0).integers(0, 256, (4, 28, 28, 1), dtype=np.uint8)
    case = small(name)
    given = Setting("gan_jax", case, problem.make(case, 4, 0, digits), fixed=False)
    ours = check(jax_library.build, given, driver.CHECKED_STEPS)
    theirs = check(torch_variants.build, given._replace(contender="torch_tuned"), 3)
    assert driver.compare_losses(theirs, ours)[1] is None
