"""Terms of a player's loss against values computed by hand, and the outputs that D may have."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gan_jax
from gan_jax import Batch, Network, Output, Pass, priors, terms
from gan_jax.losses import least_squares, non_saturating, relativistic

pytestmark = pytest.mark.usefixtures("quick_compile")


def seen(**given):
    """A pass with only the given fields. A term that read more would fail."""
    return Pass(**dict.fromkeys(Pass._fields) | given)


def output(**heads):
    return Output(jnp.zeros(2), {name: jnp.asarray(head) for name, head in heads.items()})


# Classification

CLASS_LOGITS = {
    "real": np.log([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]]),
    "fake": np.log([[0.25, 0.5, 0.25], [0.6, 0.3, 0.1]]),
}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [-np.log(0.7) - np.log(0.5), -np.log(0.8) - np.log(0.6)]),
        ({"real": False}, [-np.log(0.5), -np.log(0.6)]),
        ({"fake": False}, [-np.log(0.7), -np.log(0.8)]),
    ],
)
def test_classification(options, expected):
    """Real and fake samples each have their own labels."""
    passed = seen(
        real_output=output(kind=CLASS_LOGITS["real"]),
        fake_output=output(kind=CLASS_LOGITS["fake"]),
        real_label=jnp.array([0, 2]),
        fake_label=jnp.array([1, 0]),
    )
    np.testing.assert_allclose(terms.classification("kind", **options)(passed), expected, rtol=1e-5)


def test_classification_of_nothing_or_without_labels_or_head_is_refused():
    with pytest.raises(ValueError, match="real and fake are both False"):
        terms.classification(real=False, fake=False)
    of_both = {"real_output": output(kind=jnp.zeros((2, 3))), "fake_output": output()}
    with pytest.raises(ValueError, match="needs labels"):
        terms.classification("kind")(seen(**of_both))
    labels = {"real_label": jnp.zeros(2, int), "fake_label": jnp.zeros(2, int)}
    with pytest.raises(ValueError, match="head 'kind' is not one of D's heads, which are none"):
        terms.classification("kind")(seen(**of_both, **labels))


# Information


def test_information_of_a_categorical_code():
    passed = seen(
        z={"noise": jnp.ones((2, 4)), "code": jnp.array([1, 0])},
        fake_output=output(code=CLASS_LOGITS["fake"]),
    )
    term = terms.information(lambda z: z["code"])
    np.testing.assert_allclose(term(passed), [-np.log(0.5), -np.log(0.6)], rtol=1e-5)


def test_information_of_a_normal_code():
    """((1 - 3)^2 + (2 - 2.5)^2) / 2, and 4^2 / 2."""
    passed = seen(
        z=jnp.array([[9.0, 3.0, 2.5], [9.0, 0.0, 0.0]]),
        fake_output=output(mean=[[1.0, 2.0], [0.0, 4.0]]),
    )
    term = terms.information(lambda z: z[:, 1:], "mean", posterior="normal")
    np.testing.assert_allclose(term(passed), [2.125, 8.0], rtol=1e-6)


def test_information_refuses_another_posterior_and_a_missing_head():
    with pytest.raises(ValueError, match="posterior must be categorical or normal, got 'gamma'"):
        terms.information(lambda z: z, posterior="gamma")
    term = terms.information(lambda z: z)
    with pytest.raises(ValueError, match=r"head 'code' is not .* which are \['other'\]"):
        term(seen(z=jnp.zeros(2, int), fake_output=output(other=jnp.zeros(2))))


# Reconstruction


def test_reconstruction():
    """The mean over all numbers of an example, for an array and for a tree."""
    real, fake = jnp.zeros((2, 2, 2, 1)), jnp.array([[1.0, -1, 2, 0], [0, 0, 0, -8]])
    fake = fake.reshape(2, 2, 2, 1)
    np.testing.assert_allclose(terms.reconstruction(seen(real=real, fake=fake)), [1.0, 2.0])
    tree = {"a": real, "b": jnp.zeros((2, 1))}, {"a": fake, "b": jnp.array([[6.0], [-2.0]])}
    made = terms.reconstruction(seen(real=tree[0], fake=tree[1]))
    np.testing.assert_allclose(made, [(4 + 6) / 5, (8 + 2) / 5], rtol=1e-6)


def test_reconstruction_of_narrow_floats_does_not_overflow():
    real = jnp.zeros((1, 1000), jnp.float16)
    made = terms.reconstruction(seen(real=real, fake=real + 1000))
    assert made.dtype == jnp.float32
    np.testing.assert_allclose(made, [1000.0])


# Mode seeking


def test_mode_seeking():
    """G(z) = 2 z + label moves each number by twice the change of z, so the ratio is 1/2."""
    z = jnp.array([[1.0, 2.0], [-3.0, 5.0], [0.5, 0.0]])
    label = jnp.array([0.0, 1.0, 2.0])

    def generator(z, label):
        return 2 * z + label[:, None]

    passed = seen(z=z, fake=generator(z, label), fake_label=label, generator=generator)
    passed = passed._replace(key=jax.random.key(0))
    made = terms.mode_seeking(priors.normal(2))(passed)
    np.testing.assert_allclose(made, [0.5] * 3, rtol=1e-4)
    collapsed = passed._replace(fake=jnp.zeros_like(z), generator=lambda z, label: 0 * z)
    assert jnp.all(terms.mode_seeking(priors.normal(2))(collapsed) > 1e3)


def test_mode_seeking_takes_latents_of_integers_too():
    """The second draw has the same noise and the code 3.

    One of three numbers moves, by 2 or by 0.
    """
    z = {"noise": jnp.ones((2, 2)), "code": jnp.array([1, 3])}

    def prior(key, num):
        return {"noise": jnp.ones((num, 2)), "code": jnp.full((num,), 3)}

    def generator(z, label):
        return z["noise"] + 4.0 * z["code"][:, None]

    passed = seen(z=z, fake=generator(z, None), generator=generator, key=jax.random.key(0))
    made = terms.mode_seeking(prior)(passed)
    np.testing.assert_allclose(made, [(2 / 3) / 8, 0.0], rtol=1e-4)


# Outputs that D may have

TX = optax.sgd(0.1)
BATCH = Batch(jax.random.normal(jax.random.key(1), (6, 2)))


def with_output(gan, change):
    """Returns the GAN with a D that returns `change` of its logits [B]."""
    plain = gan.discriminator

    def apply(*arguments, **options):
        y, model_state = plain.apply(*arguments, **options)
        return change(y), model_state

    return gan._replace(discriminator=Network(plain.init, apply))


def trained(gan, loss, steps=5, **options):
    """Returns the state and the metrics after steps, all compiled as one program."""
    algorithm = gan_jax.adversarial(gan, loss, generator_tx=TX, discriminator_tx=TX, **options)
    batch = jax.tree.map(lambda leaf: leaf[None], BATCH)

    @jax.jit
    def train(key):
        state = algorithm.init(key, BATCH)
        return jax.lax.scan(lambda s, _: algorithm.step(s, batch), state, length=steps)

    state, metrics = train(jax.random.key(0))
    return state.replace(key=None), metrics


@pytest.mark.parametrize("loss", [non_saturating, relativistic])
def test_an_output_is_its_logits_bit_for_bit(linear_gan, loss):
    bare = trained(linear_gan, loss)
    made = trained(with_output(linear_gan, lambda y: Output(y, {"features": 2 * y})), loss)
    jax.tree.map(np.testing.assert_array_equal, made, bare)


@pytest.mark.parametrize("loss", [non_saturating, least_squares, relativistic])
def test_a_map_counts_number_by_number(linear_gan, loss):
    """The oracle is a loss of [B] logits that computes the map's losses and averages them."""
    shifts = jnp.array([[0.0, 1.0, -2.0], [0.5, -0.5, 3.0]])

    def as_map(y):
        return y[:, None, None] * (1 + shifts[None] / 4) + shifts[None]

    def by_hand(of_player):
        def mean(real, fake):
            one = [
                of_player(real * (1 + s / 4) + s, fake * (1 + s / 4) + s) for s in shifts.ravel()
            ]
            return sum(one) / len(one)

        return mean

    made, metrics = trained(with_output(linear_gan, as_map), loss)
    expected, _ = trained(linear_gan, gan_jax.AdversarialLoss(*map(by_hand, loss)))
    for role in ("generator", "discriminator"):
        one, other = (getattr(state, role).params for state in (made, expected))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), one, other)
        assert np.min(metrics[f"{role}_gradient_norm"]) > 1e-2


def test_penalties_see_the_mean_of_a_map(linear_gan):
    """R1 of a map with the mean 3 logit is nine times |w|^2."""
    gan = with_output(linear_gan, lambda y: jnp.stack([y, 5 * y], axis=1))
    _, metrics = trained(gan, non_saturating, 1, penalties=[(gan_jax.penalties.r1, 0.0)])
    state = gan_jax.init(gan, TX, TX, jax.random.key(0), BATCH)
    w = np.asarray(state.discriminator.params["w"], np.float64)
    np.testing.assert_allclose(metrics["r1"], [9 * np.sum(w**2)], rtol=1e-5)
