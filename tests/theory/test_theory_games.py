"""Game dynamics against closed forms, and the library's losses and penalties against both."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import special

import gan_jax
from experiments import dirac_gan as experiment
from gan_jax.theory import (
    DIRAC_GANS,
    bilinear,
    consensus,
    dirac_eigenvalues,
    dirac_gan,
    game_eigenvalues,
    game_jacobian,
    local_convergence,
    vector_field,
)
from gan_jax.theory.updates import (
    alternating,
    extragradient,
    optimistic,
    proximal,
    simultaneous,
    spectral_radius,
)

pytestmark = pytest.mark.usefixtures("quick_compile")


def trajectory(update, start, num_steps):
    """Returns [num_steps + 1, 2]: theta and psi, from the start on."""
    _, path = jax.lax.scan(lambda point, _: (update(point), point), start, length=num_steps + 1)
    return np.stack(path, axis=1)


@pytest.fixture(autouse=True)
def _double_precision():
    with jax.enable_x64(True):
        yield


ORIGIN = (np.zeros(()), np.zeros(()))
STRENGTHS = [0.3, 1.0, 2.5]  # of R1 these turn, are critical, and do not turn


def by_hand(name, g):
    """Returns the eigenvalues of the reference page for gamma or sigma = g."""
    root = np.emath.sqrt
    centre, spread = {
        "minimax": (0, 0.5j),
        "non_saturating": (0, 0.5j),
        "wasserstein": (0, 1j),
        "r1": (-g / 2, root(g**2 / 4 - 1 / 4)),
        "r2": (-g / 2, root(g**2 / 4 - 1 / 4)),
        "instance_noise": (-(g**2) / 4, root(g**4 / 16 - 1 / 4)),
        "consensus": (-g / 4, 0.5j),
    }[name]
    return np.array([centre + spread, centre - spread])


SMOOTH = [name for name in DIRAC_GANS if name != "wgan_gp"]


@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("name", SMOOTH)
def test_the_eigenvalues_of_the_dirac_gan(name, strength):
    """The closed form, theory's own game and the library's losses have the same eigenvalues."""
    expected = by_hand(name, strength)
    np.testing.assert_allclose(dirac_eigenvalues(name, strength), expected, atol=1e-12)
    config = experiment.Config(gamma=strength, sigma=strength)
    for game in (dirac_gan(name, strength), experiment.library_game(name, config)):
        np.testing.assert_allclose(game_eigenvalues(game, *ORIGIN), expected, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in DIRAC_GANS if name != "instance_noise"])
def test_the_librarys_field_is_that_of_theory_everywhere(name):
    game = experiment.library_game(name, experiment.Config(gamma=0.7))
    for theta, psi in np.random.default_rng(0).normal(size=(5, 2)):
        made = vector_field(game, jnp.array(theta), jnp.array(psi))
        expected = vector_field(dirac_gan(name, 0.7), jnp.array(theta), jnp.array(psi))
        np.testing.assert_allclose(made, expected, rtol=1e-9)


def test_the_librarys_field_with_instance_noise_is_nearly_that_of_theory():
    """The library's game uses three nodes for the noise, and theory uses thirty-one."""
    game = experiment.library_game("instance_noise", experiment.Config(sigma=0.5))
    for theta, psi in np.random.default_rng(0).uniform(-1, 1, size=(5, 2)):
        made = vector_field(game, jnp.array(theta), jnp.array(psi))
        expected = vector_field(dirac_gan("instance_noise", 0.5), jnp.array(theta), jnp.array(psi))
        np.testing.assert_allclose(made, expected, atol=3e-4)


@pytest.mark.parametrize(("theta", "psi"), [(0.7, -1.5), (-0.2, 0.3)])
def test_the_field_of_the_paper(theta, psi):
    """The paper has v = (-psi' f'(psi' theta), theta f'(psi' theta)) with psi' = -psi."""
    slope = special.expit(-(-psi * theta))
    expected = [psi * slope, -theta * slope]
    made = vector_field(dirac_gan("minimax"), jnp.array(theta), jnp.array(psi))
    np.testing.assert_allclose(made, expected, rtol=1e-12)


