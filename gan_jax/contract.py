"""Checks of the shapes and types of arguments.

The checks run while a function is traced, so a compiled step spends no time on them. Most checks
raise chex's AssertionError. An object of a wrong class raises TypeError. Each message names the
argument, the value and the remedy.
"""

import dataclasses
import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from gan_jax.trees import at_least_single, widened
from gan_jax.types import GAN, AdversarialLoss, Array, Batch, Critic, Output, PyTree, WithMemory

_P = ParamSpec("_P")
_R = TypeVar("_R")


def num_examples(x: PyTree) -> int:
    """Returns B, the length of the first axis of the tree's arrays [B, ...]."""
    return int(jnp.shape(jax.tree.leaves(x)[0])[0])


def check_gan(gan: GAN) -> None:
    """Raises TypeError unless `gan` is a `GAN` of two `Network`s and a prior."""
    if not isinstance(gan, GAN):
        raise TypeError(
            f"gan must be a gan_jax.GAN(generator, discriminator, prior), got {_kind(gan)}"
        )
    for name in ("generator", "discriminator"):
        network = getattr(gan, name)
        is_pair = hasattr(network, "init") and hasattr(network, "apply")
        if not is_pair or isinstance(network, nn.Module):
            raise TypeError(
                f"gan.{name} must be a gan_jax.Network(init, apply), got {_kind(network)}: wrap a "
                "Flax module with gan_jax.from_linen"
            )
    if not callable(gan.prior):
        raise TypeError(
            f"gan.prior must be a function (key, num) -> z [num, ...], got {_kind(gan.prior)}: "
            "gan_jax.priors.normal(dim) makes one"
        )


def check_loss(loss: AdversarialLoss) -> None:
    """Raises TypeError unless `loss` is an `AdversarialLoss`."""
    if not isinstance(loss, AdversarialLoss):
        raise TypeError(
            f"loss must be a gan_jax.AdversarialLoss, such as gan_jax.losses.hinge, got "
            f"{_kind(loss)}"
        )


def check_tx(tx: optax.GradientTransformation, name: str = "tx") -> None:
    """Raises TypeError unless `tx` is an optimizer."""
    if not isinstance(tx, optax.GradientTransformation):
        raise TypeError(
            f"{name} must be an optax optimizer, such as optax.adam(2e-4), got {_kind(tx)}"
        )


def check_weighted(pairs: Any, name: str) -> None:
    """Raises TypeError unless `pairs` is a sequence of (penalty or term, weight) pairs."""
    for pair in pairs if isinstance(pairs, list | tuple) else [pairs]:
        if (
            not isinstance(pair, tuple | list)
            or len(pair) != 2
            or not (callable(pair[0]) or isinstance(pair[0], WithMemory))
        ):
            raise TypeError(
                f"{name} must be pairs of a function and its weight, such as "
                f"[(gan_jax.penalties.r1, 0.5)], got {_kind(pair)} among them"
            )
        if callable(pair[0]):
            _check_parameters(pair[0], name)


def _check_parameters(function: Callable[..., Any], name: str) -> None:
    """Raises TypeError if a penalty or a term cannot be called with its arguments."""
    given = ("critic", "real", "fake", "key") if name == "penalties" else ("seen",)
    try:
        inspect.signature(function).bind(*given)
    except TypeError:
        raise TypeError(
            f"{name} holds {_kind(function)}, which cannot be called with ({', '.join(given)}). "
            f"If it returns the function to use, call it: {_kind(function)}()"
        ) from None
    except ValueError:  # a callable without a signature
        pass


def _kind(value: Any) -> str:
    name = getattr(value, "__name__", None) or type(value).__name__
    return repr(value) if isinstance(value, str | float | int | None) else f"{name}"


def check_batch(batch: Batch) -> None:
    """Raises AssertionError unless x has float leaves and all arrays of x and label have length B.

    Raises:
      TypeError: `batch` is not a `Batch`.
    """
    if not isinstance(batch, Batch):
        raise TypeError(f"batch must be a gan_jax.Batch(x, label), got {_kind(batch)}")
    for path, leaf in jax.tree.leaves_with_path(batch.x):
        name = f"batch.x{jax.tree_util.keystr(path)}"
        _assert_floating(
            leaf, name, "scale images to [-1, 1], such as by gan_jax.data.pipeline.dequantize"
        )
    num = num_examples(batch.x)
    for leaf in jax.tree.leaves(batch.x):
        chex.assert_shape(
            leaf,
            (num, ...),
            custom_message=f"the arrays of batch.x have shapes {_shapes(batch.x)}: give "
            "all of them the same number of examples",
        )
    for leaf in jax.tree.leaves(batch.label):
        chex.assert_shape(
            leaf,
            (num, ...),
            custom_message=f"batch.label has shape {_shapes(batch.label)} for batch.x of shape "
            f"{_shapes(batch.x)}: give one label for each example",
        )


