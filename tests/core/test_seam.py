"""The contract's extension points: fake labels, terms with memory, the axis of a step, averages."""

from functools import cache, partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gan_jax
from gan_jax import GAN, Batch, Network, Output, WithMemory, batches, losses, parallel, priors
from gan_jax.augment import adaptive
from gan_jax.nn import BatchNorm
from gan_jax.penalties import consistency, lecam, r1, r2
from gan_jax.terms import path_length

pytestmark = pytest.mark.usefixtures("quick_compile")

SGD, NUM = optax.sgd(0.1), 16
KEY = jax.random.key(0)

first_state = jax.jit(gan_jax.init, static_argnums=(0, 1, 2))


# Networks that record the labels they get: G in its samples, D in its logits


def _generator():
    """x = (c z, label)."""

    def apply(params, state, z, label=None, *, train, key=None):
        label = jnp.zeros(len(z)) if label is None else label.astype(z.dtype)
        return jnp.stack([params * z[:, 0], label], axis=1), state

    return Network(lambda key, z, label=None: (jnp.ones(()), {}), apply)


def _discriminator():
    """logit = w (1 + label) sum(x^2), with slope 2 w (1 + label) x in x."""

    def apply(params, state, x, label=None, *, train, key=None):
        label = jnp.zeros(len(x)) if label is None else label.astype(x.dtype)
        return params * (1 + label) * jnp.sum(jnp.square(x), axis=1), state

    return Network(lambda key, x, label=None: (jnp.ones(()), {}), apply)


PLAIN = GAN(_generator(), _discriminator(), priors.normal(1))
REAL = Batch(jax.random.normal(jax.random.key(1), (NUM, 2)), jnp.full(NUM, 7))


def fake_labels(key, num):
    """Returns 0, 1 or 2 with probabilities .2, .3 and .5."""
    return jax.random.choice(key, 3, (num,), p=jnp.array([0.2, 0.3, 0.5]))


def nothing(seen):
    return jnp.zeros(len(seen.real))


class Seen:
    """A term that stores its arguments, called outside of `jit`."""

    __name__ = "seen"

    def __call__(self, seen):
        self.passed = seen
        return jnp.zeros(len(seen.real))


def seen_by(role, batch=REAL, key=KEY, **options):
    """Returns the pass that a term of a player gets."""
    term = Seen()
    objective = getattr(gan_jax.algorithms, f"{role}_objective")(
        PLAIN, losses.minimax, terms=[(term, 1.0)], **options
    )
    state = first_state(PLAIN, SGD, SGD, KEY, batch)
    players = [getattr(state, r) for r in ("generator", "discriminator")]
    mine, other = players if role == "generator" else players[::-1]
    objective(mine.params, mine, other, batch, key)
    return term.passed


# Fake labels


@pytest.mark.parametrize("role", ["generator", "discriminator"])
def test_fakes_have_the_real_labels_or_drawn_ones(role):
    """G and D get the same labels for each fake. D gets the real labels for the real samples."""
    for options in ({}, {"fake_labels": fake_labels}):
        seen = seen_by(role, **options)
        np.testing.assert_array_equal(seen.real_label, REAL.label)
        if not options:
            np.testing.assert_array_equal(seen.fake_label, REAL.label)
        label = np.asarray(seen.fake_label, float)
        np.testing.assert_array_equal(seen.fake[:, 1], label)
        for output, x, of in (
            (seen.real_output, seen.real, 7.0),
            (seen.fake_output, seen.fake, label),
        ):
            logits = (1 + of) * np.sum(np.square(x), axis=1)
            np.testing.assert_allclose(output.logits, logits, rtol=1e-5)


def test_drawn_labels_have_their_frequencies():
    num = 4000
    batch = Batch(jnp.zeros((num, 2)), jnp.full(num, 7))
    label = seen_by("discriminator", batch, fake_labels=fake_labels).fake_label
    p = np.array([0.2, 0.3, 0.5])
    shares = np.bincount(label, minlength=3) / num
    np.testing.assert_array_less(np.abs(shares - p), 4 * np.sqrt(p * (1 - p) / num))