def test_the_non_saturating_dirac_gan_circles_at_a_known_radius():
    """Over a turn, the inward r^4 / 8 and the outward h r^2 / 4 are equal at r^2 = 2 h."""
    game = experiment.library_game("non_saturating", experiment.Config())
    path = trajectory(simultaneous(game, 0.05), (np.array(1.0), np.array(0.0)), 20_000)
    np.testing.assert_allclose(np.mean(np.sum(path[-5000:] ** 2, axis=1)), 0.1, rtol=0.02)


def test_instance_noise_against_draws():
    """The reference is the mean of D's loss over a million draws of the noise."""
    noise = np.random.default_rng(0).normal(size=(2, 1_000_000)) * 0.8
    theta, psi = 0.5, 1.2
    losses = np.logaddexp(0, psi * (theta + noise[0])) + np.logaddexp(0, -psi * noise[1])
    made = dirac_gan("instance_noise", 0.8).discriminator(jnp.array(theta), jnp.array(psi))
    assert abs(made - losses.mean()) < 4 * losses.std() / 1000


def test_the_field_of_wgan_gp_jumps():
    game = dirac_gan("wgan_gp", 1.0)
    at = [vector_field(game, jnp.zeros(()), jnp.array(psi))[1] for psi in (1e-9, -1e-9)]
    np.testing.assert_allclose(at, [1.0, -1.0], atol=1e-6)
    with pytest.raises(ValueError, match="field of 'wgan_gp'"):
        dirac_eigenvalues("wgan_gp")


def test_an_unknown_game_is_refused():
    with pytest.raises(ValueError, match=r"name must be one of minimax.*got 'gan'"):
        dirac_gan("gan")


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ([-0.1 + 1j, -0.1 - 1j], "converges"),
        ([-0.1, 0.2], "diverges"),
        ([0.5j, -0.5j], "undecided"),
        ([-1.0, 0.0], "undecided"),
    ],
)
def test_verdicts(values, verdict):
    assert local_convergence(np.array(values)) == verdict


def test_the_jacobian_of_players_with_many_parameters():
    """L_G = a.M b + |a|^2/2 and L_D = -a.M b: the Jacobian in blocks, by hand, also for pytrees."""
    m = np.random.default_rng(0).normal(size=(3, 2))
    game = (
        lambda a, b: a["w"] @ m @ jnp.stack(b) + jnp.sum(a["w"] ** 2) / 2,
        lambda a, b: -a["w"] @ m @ jnp.stack(b),
    )
    made = game_jacobian(game, {"w": jnp.ones(3)}, (jnp.array(1.0), jnp.array(2.0)))
    np.testing.assert_allclose(made, np.block([[-np.eye(3), -m], [m.T, np.zeros((2, 2))]]))


def test_consensus_descends_the_fields_energy():
    """The field is v - gamma/2 grad |v|^2, by finite differences."""
    point = np.array([0.4, -0.9])

    def energy(x):
        return np.sum(np.square(vector_field(dirac_gan("minimax"), *map(jnp.array, x)))) / 2

    slope = [(energy(point + e) - energy(point - e)) / 2e-6 for e in 1e-6 * np.eye(2)]
    plain = vector_field(dirac_gan("minimax"), *map(jnp.array, point))
    made = vector_field(consensus(dirac_gan("minimax"), 0.8), *map(jnp.array, point))
    np.testing.assert_allclose(made, np.array(plain) - 0.8 * np.array(slope), rtol=1e-7)


