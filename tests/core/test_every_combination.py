"""Every loss with every penalty, model, conditioning and augmentation: 20 steps stay finite.

A random sample of the combinations trains by the steps that users call, one program for each. Those
of the smallest model on one device run by default.

In the test of all combinations, the loss, the penalty and the augmentation are inputs of one
compiled program, which selects them with `lax.switch`. So each model, conditioning and layout needs
a single compilation for all combinations. Each pair of a loss and a penalty comes with one
augmentation, in turn.
"""

import random
from functools import partial
from itertools import product

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

import gan_jax
from gan_jax import AdversarialLoss, Batch, augment
from gan_jax.losses import LOSSES
from gan_jax.models import MODELS
from gan_jax.optimizers import adam
from gan_jax.parallel import AXIS_NAME, jit_step, pmap_step, shard_step
from gan_jax.penalties import PENALTIES
from gan_jax.terms import CONDITIONAL_TERMS, ConditionalTerms
from gan_jax.types import WithMemory

STEPS, BATCH, DEVICES, CLASSES = 20, 4, 2, 3
SMALL = {
    "mlp": {"width": 4, "depth": 1},
    "maxout": {"width": 2},
    "dcgan": {"width": 2},
    "sngan": {"width": 2},
    "biggan": {"width": 2},
    "r3gan": {"width": 8, "blocks": 1},
    "stylegan2": {"width": 2, "max_width": 4},
}
SHAPES = dict.fromkeys(MODELS, (8, 8, 1)) | {"dcgan": (28, 28, 1)}
AUGMENTATIONS = (
    lambda key, x: x,
    augment.shift_and_flip,
    augment.diff_augment,
    partial(augment.ada.pipe, p=0.5),
)
PAIRS = list(product(range(len(LOSSES)), range(len(PENALTIES))))
COMBINATIONS = [(*pair, i % len(AUGMENTATIONS)) for i, pair in enumerate(PAIRS)]
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


def algorithm_of(model, conditional, axis_name, loss, penalties, augmentation):
    classes = {} if conditional is None else {"num_classes": CLASSES, "conditional": conditional}
    terms = ConditionalTerms() if conditional is None else CONDITIONAL_TERMS[conditional]
    return gan_jax.adversarial(
        MODELS[model](SHAPES[model], latent=3, **SMALL[model], **classes),
        loss,
        generator_tx=TX,
        discriminator_tx=TX,
        penalties=penalties,
        discriminator_terms=terms.discriminator,
        generator_terms=terms.generator,
        augmentation=augmentation,
        axis_name=axis_name,
    )


def batch_of(model, conditional):
    x = jnp.tanh(jax.random.normal(jax.random.key(1), (BATCH, *SHAPES[model])))
    return Batch(x, None if conditional is None else jnp.arange(BATCH) % CLASSES)


STEP_LAYOUTS = {
    "jit": (jit_step, None),
    "shard": (partial(shard_step, devices=jax.devices()[:DEVICES]), None),
    "pmap": (partial(pmap_step, devices=jax.devices()[:DEVICES]), AXIS_NAME),
}
MATRIX = list(
    product(
        MODELS,
        (None, *CONDITIONAL_TERMS),
        LOSSES,
        PENALTIES,
        range(len(AUGMENTATIONS)),
        STEP_LAYOUTS,
    )
)
SAMPLE = [
    pytest.param(*cell, marks=() if (cell[0], cell[-1]) == ("mlp", "jit") else pytest.mark.slow)
    for cell in random.Random(35).sample(MATRIX, 60)
]


