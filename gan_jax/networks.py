"""From a neural network library's module to a `Network`, and from one `Network` to another."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp

from gan_jax.keys import per_example
from gan_jax.types import GAN, Array, AxisName, Network, PyTree

Apply: TypeAlias = Callable[..., tuple[Array, PyTree]]
"""`Network.apply`."""


_MODES = {
    **dict.fromkeys(("train", "training", "is_training"), True),
    **dict.fromkeys(("deterministic", "use_running_average"), False),
}
"""Names of the mode argument in Linen modules, each with its value in training."""


def from_linen(module: nn.Module, *, label: str | None = "label") -> Network:
    """The pure functions of a Flax Linen module.

    The module is called as `module(x)`, with further arguments if its `__call__` names them: the
    labels, if the batch has any; `train`, `training` and `is_training`, true in training;
    `deterministic` and `use_running_average`, true in evaluation. Nothing is passed to a catch-all
    `**kwargs`. A module that names no further argument ignores labels. Every collection but
    `params` is `model_state`. All its random draws come from the step's key.

    `nn.Dropout` draws one mask for the batch it sees, so under a mapped axis every shard would
    repeat that mask: `gan_jax.models.layers.Dropout` draws by the global index instead. Give
    `nn.BatchNorm` its own `axis_name`. `nn.Embed` returns NaN for a label that is out of range.

    Args:
      module: any; x is its first argument.
      label: the name of the argument that takes the labels. None: labels are ignored.

    Raises:
      ValueError: `label` is not the default and names no argument of the module; (on a call) the
        batch has labels, and the module has no argument `label`, but another that may be meant for
        them.
    """
    called = f"{type(module).__name__}.__call__"
    _, _, *further = inspect.signature(type(module).__call__).parameters.values()
    names = [a.name for a in further if a.kind in (a.POSITIONAL_OR_KEYWORD, a.KEYWORD_ONLY)]
    shown = [str(a.replace(annotation=a.empty)) for a in further if a.name not in _MODES]
    if label not in (None, "label", *names):
        raise ValueError(
            f"label must be the name of an argument of {called}, got {label!r}: besides its input "
            f"and the mode it has {', '.join(shown) or 'none'}"
        )

    def accepted(labels: Array | None, train: bool) -> dict[str, Any]:
        given: dict[str, Any] = {
            name: train == in_training for name, in_training in _MODES.items() if name in names
        }
        if labels is None or label is None:
            return given
        if label in names:
            return {**given, label: labels}
        if shown:
            raise ValueError(
                f"the batch has labels, but {called} has no argument 'label', and nothing is given "
                f"to {', '.join(shown)}: name the argument that takes the labels, "
                "from_linen(module, label=...), or ignore labels, from_linen(module, label=None)"
            )
        return given

    def init(key: Array, x: Array, label: Array | None = None) -> tuple[PyTree, PyTree]:
        variables = dict(module.init(key, x, **accepted(label, train=True)))
        params = variables.pop("params", {})
        return params, variables

    def apply(
        params: PyTree,
        model_state: PyTree,
        x: Array,
        label: Array | None = None,
        *,
        train: bool,
        key: Array | None = None,
    ) -> tuple[Array, PyTree]:
        y, updated = module.apply(
            {"params": params, **model_state},
            x,
            **accepted(label, train=train),
            # Linen falls back on the stream "params" for every stream that is not named.
            rngs=None if key is None else {"params": key},
            mutable=list(model_state) if train else [],
        )
        return y, {**model_state, **updated}

    return Network(init, apply)


def mixed_precision(gan: GAN, dtype: Any = jnp.bfloat16) -> GAN:
    """The same GAN, its networks computing in another type.

    Each call casts its parameters, its input and its floating labels to `dtype`, and the result to
    float32. Parameters, optimizer states and gradients, running statistics, logits and losses stay
    in float32 (Micikevicius et al. 2018); bfloat16 has float32's range, and needs no loss scale.

    Args:
      gan: any.
      dtype: a floating type: bfloat16 is what TPUs and recent GPUs multiply fastest.
    """

    def cast(tree: PyTree, to: Any) -> PyTree:
        return jax.tree.map(
            lambda leaf: leaf.astype(to) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, tree
        )

    def lower(apply: Apply) -> Apply:
        def lowered(
            params: PyTree,
            model_state: PyTree,
            x: PyTree,
            label: PyTree | None = None,
            **options: Any,
        ) -> tuple[Array, PyTree]:
            params, x, label = cast((params, x, label), dtype)
            y, updated = apply(params, model_state, x, label, **options)
            # A network may hand its statistics back in the type of its activations.
            kept = jax.tree.map(lambda new, old: new.astype(old.dtype), updated, model_state)
            return cast(y, jnp.float32), kept

        return lowered

    return _with_apply(gan, lower)


def rematerialised(gan: GAN) -> GAN:
    """The same GAN, its networks' activations computed again for gradients rather than kept.

    For memory: D's activations on real and on fake images, G's and D's, are then never held at
    the same time; for about a third more computing (Chen et al. 2016). Results are the same.
    XLA's compiler for CPUs sees through it, and keeps them after all.
    """

    def forget(apply: Apply) -> Apply:
        def forgetful(*arguments: Any, train: bool, **options: Any) -> tuple[Array, PyTree]:
            # `train` is no array: it decides what is computed.
            return jax.checkpoint(partial(apply, train=train))(*arguments, **options)

        return forgetful

    return _with_apply(gan, forget)


Scale: TypeAlias = float | Array | Callable[[Array, Array], Array]
"""The noise's scale: a number, an array [], or a function `(key, passes) -> []` that is called with
the key of each example. `passes` [] int32 is the number of D's training passes before this one.
Each microbatch of each update makes two."""


def instance_noise(gan: GAN, scale: Scale, *, axis_name: AxisName | None = None) -> GAN:
    """The same GAN, its D shown real and fake samples with Gaussian noise added in training.

    Where the two distributions hardly overlap, noise makes them: D's slope then says where to go
    (Sonderby et al. 2017, section 3; Arjovsky and Bottou 2017). The solution stays p = q at any
    scale, but what is finer than the noise is learned slowly: let it fall, or use `mixed_scales`.

    Args:
      gan: any.
      scale: the standard deviation.
      axis_name: the mapped axis, if any, that the batch is split over.

    Returns:
      A GAN with the same parameters. D's model state is {"network": that of the given D, "passes":
      [] int32}.

    Raises:
      ValueError: `scale` is a number below 0; (on a call) training without a key.
    """
    if isinstance(scale, float | int) and scale < 0:
        raise ValueError(f"scale must be at least 0, got {scale}")
    network = gan.discriminator

    def init(key: Array, x: Array, label: Array | None = None) -> tuple[PyTree, PyTree]:
        params, model_state = network.init(key, x, label)
        # A float32 would stop counting at 2^24.
        return params, {"network": model_state, "passes": jnp.zeros((), jnp.int32)}

    def noisy(x: Array, key: Array, passes: Array) -> Array:
        """Of one example."""
        key_scale, key_noise = jax.random.split(key)
        factor = scale(key_scale, passes) if callable(scale) else scale
        return x + jnp.asarray(factor, x.dtype) * jax.random.normal(key_noise, x.shape, x.dtype)

    def apply(
        params: PyTree,
        model_state: PyTree,
        x: Array,
        label: Array | None = None,
        *,
        train: bool,
        key: Array | None = None,
    ) -> tuple[Array, PyTree]:
        passes = model_state["passes"]
        if train:
            if key is None:
                raise ValueError("instance_noise draws in training: give apply a key")
            key, key_noise = jax.random.split(key)
            keys = per_example(key_noise, x, axis_name)
            x = jax.vmap(noisy, in_axes=(0, 0, None))(x, keys, passes)
            passes = passes + 1
        y, inner = network.apply(params, model_state["network"], x, label, train=train, key=key)
        return y, {"network": inner, "passes": passes}

    return gan._replace(discriminator=Network(init, apply))


def mixed_scales(highest: float | Array, *, share: float = 0.5) -> Callable[[Array, Array], Array]:
    """Noise of all scales up to the highest, on a share of the examples; none on the others.

    With D seeing every scale at once nothing needs to be annealed, as in Diffusion-GAN (Wang et
    al. 2023). Wide noise joins distant modes: only through it does a mode that is drawn too often
    feel those that are drawn too seldom.

    Args:
      highest: the scale is uniform in [0, highest].
      share: of examples that are given noise, in [0, 1].

    Returns:
      What `instance_noise` takes as its scale.

    Raises:
      ValueError: `share` outside of [0, 1].
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share must be in [0, 1], got {share}")

    def draw(key: Array, passes: Array) -> Array:
        key_share, key_scale = jax.random.split(key)
        some = jax.random.bernoulli(key_share, share)
        return jnp.where(some, highest * jax.random.uniform(key_scale), 0.0)

    return draw


def _with_apply(gan: GAN, change: Callable[[Apply], Apply]) -> GAN:
    """The GAN with `apply` of both networks changed."""
    generator, discriminator = (
        network._replace(apply=change(network.apply))
        for network in (gan.generator, gan.discriminator)
    )
    return gan._replace(generator=generator, discriminator=discriminator)
