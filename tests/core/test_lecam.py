"""LeCam's penalty, which has a memory: its anchors in NumPy, and the state that stores them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gan_jax
from gan_jax import Batch, PlayerState
from gan_jax.losses import minimax
from gan_jax.penalties import lazy, lecam, r1

pytestmark = pytest.mark.usefixtures("quick_compile")

RATE, WEIGHT, DECAY = 0.1, 0.3, 0.8
SGD = optax.sgd(RATE)
REAL = jax.random.normal(jax.random.key(7), (6, 2)) + 1.0
BATCH = Batch(REAL)


def start(gan, penalties=(), tx=SGD):
    return gan_jax.init(gan, tx, tx, jax.random.key(0), BATCH, penalties=penalties)


def make(gan, penalties, tx=SGD):
    return jax.jit(gan_jax.make_discriminator_step(gan, minimax, tx, penalties=penalties))


def run(gan, penalties, num):
    """Returns for each of `num` updates of D: real, fake, w, c, metrics and memory."""
    state, step, history = start(gan, penalties), make(gan, penalties), []
    for _ in range(num):
        params = state.discriminator.params
        state, metrics = step(state, BATCH)
        seen = state.discriminator.model_state
        history.append(
            jax.device_get(
                (seen["before"], seen["last"], params, metrics, state.discriminator.memory)
            )
        )
    return history, state


def test_anchors_are_moving_averages_of_the_mean_logits(linear_gan):
    """The anchors are weighted means over earlier updates, with weights d^(n - 1 - i)."""
    history, _ = run(linear_gan, [(lecam(DECAY), WEIGHT)], 5)
    of_real, of_fake = [], []
    for n, (real, fake, params, metrics, _) in enumerate(history):
        logits = [x @ params["w"] + params["c"] for x in (real, fake)]
        expected = 0.0  # the first update has no anchors
        if n:
            weights = DECAY ** np.arange(n - 1, -1, -1.0)
            a_real, a_fake = (np.average(means, weights=weights) for means in (of_real, of_fake))
            expected = np.mean((logits[0] - a_fake) ** 2 + (logits[1] - a_real) ** 2)
        np.testing.assert_allclose(metrics["lecam"], expected, rtol=1e-4)
        of_real.append(logits[0].mean())
        of_fake.append(logits[1].mean())
    assert history[-1][-1]["lecam"]["weight"] == pytest.approx(1 - DECAY**5)


def test_the_update_follows_the_penaltys_slope(linear_gan):
    """The anchors are constants: d/dc is 2 mean(D(x) - a_F) + 2 mean(D(G(z)) - a_R)."""
    history, state = run(linear_gan, [(lecam(DECAY), WEIGHT)], 1)
    step = make(linear_gan, [(lecam(DECAY), WEIGHT)])
    plain = make(linear_gan, [])
    params = jax.device_get(state.discriminator.params)
    memory = history[0][-1]["lecam"]
    after, _ = step(state, BATCH)
    without, _ = plain(state, BATCH)
    seen = after.discriminator.model_state
    real, fake = (np.asarray(seen[name]) @ params["w"] + params["c"] for name in ("before", "last"))
    slope = 2 * np.mean(real - memory["fake"] / memory["weight"])
    slope += 2 * np.mean(fake - memory["real"] / memory["weight"])
    np.testing.assert_allclose(
        without.discriminator.params["c"] - after.discriminator.params["c"],
        RATE * WEIGHT * slope,
        rtol=1e-3,
    )
    # A step without the penalty leaves its memory unchanged.
    assert jax.device_get(without.discriminator.memory) == {"lecam": memory}


def test_what_a_schedule_leaves_out_is_not_remembered(linear_gan):
    history, _ = run(linear_gan, [(lecam(DECAY), lazy(WEIGHT, 2))], 4)
    weights = [memory["lecam"]["weight"] for *_, memory in history]
    np.testing.assert_allclose(weights, [0.2, 0.2, 0.36, 0.36], rtol=1e-6)
    means = [np.mean(real @ params["w"] + params["c"]) for real, _, params, _, _ in history]
    remembered = [memory["lecam"]["real"] for *_, memory in history]
    first, second = 0.2 * means[0], 0.8 * 0.2 * means[0] + 0.2 * means[2]
    np.testing.assert_allclose(remembered, [first, first, second, second], rtol=1e-5)


def test_two_of_them_remember_apart(linear_gan):
    slow, fast = lecam(0.9)._replace(name="slow"), lecam(0.0)._replace(name="fast")
    history, _ = run(linear_gan, [(slow, 0.1), (r1, 0.1), (fast, 0.1)], 2)
    *_, metrics, memory = history[-1]
    assert {"slow", "fast", "r1"} <= metrics.keys()
    assert metrics["slow"] == metrics["fast"] > 0  # the anchors come from one update, so both agree
    assert (memory["slow"]["weight"], memory["fast"]["weight"]) == (pytest.approx(0.19), 1.0)


# The state


def test_a_state_without_the_memory_is_refused(linear_gan):
    step = make(linear_gan, [(lecam(), 0.1)])
    for penalties in ((), [(r1, 1.0)], [(lecam()._replace(name="other"), 1.0)]):
        state = start(linear_gan, penalties)
        with pytest.raises(ValueError, match=r"'lecam' has no memory .* give init the same"):
            step(state, BATCH)


def test_old_calls_have_no_memory(linear_gan):
    state = gan_jax.init(linear_gan, SGD, SGD, jax.random.key(0), BATCH)
    assert state.generator.memory == state.discriminator.memory == {}
    assert PlayerState(step=0, params=(), model_state=(), opt_state=()).memory == {}
    assert start(linear_gan, [(r1, 1.0)]).discriminator.memory == {}
    with_memory = start(linear_gan, [(r1, 1.0), (lecam(), 0.1)])
    assert with_memory.discriminator.memory.keys() == {"lecam"}
    assert with_memory.generator.memory == {}
    for before, after in zip(
        jax.tree.leaves(state.discriminator.params),
        jax.tree.leaves(with_memory.discriminator.params),
        strict=True,
    ):
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("jit", [False, True])
def test_a_state_with_memory_can_be_donated(jit, linear_gan):
    penalties = [(lecam(), 0.1)]
    make_state = jax.jit(lambda: start(linear_gan, penalties)) if jit else None
    state = make_state() if make_state else start(linear_gan, penalties)
    memory = jax.tree.leaves(state.discriminator.memory)
    assert len({leaf.unsafe_buffer_pointer() for leaf in memory}) == 3
    step = gan_jax.make_discriminator_step(linear_gan, minimax, SGD, penalties=penalties)
    jax.jit(step, donate_argnums=0)(state, BATCH)
    assert all(leaf.is_deleted() for leaf in memory)


def test_derivatives_pass_through_the_memory(linear_gan):
    """The derivative d (third update's penalty) / d (learning rate), against finite differences."""
    with jax.enable_x64(True):
        penalties = [(lecam(DECAY), WEIGHT)]
        batch = Batch(jnp.asarray(REAL, jnp.float64))
        gan = linear_gan._replace(
            prior=lambda key, num: jax.random.normal(key, (num, 2), jnp.float64)
        )
        state = gan_jax.init(gan, SGD, SGD, jax.random.key(0), batch, penalties=penalties)

        def third(rate):
            tx = optax.sgd(rate)
            step = gan_jax.make_discriminator_step(gan, minimax, tx, penalties=penalties)
            return jax.lax.scan(lambda s, _: step(s, batch), state, length=3)[1]["lecam"][-1]

        gradient = jax.jit(jax.grad(third))(0.1)
        compiled = jax.jit(third)
        difference = float(compiled(0.1 + 1e-5) - compiled(0.1 - 1e-5)) / 2e-5
        gradient = float(gradient)
    assert abs(gradient) > 1e-3
    np.testing.assert_allclose(gradient, difference, rtol=1e-6)


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_decays_out_of_range_are_refused(decay):
    with pytest.raises(ValueError, match=rf"decay must be in \[0, 1\), got {decay}"):
        lecam(decay)