@pytest.mark.parametrize(
    ("model", "conditional", "loss", "penalty", "augmentation", "layout"), SAMPLE
)
def test_a_sample_trains_to_finite_figures(
    model, conditional, loss, penalty, augmentation, layout, quick_compile
):
    wrap, axis_name = STEP_LAYOUTS[layout]
    algorithm = algorithm_of(
        model,
        conditional,
        axis_name,
        LOSSES[loss],
        [(PENALTIES[penalty], 0.1)],
        AUGMENTATIONS[augmentation],
    )
    batch = batch_of(model, conditional)
    state = jax.jit(algorithm.init)(jax.random.key(0), batch)
    before = jax.device_get((state.generator.params, state.discriminator.params))
    step, batches = wrap(algorithm.step), jax.tree.map(lambda leaf: leaf[None], batch)
    for _ in range(STEPS):
        state, metrics = step(state, batches)
        assert all(np.isfinite(value).all() for value in metrics.values()), metrics
    after = jax.device_get((state.generator.params, state.discriminator.params))
    for first, last in zip(before, after, strict=True):
        first, last = (jax.flatten_util.ravel_pytree(params)[0] for params in (first, last))
        assert np.isfinite(last).all()
        assert (first != last).any()


def train(model, conditional, axis_name, batch, combination):
    """Returns the parameters after 20 steps, and the metrics of all of them."""
    algorithm = algorithm_of(
        model,
        conditional,
        axis_name,
        loss_of(combination[0]),
        penalties_of(combination[1]),
        lambda key, x: jax.lax.switch(combination[2], AUGMENTATIONS, key, x),
    )
    batches = jax.tree.map(lambda leaf: leaf[None], batch)
    state = algorithm.init(jax.random.key(0), batch)
    state, metrics = jax.lax.scan(
        lambda state, _: algorithm.step(state, batches), state, length=STEPS
    )
    params = jax.flatten_util.ravel_pytree((state.generator.params, state.discriminator.params))[0]
    return params, metrics


def each(train, combinations):
    return jax.lax.map(train, combinations)


def all_at_once(model, conditional, batch, combinations):
    return jax.jit(jax.vmap(partial(train, model, conditional, None, batch)))(combinations)


def one_by_one(model, conditional, batch, combinations):
    return jax.jit(partial(each, partial(train, model, conditional, None, batch)))(combinations)


def by_shard(model, conditional, batch, combinations):
    def step(state, batch):
        return state, each(partial(train, model, conditional, None, batch), combinations)

    return shard_step(step, devices=jax.devices()[:DEVICES])({}, batch)[1]


def by_pmap(model, conditional, batch, combinations):
    def shard(batch):
        return each(partial(train, model, conditional, AXIS_NAME, batch), combinations)

    halves = jax.tree.map(lambda a: a.reshape(DEVICES, -1, *a.shape[1:]), batch)
    made = jax.pmap(shard, AXIS_NAME, devices=jax.devices()[:DEVICES])(halves)
    return jax.tree.map(lambda leaf: leaf[0], made)


LAYOUTS = (one_by_one, by_shard, by_pmap)
CASES = [
    ("mlp", None, all_at_once),
    *product(MODELS, (None, *CONDITIONAL_TERMS), LAYOUTS),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "conditional", "layout"),
    CASES,
)
def test_all_train_to_finite_figures(model, conditional, layout, quick_compile):
    combinations = tuple(jnp.array(column) for column in zip(*COMBINATIONS, strict=True))
    batch = batch_of(model, conditional)
    params, metrics = jax.device_get(layout(model, conditional, batch, combinations))
    finite = {name: np.isfinite(values).all(axis=1) for name, values in metrics.items()}
    names = [(list(LOSSES)[i], list(PENALTIES)[j]) for i, j in PAIRS]
    bad = [(names[k], name) for name, ok in finite.items() for k in np.flatnonzero(~ok)]
    assert not bad
    assert np.isfinite(params).all()
    # The combinations give different games, but three pairs may agree: f-GAN's Jensen-Shannon
    # is minimax up to constants; hinge is Wasserstein's while all logits are within 1; and the
    # one-sided penalty is the two-sided one while all slopes are above 1.
    same = {"f_js", "hinge", "one_sided_gradient_penalty"}
    other = [k for k, pair in enumerate(names) if not same & set(pair)]
    assert len(np.unique(params[other], axis=0)) == len(other)