@pytest.mark.parametrize(
    ("penalty", "expected"),
    [
        (r1, lambda real, fake, label: np.sum((2 * 8 * real) ** 2, axis=1)),
        (r2, lambda real, fake, label: np.sum((2 * (1 + label[:, None]) * fake) ** 2, axis=1)),
        # T(x) = 2 x, so D(T(x)) - D(x) = 3 D(x).
        (
            partial(consistency, augment=lambda key, x: 2 * x),
            lambda real, fake, label: (
                (3 * 8 * np.sum(real**2, axis=1)) ** 2
                + (3 * (1 + label) * np.sum(fake**2, axis=1)) ** 2
            ),
        ),
    ],
)
def test_penalties_see_d_on_fakes_with_the_fakes_labels(penalty, expected):
    seen = seen_by("discriminator", fake_labels=fake_labels)
    real, fake, label = (np.asarray(a, float) for a in (seen.real, seen.fake, seen.fake_label))
    state = first_state(PLAIN, SGD, SGD, KEY, REAL)
    objective = gan_jax.algorithms.discriminator_objective(
        PLAIN, losses.minimax, [(penalty, 1.0)], fake_labels=fake_labels
    )
    _, aux = objective(state.discriminator.params, state.discriminator, state.generator, REAL, KEY)
    name = getattr(penalty, "func", penalty).__name__
    # The number of terms does not change the draws of the fakes.
    np.testing.assert_allclose(aux.metrics[name], expected(real, fake, label).mean(), rtol=1e-4)


def test_lecam_remembers_d_on_fakes_with_the_fakes_labels():
    step = gan_jax.make_discriminator_step(
        PLAIN, losses.minimax, SGD, penalties=[(lecam(0.0), 0.1)], fake_labels=fake_labels
    )
    state = gan_jax.init(PLAIN, SGD, SGD, KEY, REAL, penalties=[(lecam(0.0), 0.1)])
    key = jax.random.fold_in(jax.random.fold_in(gan_jax.random.threefry(state.key), 0), 0)
    seen = seen_by("discriminator", key=key, fake_labels=fake_labels)
    memory = jax.jit(step)(state, REAL)[0].discriminator.memory["lecam"]
    for name, output in (("real", seen.real_output), ("fake", seen.fake_output)):
        np.testing.assert_allclose(memory[name], output.logits.mean(), rtol=1e-5)


@cache
def metrics_with_drawn_labels(role, wrapper, **options):
    def label(seen):
        """A mean that another order of the labels would change."""
        return seen.fake_label * seen.z[:, 0]

    state = first_state(PLAIN, SGD, SGD, KEY, REAL)
    step = getattr(gan_jax, f"make_{role}_step")(
        PLAIN, losses.minimax, SGD, terms=[(label, 1.0)], fake_labels=fake_labels, **options
    )
    return jax.device_get(wrapper(step, donate=False)(state, REAL)[1])


@pytest.mark.parametrize("role", ["generator", "discriminator"])
@pytest.mark.parametrize(
    ("wrapper", "options"),
    [
        (parallel.jit_step, {"accumulate": 4}),
        (parallel.pmap_step, {"axis_name": parallel.AXIS_NAME}),
        (parallel.pmap_step, {"axis_name": parallel.AXIS_NAME, "accumulate": 2}),
        (parallel.shard_step, {}),
    ],
)
def test_the_labels_drawn_do_not_depend_on_how_the_batch_is_split(role, wrapper, options):
    expected = metrics_with_drawn_labels(role, parallel.jit_step)
    made = metrics_with_drawn_labels(role, wrapper, **options)
    assert abs(expected[f"{role}_label"]) > 1e-2
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-5, rtol=1e-5), made, expected)


# Terms with memory


def last_mean():
    """The memory holds the mean of z^2 over the previous update's batch, and a count."""
    return WithMemory(
        lambda: {"mean": jnp.zeros(()), "count": jnp.zeros((), jnp.int32)},
        lambda seen, memory: (
            jnp.full(len(seen.real), memory["mean"]),
            {"mean": jnp.mean(jnp.square(seen.z)), "count": memory["count"] + 1},
        ),
        "last_mean",
    )


@pytest.mark.parametrize("accumulate", [1, 4])
def test_a_term_of_g_has_its_memory_in_gs_state(accumulate):
    algorithm = gan_jax.adversarial(
        PLAIN,
        losses.minimax,
        generator_tx=SGD,
        discriminator_tx=SGD,
        generator_terms=[(last_mean(), 1.0)],
        accumulate=accumulate,
    )
    state, remembered = algorithm.init(KEY, REAL), 0.0
    assert state.discriminator.memory == {}
    for n in range(3):
        key = jax.random.fold_in(jax.random.fold_in(gan_jax.random.threefry(state.key), 1), n)
        z = seen_by("generator", key=key).z
        state, metrics = algorithm.generator_step(state, REAL)
        np.testing.assert_allclose(metrics["generator_last_mean"], remembered, rtol=1e-5)
        remembered = float(np.mean(np.square(z)))
        memory = state.generator.memory["last_mean"]
        np.testing.assert_allclose(memory["mean"], remembered, rtol=1e-5)
        assert memory["count"] == n + 1


