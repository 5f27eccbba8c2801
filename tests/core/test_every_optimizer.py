"""Every optimizer of Optax trains a player from a donated state, or is refused with a reason."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

import gan_jax
from gan_jax import GAN, Batch, Network, losses, priors

pytestmark = [
    pytest.mark.usefixtures("quick_compile"),
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning"),  # Optax's own
]

SGD = optax.sgd(0.1)

GIVEN = {
    "learning_rate": 0.01,
    "clipping": 0.1,
    "eta": 0.01,
    "gamma": 0.5,
    "key": 0,
    "inner": SGD,
    "optimizer": SGD,
    "fast_optimizer": SGD,
    "base_optimizer": SGD,
    "adv_optimizer": optax.contrib.normalize(),
    "tx": SGD,
    "max_consecutive_errors": 2,
    "max_delta": 1.0,
    "max_norm": 1.0,
    "threshold": 1.0,
    "decay": 0.9,
    "mask": True,
    "freeze_mask": {"b": False, "s": False, "w": True},
    "sync_period": 2,
    "slow_step_size": 0.5,
    "step_size": 0.1,
    "step_size_fn": lambda count: 0.1,
    "max_backtracking_steps": 3,
    "max_linesearch_steps": 3,
    "should_transform_fn": lambda step: step % 2 == 0,
    "measure": lambda updates, *_, **__: optax.tree.norm(updates),
    "measure_name": "norm",
    "transforms": {"all": SGD},
    "param_labels": {"b": "all", "s": "all", "w": "all"},
    "inner_factory": optax.adam,
    "l2_norm_clip": 1.0,
    "noise_multiplier": 0.1,
    "seed": 0,
    "weight_decay": 0.01,
}
"""The value that a factory gets for an argument with this name and no default."""

SPECIAL = {
    "chain": lambda: optax.chain(optax.clip(1.0), optax.adam(0.01)),
    "named_chain": lambda: optax.named_chain(("clip", optax.clip(1.0)), ("sgd", SGD)),
    "inject_hyperparams": lambda: optax.inject_hyperparams(optax.adam)(learning_rate=0.01),
    "inject_stateful_hyperparams": lambda: optax.inject_stateful_hyperparams(optax.adam)(
        learning_rate=0.01
    ),
    "stateless": lambda: optax.stateless(lambda u, p: jax.tree.map(lambda g: -0.1 * g, u)),
    "stateless_with_tree_map": lambda: optax.stateless_with_tree_map(lambda g, p: -0.1 * g),
    "contrib.dog": lambda: optax.contrib.dog(1.0),
    "contrib.dowg": lambda: optax.contrib.dowg(),
    "MultiSteps": lambda: optax.MultiSteps(optax.adam(0.01), 2).gradient_transformation(),
}

_LINE_SEARCH = "needs more than a step gives it .*'value_fn'"
# Optax's own limits: no parameter that is a scalar, or of rank below 2.
_SCALARS = r"raised by the discriminator's tx, for parameters of shapes \[\(\), "

REFUSED = {
    "lbfgs": _LINE_SEARCH,
    "scale_by_backtracking_linesearch": _LINE_SEARCH,
    "scale_by_zoom_linesearch": _LINE_SEARCH,
    "lookahead": "use gan_jax.optimizers.lookahead",
    "measure_with_ema": r"returns updates with another structure .* updates\['b'\] is missing",
    "sm3": _SCALARS,
    "contrib.scale_by_muon": _SCALARS,
    "contrib.differentially_private_aggregate": "expects `grads` to have a batch dimension",
    "contrib.dpsgd": "expects `grads` to have a batch dimension",
    "contrib.sophia": "obj_fn must be provided",
    "scale_by_sm3": _SCALARS,
}
"""Optimizers that a step cannot use, and the error message for each."""

QUICK = {"adam", "polyak_sgd", "lbfgs", "inject_hyperparams", "contrib.prodigy", "contrib.dog"}


def factories():
    """Returns name -> factory for all public functions documented to return a transformation."""
    found = {}
    for prefix, module in (("", optax), ("contrib.", optax.contrib)):
        for name, function in vars(module).items():
            if name.startswith("_") or not inspect.isfunction(function):
                continue
            if "GradientTransformation" in str(inspect.signature(function).return_annotation):
                found[prefix + name] = function
    return found


def build(name, factory):
    if name in SPECIAL:
        return SPECIAL[name]()
    needed = [
        parameter.name
        for parameter in inspect.signature(factory).parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    return factory(**{name: GIVEN[name] for name in needed})


FACTORIES = factories() | dict.fromkeys(SPECIAL)


def small_gan():
    """D has a matrix, a vector and a scalar as parameters."""

    def init(key, x, label=None):
        w = jax.random.normal(key, (2, 2))
        return {"w": w, "b": jnp.zeros(2), "s": jnp.ones(())}, {}

    def judge(params, model_state, x, label=None, *, train, key=None):
        y = params["s"] * jnp.tanh(x @ params["w"] + params["b"][None])
        return jnp.sum(y, axis=1), model_state

    def generate(params, model_state, z, label=None, *, train, key=None):
        return z @ params["w"], model_state

    return GAN(Network(init, generate), Network(init, judge), priors.normal(2))


def trained(tx, donate):
    """Returns D's parameters after three steps, compiled in one program."""
    gan, batch = small_gan(), Batch(jax.random.normal(jax.random.key(1), (4, 2)) + 1)
    state = gan_jax.init(gan, SGD, tx, jax.random.key(0), batch)
    step = gan_jax.make_discriminator_step(gan, losses.non_saturating, tx)
    step = jax.jit(step, donate_argnums=0 if donate else ())
    for _ in range(3):
        state, _ = step(state, batch)
    return state.discriminator.params


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in FACTORIES],
)
def test_it_trains_donated_as_undonated_or_is_refused(name):
    with jax.numpy_rank_promotion("allow"):  # as Optax's own code needs
        check(name, build(name, FACTORIES[name]))


def check(name, tx):
    if name in REFUSED:
        with pytest.raises((ValueError, IndexError), match=REFUSED[name]):
            trained(tx, donate=True)
        return
    made, expected = trained(tx, donate=True), trained(tx, donate=False)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), made, expected
    )
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(made))
