"""Every loss with every penalty and every model, under jit, vmap and pmap: 50 steps stay finite.

The loss and the penalty are inputs of one compiled program, which selects them with `lax.switch`.
So each model and layout needs a single compilation for all combinations.
"""

from functools import partial
from itertools import product

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

import gan_jax
from gan_jax import AdversarialLoss, Batch
from gan_jax.losses import LOSSES
from gan_jax.models import MODELS
from gan_jax.optimizers import adam
from gan_jax.parallel import AXIS_NAME
from gan_jax.penalties import PENALTIES
from gan_jax.types import WithMemory

STEPS, BATCH, DEVICES = 50, 4, 2
SMALL = {"mlp": {"width": 4, "depth": 1}, "maxout": {"width": 2}, "dcgan": {"width": 2}}
SHAPES = {"mlp": (6, 6, 1), "maxout": (6, 6, 1), "dcgan": (28, 28, 1)}
COMBINATIONS = list(product(range(len(LOSSES)), range(len(PENALTIES))))
TX = adam(1e-3, b1=0.5)


def loss_of(index):
    table = list(LOSSES.values())

    def player(role):
        branches = [getattr(loss, role) for loss in table]
        return lambda real, fake: jax.lax.switch(index, branches, real, fake)

    return AdversarialLoss(player("discriminator"), player("generator"))


def penalties_of(index):
    """Terms with a memory have their own place in the state. One of the other terms is selected."""
    table = list(PENALTIES.values())

    def chosen(critic, real, fake, key):
        def of(penalty):
            if isinstance(penalty, WithMemory):
                return lambda: jnp.zeros(len(real))
            return lambda: penalty(critic, real, fake, key)

        return jax.lax.switch(index, [of(penalty) for penalty in table])

    remembering = [
        (penalty, jnp.where(index == number, 0.1, 0.0))
        for number, penalty in enumerate(table)
        if isinstance(penalty, WithMemory)
    ]
    return [(chosen, 0.1), *remembering]


def train(model, axis_name, x, combination):
    """Returns the state after 50 steps and the metrics of all of them."""
    loss, penalties = loss_of(combination[0]), penalties_of(combination[1])
    gan = MODELS[model](SHAPES[model], latent=3, **SMALL[model])
    options = {"axis_name": axis_name}
    step = gan_jax.make_train_step(
        gan_jax.make_discriminator_step(gan, loss, TX, penalties=penalties, **options),
        gan_jax.make_generator_step(gan, loss, TX, **options),
    )
    state = gan_jax.init(gan, TX, TX, jax.random.key(0), Batch(x), penalties=penalties)
    batch = Batch(x[None])
    state, metrics = jax.lax.scan(lambda state, _: step(state, batch), state, length=STEPS)
    params = jax.flatten_util.ravel_pytree((state.generator.params, state.discriminator.params))[0]
    return params, metrics


def all_at_once(model, x, combinations):
    return jax.jit(jax.vmap(partial(train, model, None, x)))(combinations)


def one_by_one(model, x, combinations):
    return jax.jit(partial(jax.lax.map, partial(train, model, None, x)))(combinations)


def on_two_devices(model, x, combinations):
    def shard(x):
        return jax.lax.map(partial(train, model, AXIS_NAME, x), combinations)

    halves = x.reshape(DEVICES, -1, *x.shape[1:])
    made = jax.pmap(shard, AXIS_NAME, devices=jax.devices()[:DEVICES])(halves)
    return jax.tree.map(lambda leaf: leaf[0], made)


@pytest.mark.parametrize(
    ("model", "layout"),
    [
        pytest.param(model, layout, marks=[] if quick else [pytest.mark.slow])
        for model, layout in product(MODELS, (all_at_once, one_by_one, on_two_devices))
        for quick in (model == "mlp" and layout is one_by_one,)
    ],
)
def test_all_train_to_finite_figures(model, layout, quick_compile):
    x = jnp.tanh(jax.random.normal(jax.random.key(1), (BATCH, *SHAPES[model])))
    combinations = tuple(jnp.array(column) for column in zip(*COMBINATIONS, strict=True))
    params, metrics = jax.device_get(layout(model, x, combinations))
    finite = {name: np.isfinite(values).all(axis=1) for name, values in metrics.items()}
    names = [(list(LOSSES)[i], list(PENALTIES)[j]) for i, j in COMBINATIONS]
    bad = [(names[k], name) for name, ok in finite.items() for k in np.flatnonzero(~ok)]
    assert not bad
    assert np.isfinite(params).all()
    # The combinations give different games, but three pairs may agree: f-GAN's Jensen-Shannon
    # is minimax up to constants; hinge is Wasserstein's while all logits are within 1; and the
    # one-sided penalty is the two-sided one while all slopes are above 1.
    same = {"f_js", "hinge", "one_sided_gradient_penalty"}
    other = [k for k, pair in enumerate(names) if not same & set(pair)]
    assert len(np.unique(params[other], axis=0)) == len(other)
