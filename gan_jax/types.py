"""The contract: what a network, a GAN, a loss, a state and a step are, with their shapes.

A GAN is two pure networks and a prior. A training step is a pure function
`(TrainState, Batch) -> (TrainState, Metrics)`, the carry signature of `lax.scan`, so that
`jit`, `scan`, `vmap`, `pmap`, `shard_map` and `grad` all apply to it as it stands.

Shapes: B examples in a batch, L latent dimensions, `...` the shape of one example
([H, W, C] for images, float in [-1, 1]).
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import flax.struct
import jax

Array: TypeAlias = jax.Array
PyTree: TypeAlias = Any
AxisName: TypeAlias = str | tuple[str, ...]
Metrics: TypeAlias = dict[str, Array]


class Network(NamedTuple):
    """A neural network as two pure functions. Any such pair will do, with Flax or without.

    Attributes:
      init: `(key, x, label=None) -> (params, model_state)`, `x` an example batch.
      apply: `(params, model_state, x, label=None, *, train, key=None) -> (y, model_state)`.
        `model_state` holds what gradients do not train, such as running statistics;
        `key` is a single key for what is random, such as dropout.
    """

    init: Callable[..., tuple[PyTree, PyTree]]
    apply: Callable[..., tuple[Array, PyTree]]


class GAN(NamedTuple):
    """Two players and the noise that feeds one of them.

    Attributes:
      generator: a network z [B, L] -> x [B, ...].
      discriminator: a network x [B, ...] -> logits [B]. D(x) = sigmoid(logit): the network
        itself never ends in a sigmoid.
      prior: `(key, num) -> z [num, L]`, the draw z ~ p_z.
    """

    generator: Network
    discriminator: Network
    prior: Callable[[Array, int], Array]


class Batch(NamedTuple):
    """Real samples x ~ p_data.

    `init` and the steps raise AssertionError if x is not floating or the number of labels is not B.
    They do not check values: images must be scaled, and labels be in range.

    Attributes:
      x: [B, ...], floating; images in [-1, 1], NHWC. `gan_jax.data.pipeline.dequantize` converts
        uint8 images in [0, 255].
      label: [B] integers in [0, the number of classes), or None. `flax.linen.Embed` returns NaN for
        a label out of range, so that all parameters are NaN after one step.
    """

    x: Array
    label: Array | None = None


class AdversarialLoss(NamedTuple):
    """What each player minimises, example by example.

    Both fields are `(real_logits [B], fake_logits [B]) -> [B]`: relativistic losses compare
    the two, so both players are given both.
    """

    discriminator: Callable[[Array, Array], Array]
    generator: Callable[[Array, Array], Array]


Critic: TypeAlias = Callable[[Array], Array]
"""x [B, ...] -> logits [B]: the discriminator with its parameters filled in."""

Penalty: TypeAlias = Callable[[Critic, Array, Array, Array], Array]
"""`(critic, real [B, ...], fake [B, ...], key) -> [B]`, added to D's loss with a weight."""


class PenaltyWithMemory(NamedTuple):
    """A penalty that carries something from one update of D to the next.

    Attributes:
      init: `() -> memory`, arrays, floating or counters: what it remembers before the first
        update, kept in `PlayerState.memory`.
      apply: `(critic, real [B, ...], fake [B, ...], key, memory) -> ([B], memory)`. Every shard
        and every part of a batch is given the same memory, and what they return is averaged: a
        mean over the batch comes out as that of the whole.
      name: in the state's memory and in the metrics.
    """

    init: Callable[[], PyTree]
    apply: Callable[[Critic, Array, Array, Array, PyTree], tuple[Array, PyTree]]
    name: str


Weight: TypeAlias = float | Array | Callable[[Array], float | Array]
"""A number; an array, such as a traced hyper-parameter; or a schedule, `step [] -> []`, of the
number of updates the player has made before this one, as those of optax are."""

WeightedPenalty: TypeAlias = tuple[Penalty | PenaltyWithMemory, Weight]


@flax.struct.dataclass
class PlayerState:
    """One player.

    Attributes:
      step: [] int32, the number of updates this player has made.
      params, model_state: as its `Network` made them.
      opt_state: as its `optax.GradientTransformation` made it.
      memory: what its penalties remember, by their names.
    """

    step: Array
    params: PyTree
    model_state: PyTree
    opt_state: PyTree
    memory: dict[str, PyTree] = flax.struct.field(default_factory=dict)


@flax.struct.dataclass
class TrainState:
    """The whole of training: arrays only.

    Attributes:
      key: a key that never changes. Each draw folds in the role, the player's step and the
        example's index in the global batch, so that a resumed run repeats the uninterrupted
        one and no result depends on the number of devices.
      generator, discriminator: the players.
      ema_params: the exponential moving average of the generator's parameters.
    """

    key: Array
    generator: PlayerState
    discriminator: PlayerState
    ema_params: PyTree


StepFn: TypeAlias = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