def test_terms_of_one_name_are_refused():
    for role in ("generator", "discriminator"):
        make = getattr(gan_jax.algorithms, f"{role}_objective")
        with pytest.raises(ValueError, match=r"different names, got \['nothing', 'nothing'\]"):
            make(PLAIN, losses.minimax, terms=[(nothing, 1.0), (nothing, 2.0)])
    with pytest.raises(ValueError, match=r"different names, got \['r1', 'r1'\]"):
        gan_jax.algorithms.discriminator_objective(
            PLAIN, losses.minimax, [(r1, 1.0)], terms=[(last_mean()._replace(name="r1"), 1.0)]
        )
    with pytest.raises(ValueError, match="different names"):
        gan_jax.algorithms.discriminator_objective(
            PLAIN, losses.minimax, terms=[(last_mean()._replace(name="augmentation"), 1.0)]
        )


def test_a_term_without_its_memory_is_refused():
    state = first_state(PLAIN, SGD, SGD, KEY, REAL)
    step = gan_jax.make_generator_step(PLAIN, losses.minimax, SGD, terms=[(last_mean(), 1.0)])
    with pytest.raises(ValueError, match="'last_mean' has no memory"):
        step(state, REAL)


# Path length, in closed form


def test_the_path_length_of_a_linear_generator(linear_gan):
    """x = A z + b has |J^T y| = |A^T y| everywhere, and the second mean square is known."""
    term = path_length(decay=0.9)
    scaled = jnp.array([[3.0, 0.0], [0.0, 3.0]])  # |A^T y| = 3 |y|
    x = jnp.zeros((4000, 2))
    state = gan_jax.init(linear_gan, SGD, SGD, KEY, Batch(x), generator_terms=[(term, 1.0)])
    params = {**state.generator.params, "A": scaled}
    state = state.replace(generator=state.generator.replace(params=params))
    still = optax.set_to_zero()
    state = state.replace(generator=state.generator.replace(opt_state=still.init(params)))
    step = jax.jit(
        gan_jax.make_generator_step(linear_gan, losses.minimax, still, terms=[(term, 1.0)])
    )
    state, metrics = step(state, Batch(x))
    assert metrics["generator_path_length"] == 0
    memory = state.generator.memory["path_length"]
    mean = 3 * np.sqrt(np.pi / 2)  # the mean of the Rayleigh distribution
    assert memory["length"] / memory["weight"] == pytest.approx(mean, rel=0.03)
    average = float(memory["length"] / memory["weight"])
    state, metrics = step(state, Batch(x))
    variance = 9 * (2 - np.pi / 2)
    expected = variance + (average - mean) ** 2
    assert metrics["generator_path_length"] == pytest.approx(expected, rel=0.1)
    assert state.generator.memory["path_length"]["weight"] == pytest.approx(1 - 0.9**2)


# ADA's controller, by hand


def controlled(shares, *, rate=0.3, target=0.6):
    """Returns p after each update of D, with a given share of positive real logits."""
    feedback = adaptive(lambda key, x, p: x, rate=rate, target=target)
    memory, ps = feedback.init(), []
    for share in shares:
        logits = jnp.where(jnp.arange(10) < 10 * share, 2.0, -3.0)
        memory = feedback.update(memory, Output(logits))
        ps.append(float(memory["p"]))
        assert memory["r_t"] == pytest.approx(2 * share - 1, abs=1e-6)
    return ps


def test_p_follows_the_sign_of_the_excess_and_stays_within_its_range():
    # r_t = 1, 1, 1, 1, 1, 0, 0, 0, 0, 0. Each value affects the next update.
    ps = controlled([1.0] * 5 + [0.5] * 5)
    np.testing.assert_allclose(ps, [0, 0.3, 0.6, 0.9, 1.0, 1.0, 0.7, 0.4, 0.1, 0.0], atol=1e-6)


def test_p_stays_at_the_target():
    """r_t is the target of 0.6, as a mean of ten signs. Its rounding must not move p."""
    assert controlled([1.0, 0.8, 0.8, 0.8]) == pytest.approx([0.0, 0.3, 0.3, 0.3])


@pytest.mark.parametrize("rounding", [-3, 1, 3])
def test_r_t_near_its_target_does_not_depend_on_rounding(rounding):
    """Devices and microbatches average r_t in parts, which changes its rounding."""
    feedback = adaptive(lambda key, x, p: x, rate=0.1, target=0.6)
    memory = {"p": jnp.full((), 0.5), "r_t": jnp.float32(0.6) + rounding * jnp.float32(2**-24)}
    assert feedback.update(memory, Output(jnp.ones(4)))["p"] == 0.5