def check_made_like(made: PyTree, x: PyTree) -> None:
    """Raises ValueError unless G's samples have the structure of x and the shapes of its examples.

    Both arguments are trees of arrays [B, ...].
    """
    of_made, of_x = (jax.tree.map(lambda leaf: jnp.shape(leaf)[1:], tree) for tree in (made, x))
    if jax.tree.flatten(of_made) != jax.tree.flatten(of_x):  # some nodes have no ==
        raise ValueError(
            f"batch.x has shape {_shapes(x)}, but the generator makes samples of shape {of_made}: "
            "build the GAN for the shape of the data. init and an update of one player take "
            "[B, ...], and an alternating step takes [n_critic, B, ...]"
        )


def check_output(output: Any, num: int, maker: str) -> Output:
    """Returns D's output for `num` examples as an `Output` with logits and heads in at least
    float32.

    Raises:
      AssertionError: the logits are not floating, or their shape is not [num] or [num, ...].
    """
    output = output if isinstance(output, Output) else Output(output)
    _assert_floating(output.logits, f"the result of {maker}", "return floats")
    chex.assert_shape(
        output.logits,
        (num, ...),
        custom_message=f"{maker} returned shape {jnp.shape(output.logits)} for a batch of {num}: "
        f"it must return one logit for each example, shape ({num},), or a map of logits for each, "
        f"shape ({num}, ...), without a mean over the batch",
    )
    return Output(at_least_single(output.logits), widened(dict(output.heads)))


def check_logits(real_logits: Array, fake_logits: Array) -> None:
    """Raises AssertionError unless both are float arrays of the same shape [B]."""
    for name, logits in (("real_logits", real_logits), ("fake_logits", fake_logits)):
        _assert_floating(logits, name, "give D's logits as floats")
        chex.assert_rank(
            logits,
            1,
            custom_message=f"{name} must be [B], one logit for each example, got shape "
            f"{jnp.shape(logits)}: drop the other axes, such as by logits[:, 0]",
        )
    chex.assert_equal_shape(
        [real_logits, fake_logits],
        custom_message=f"real_logits has shape {jnp.shape(real_logits)} and fake_logits "
        f"{jnp.shape(fake_logits)}: give as many real examples as fakes",
    )


def check_samples(real: PyTree, fake: PyTree) -> None:
    """Raises AssertionError unless both trees have float leaves of the same shapes [B, ...]."""
    for name, samples in (("real", real), ("fake", fake)):
        for leaf in jax.tree.leaves(samples):
            _assert_floating(leaf, name, "convert the samples to the floats that D receives")
    chex.assert_trees_all_equal_shapes(
        real,
        fake,
        custom_message=f"real has shape {_shapes(real)} and fake {_shapes(fake)}: give as "
        "many real examples as fakes, all of one shape",
    )


def _shapes(tree: PyTree) -> PyTree:
    return jax.tree.map(jnp.shape, tree)


def one_each(values: Array, num: int, maker: str) -> Array:
    """Returns `values` [num] in at least float32.

    `maker` is the name of the function that returned the values for a batch of `num` examples.

    Raises:
      AssertionError: the values are not floating, or their shape is not [num].
    """
    _assert_floating(values, f"the result of {maker}", "return floats")
    chex.assert_shape(
        values,
        (num,),
        custom_message=f"{maker} returned shape {jnp.shape(values)} for a batch of {num}: it must "
        f"return one number for each example, shape ({num},), without axes of length 1 and "
        "without a mean over the batch",
    )
    return at_least_single(values)


def _assert_floating(x: Any, name: str, remedy: str) -> None:
    chex.assert_type(
        x, float, custom_message=f"{name} must be floating, got {jnp.result_type(x)}: {remedy}"
    )


@dataclasses.dataclass(frozen=True)
class CheckedCritic:
    """A critic that raises AssertionError unless it returns one logit for each example."""

    critic: Critic

    def __call__(self, x: PyTree) -> Array:
        """Maps x [B, ...] to logits [B] in at least float32."""
        return one_each(self.critic(x), num_examples(x), "the critic")

    @property
    def on_fake(self) -> "CheckedCritic":
        """Returns the critic to call on fake samples.

        It passes the labels of the fakes to a conditional D.
        """
        return CheckedCritic(getattr(self.critic, "on_fake", self.critic))


def checked(
    penalty: Callable[Concatenate[CheckedCritic, PyTree, PyTree, Array, _P], _R],
) -> Callable[Concatenate[Critic, PyTree, PyTree, Array, _P], _R]:
    """Returns the penalty with checks of the shapes of the samples and of the critic's logits."""

    @wraps(penalty)
    def call(
        critic: Critic,
        real: PyTree,
        fake: PyTree,
        key: Array,
        *args: _P.args,
        **options: _P.kwargs,
    ) -> _R:
        check_samples(real, fake)
        return penalty(CheckedCritic(critic), real, fake, key, *args, **options)

    return call  # type: ignore[return-value]  # mypy does not see that the critic is wrapped