class TestBilinear:
    """The game min max x y."""

    @pytest.mark.parametrize("eta", [0.1, 0.5, 0.9])
    def test_radii(self, eta):
        expected = {
            simultaneous: np.sqrt(1 + eta**2),
            alternating: 1.0,
            extragradient: np.sqrt(1 - eta**2 + eta**4),
            proximal: 1 / np.sqrt(1 + eta**2),
        }
        for update, radius in expected.items():
            made = spectral_radius(update(bilinear, eta), ORIGIN)
            np.testing.assert_allclose(made, radius, rtol=1e-9)

    @pytest.mark.parametrize(("eta", "inside"), [(1.9, True), (2.1, False)])
    def test_alternating_steps_turn_up_to_two(self, eta, inside):
        assert (spectral_radius(alternating(bilinear, eta), ORIGIN) < 1 + 1e-9) == inside

    @pytest.mark.parametrize("below", [True, False])
    def test_optimistic_converges_up_to_the_inverse_root_of_three(self, below):
        eta = (1 - 1e-3 if below else 1 + 1e-3) / np.sqrt(3)
        assert (spectral_radius(optimistic(bilinear, eta), (ORIGIN, ORIGIN)) < 1) == below

    def test_the_radius_is_the_rate_of_the_iterates(self):
        """After 60 extragradient steps from (1, 0) the distance is the radius to the power 60."""
        point, eta = (jnp.ones(()), jnp.zeros(())), 0.4
        step = extragradient(bilinear, eta)
        for _ in range(60):
            point = step(point)
        np.testing.assert_allclose(np.hypot(*point), (1 - eta**2 + eta**4) ** 30, rtol=1e-9)


def test_the_proximal_step_solves_its_equation():
    """w' = w + eta v(w') on a nonlinear game."""
    game, start = dirac_gan("minimax"), (jnp.array(1.3), jnp.array(-0.8))
    end = proximal(game, 0.5)(start)
    field = vector_field(game, *end)
    np.testing.assert_allclose(np.array(end), np.array(start) + 0.5 * np.array(field), atol=1e-12)


class TestPublicSteps:
    """The public steps with SGD, on the Dirac-GAN."""

    RATE = 0.1

    def steps(self, loss=gan_jax.losses.minimax, penalties=(), sigma=0.0):
        gan, state, batch = experiment.build(sigma, 0.9, -0.4)
        tx = optax.sgd(self.RATE)
        start = gan_jax.init(gan, tx, tx, state.key, batch)
        return (
            start,
            batch,
            gan_jax.make_discriminator_step(gan, loss, tx, penalties=penalties),
            gan_jax.make_generator_step(gan, loss, tx),
        )

    @staticmethod
    def point(state):
        return np.array([state.generator.params, state.discriminator.params])

    def test_simultaneous_euler_grows_the_square_of_the_radius_by_the_known_factor(self):
        """r^2 <- r^2 (1 + h^2 f'(psi theta)^2) holds exactly in each of twenty steps."""
        state, batch, d_step, g_step = self.steps()
        for _ in range(20):
            theta, psi = before = self.point(state)
            after_d, _ = d_step(state, batch)
            after_g, _ = g_step(state, batch)
            state = after_d.replace(generator=after_g.generator)
            slope = special.expit(psi * theta)
            growth = np.sum(self.point(state) ** 2) / np.sum(before**2)
            np.testing.assert_allclose(growth, 1 + self.RATE**2 * slope**2, rtol=1e-12)

    @pytest.mark.parametrize("name", sorted(experiment.METHODS.keys() - {"consensus"}))
    def test_the_train_step_alternates_as_theory_does(self, name):
        """Fifty steps of Algorithm 1 with k = 1, against theory's map of the library's game."""
        method, config = experiment.METHODS[name], experiment.Config(gamma=0.7)
        penalties = [(method.penalty, config.gamma / 2)] if method.penalty else []
        sigma = config.sigma if method.noisy else 0.0
        state, batch, d_step, g_step = self.steps(method.loss, penalties, sigma)
        train_step = gan_jax.make_train_step(d_step, g_step)
        stacked = jax.tree.map(lambda x: jnp.repeat(x[None, None], 50, axis=0), batch)
        end, _ = jax.lax.scan(train_step, state, stacked)
        game = experiment.library_game(name, config)
        path = trajectory(alternating(game, self.RATE), tuple(self.point(state)), 50)
        np.testing.assert_allclose(self.point(end), path[-1], rtol=1e-9)