@pytest.mark.parametrize(
    ("wrapper", "options"),
    [
        (parallel.jit_step, {"accumulate": 4}),
        (parallel.pmap_step, {"axis_name": parallel.AXIS_NAME}),
        (parallel.shard_step, {}),
    ],
)
def test_r_t_is_that_of_the_whole_batch(linear_gan, wrapper, options):
    options["augmentation"] = adaptive(lambda key, x, p: x, rate=0.1)
    blank = {"before": (), "last": ()}
    d = linear_gan.discriminator
    gan = linear_gan._replace(
        generator=PLAIN.generator,
        discriminator=Network(
            lambda *given: (d.init(*given)[0], {}),
            lambda params, state, x, label=None, **mode: (
                d.apply(params, blank, x, **mode)[0],
                state,
            ),
        ),
    )
    state = gan_jax.init(gan, SGD, SGD, KEY, REAL, augmentation=options["augmentation"])
    step = gan_jax.make_discriminator_step(gan, losses.minimax, SGD, **options)
    after, _ = wrapper(step, donate=False)(state, REAL)
    w = np.asarray(state.discriminator.params["w"])
    expected = np.mean(np.sign(np.asarray(REAL.x) @ w))
    assert -1 < expected < 1
    assert after.discriminator.memory["augmentation"]["r_t"] == pytest.approx(expected, abs=1e-6)


# The axis of a step


def test_the_axis_is_a_part_of_jits_cache_key():
    """One jitted function gives both results: inside and outside of `split_over`."""
    mean = jax.jit(batches.mean)
    x = jnp.arange(8.0).reshape(2, 4)

    def split(x):
        with batches.split_over("halves"):
            return mean(x)

    over = jax.vmap(split, axis_name="halves")
    without = jax.vmap(mean, axis_name="halves")
    for _ in range(2):
        np.testing.assert_allclose(without(x), [1.5, 5.5])
        np.testing.assert_allclose(over(x), [3.5, 3.5])


class _Linen(nn.Module):
    layer: nn.Module

    @nn.compact
    def __call__(self, x, train):
        x = nn.Dense(4)(x)
        mode = "deterministic" if isinstance(self.layer, nn.Dropout) else "use_running_average"
        return nn.Dense(1)(self.layer(x, **{mode: not train}))[:, 0]


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.BatchNorm(), "BatchNorm has no axis_name, but the step has axis_name='devices'"),
        (nn.Dropout(0.5), "Dropout would draw the same mask for each part .*axis_name='devices'"),
    ],
)
def test_layers_of_one_shard_are_refused_under_a_mapped_axis(layer, message):
    gan = PLAIN._replace(discriminator=gan_jax.from_linen(_Linen(layer)))
    batch = REAL._replace(label=None)
    state = first_state(gan, SGD, SGD, KEY, batch)

    def step(axis_name):
        return gan_jax.make_discriminator_step(gan, losses.minimax, SGD, axis_name=axis_name)

    with pytest.raises(ValueError, match=message):
        parallel.pmap_step(step(parallel.AXIS_NAME), donate=False)(state, batch)
    parallel.jit_step(step(None), donate=False)(state, batch)  # on one device they are right


# Averages of G


class _Normed(nn.Module):
    @nn.compact
    def __call__(self, z, *, train):
        return BatchNorm(name="norm")(z, train=train)


@pytest.mark.parametrize("ema", [True, False])
def test_samples_are_drawn_with_averaged_running_statistics(ema):
    """G is batch norm alone. Its running statistics and their averages are computed by hand."""
    gan = GAN(gan_jax.from_linen(_Normed()), _discriminator(), priors.normal(2))
    batch, decay, still = REAL._replace(label=None), 0.75, optax.set_to_zero()
    state = first_state(gan, still, still, KEY, batch)
    step = jax.jit(gan_jax.make_generator_step(gan, losses.minimax, still, ema_decay=decay))
    running = {"mean": np.zeros(2), "var": np.ones(2)}
    averages = dict(running)
    for n in range(3):
        key = jax.random.fold_in(jax.random.fold_in(gan_jax.random.threefry(state.key), 1), n)
        z = np.asarray(gan_jax.random.draw(gan.prior, jax.random.split(key, 4)[0], batch.x))
        state, _ = step(state, batch)
        seen = {"mean": np.mean(z, axis=0), "var": np.var(z, axis=0)}
        running = {name: 0.9 * running[name] + 0.1 * seen[name] for name in running}
        averages = {n: decay * averages[n] + (1 - decay) * running[n] for n in running}
    statistics = averages if ema else running
    identity = gan._replace(
        generator=Network(gan.generator.init, lambda p, s, z, label=None, **mode: (z, s))
    )
    z = np.asarray(gan_jax.sample(identity, state, jax.random.key(5), 20))
    norm = jax.device_get(state.generator.params["norm"]["BatchNorm_0"])
    expected = (z - statistics["mean"]) / np.sqrt(statistics["var"] + 1e-5)
    made = gan_jax.sample(gan, state, jax.random.key(5), 20, ema=ema)
    np.testing.assert_allclose(made, expected * norm["scale"] + norm["bias"], atol=1e-5)
    assert np.abs(averages["mean"] - running["mean"]).max() > 1e-3
