"""The contract: what a network, a GAN, a loss, a term, a state and a step are, with their shapes.

A GAN is two pure networks and a prior. A training step is a pure function
`(TrainState, Batch) -> (TrainState, Metrics)`, the carry signature of `lax.scan`, so that
`jit`, `scan`, `vmap`, `pmap`, `shard_map` and `grad` all apply to it as it stands.

Shapes: B examples in a batch, L latent dimensions, `...` the shape of one example
([H, W, C] for images, float in [-1, 1]). Samples, latents and labels may be trees of arrays
[B, ...].
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, TypeAlias

import flax.struct
import jax

Array: TypeAlias = jax.Array
PyTree: TypeAlias = Any
AxisName: TypeAlias = str | tuple[str, ...]
Metrics: TypeAlias = dict[str, Array]


class Init(Protocol):
    """`Network.init`."""

    def __call__(
        self, key: Array, x: PyTree, label: PyTree | None = None, /
    ) -> tuple[PyTree, PyTree]:
        """The first parameters and model state, for inputs like the example batch x [B, ...]."""


class Apply(Protocol):
    """`Network.apply`."""

    def __call__(
        self,
        params: PyTree,
        model_state: PyTree,
        x: PyTree,
        label: PyTree | None = None,
        /,
        *,
        train: bool,
        key: Array | None = None,
    ) -> tuple[Any, PyTree]:
        """The network's output for x [B, ...], and its model state after the pass."""


class Network(NamedTuple):
    """A neural network as two pure functions. Any such pair will do, with Flax or without.

    Attributes:
      init: `(key, x, label=None) -> (params, model_state)`, `x` an example batch.
      apply: `(params, model_state, x, label=None, *, train, key=None) -> (y, model_state)`.
        `model_state` holds what gradients do not train, such as running statistics;
        `key` is a single key for what is random, such as dropout.
    """

    init: Init
    apply: Apply


class Output(NamedTuple):
    """What D may return in place of bare logits.

    Attributes:
      logits: [B], or [B, ...], such as the map [B, h, w] of a PatchGAN: losses and penalties take
        its mean.
      heads: further outputs by their names, trees of arrays [B, ...], for terms to read: class
        logits, features, the posterior of a code.
    """

    logits: Array
    heads: Mapping[str, PyTree] = {}


class GAN(NamedTuple):
    """Two players and the noise that feeds one of them.

    Attributes:
      generator: a network z [B, L] -> x [B, ...].
      discriminator: a network x [B, ...] -> logits [B], or an `Output`. D(x) = sigmoid(logit): the
        network itself never ends in a sigmoid.
      prior: `(key, num) -> z [num, L]`, the draw z ~ p_z.
    """

    generator: Network
    discriminator: Network
    prior: Callable[[Array, int], PyTree]


class Batch(NamedTuple):
    """Real samples x ~ p_data.

    `init` and the steps raise AssertionError if x is not floating or the number of labels is not B.
    They do not check values: images must be scaled, and labels be in range.

    Attributes:
      x: [B, ...], floating; images in [-1, 1], NHWC. `gan_jax.data.pipeline.dequantize` converts
        uint8 images in [0, 255].
      label: [B] integers in [0, the number of classes); any tree of arrays [B, ...] to condition
        on, such as an image to translate; or None. `flax.linen.Embed` returns NaN for a label out
        of range, so that all parameters are NaN after one step.
    """

    x: PyTree
    label: PyTree | None = None


class AdversarialLoss(NamedTuple):
    """What each player minimises, example by example.

    Both fields are `(real_logits [B], fake_logits [B]) -> [B]`: relativistic losses compare
    the two, so both players are given both.
    """

    discriminator: Callable[[Array, Array], Array]
    generator: Callable[[Array, Array], Array]


Critic: TypeAlias = Callable[[PyTree], Array]
"""x [B, ...] -> logits [B]: the discriminator with its parameters and labels filled in."""

Penalty: TypeAlias = Callable[[Critic, PyTree, PyTree, Array], Array]
"""`(critic, real [B, ...], fake [B, ...], key) -> [B]`, added to D's loss with a weight."""


@dataclasses.dataclass(frozen=True)
class Bound:
    """A network in training mode with its parameters, model state and key filled in."""

    apply: Apply
    params: PyTree
    model_state: PyTree
    key: Array

    def __call__(self, x: PyTree, label: PyTree | None = None, key: Array | None = None) -> Any:
        """The network's output for x [B, ...]. A key of None: the one filled in."""
        key = self.key if key is None else key
        return self.apply(self.params, self.model_state, x, label, train=True, key=key)[0]


class Pass(NamedTuple):
    """All that a term may read: the same in D's update and in G's.

    Attributes:
      real, fake: samples [B, ...]. In G's update fake depends on G's parameters.
      z: the latents [B, L] that the fakes were made from.
      real_label, fake_label: the labels of each, or None.
      real_output, fake_output: what D returned for each; logits and heads are float32 at least.
      generator: G, `(z, label=None, key=None) -> x`.
      discriminator: D with the augmentation before it, `(x, label=None, key=None) -> Output`.
      step: [] int32, the number of updates the player has made.
      key: a single key, for this term's draws.
    """

    real: PyTree
    fake: PyTree
    z: PyTree
    real_label: PyTree | None
    fake_label: PyTree | None
    real_output: Output
    fake_output: Output
    generator: Bound
    discriminator: Bound
    step: Array
    key: Array


Term: TypeAlias = Callable[[Pass], Array]
"""`(Pass) -> [B]`, added to either player's loss with a weight."""


class WithMemory(NamedTuple):
    """A penalty or a term that carries something from one update of its player to the next.

    Attributes:
      init: `() -> memory`, arrays, floating or counters: what it remembers before the first
        update, kept in `PlayerState.memory`.
      apply: the penalty or the term with the memory as one more argument, which returns
        `([B], memory)`. Every shard and every microbatch is given the same memory, and what they
        return is averaged: a mean over the batch comes out as that of the whole.
      name: in the state's memory and in the metrics.
    """

    init: Callable[[], PyTree]
    apply: Callable[..., tuple[Array, PyTree]]
    name: str


Augment: TypeAlias = Callable[[Array, PyTree], PyTree]
"""`(key, x [...]) -> x [...]`, a random change of one example."""


class Augmentation(NamedTuple):
    """A random change of samples in front of D that follows a schedule or D itself.

    Attributes:
      init: `() -> memory`, as of `WithMemory`: kept in D's memory, under "augmentation".
      apply: `(key, x [...], memory, step) -> x [...]`, of one example; `step` [] int32 is the
        number of updates D has made.
      update: `(memory, real_output) -> memory`, once in each update of D, from what D returned for
        the real samples.
    """

    init: Callable[[], PyTree]
    apply: Callable[[Array, PyTree, PyTree, Array], PyTree]
    update: Callable[[PyTree, Output], PyTree]


Weight: TypeAlias = float | Array | Callable[[Array], float | Array]
"""A number; an array, such as a traced hyper-parameter; or a schedule, `step [] -> []`, of the
number of updates the player has made before this one, as those of optax are."""

WeightedPenalty: TypeAlias = tuple[Penalty | WithMemory, Weight]
WeightedTerm: TypeAlias = tuple[Term | WithMemory, Weight]


@flax.struct.dataclass
class PlayerState:
    """One player.

    Attributes:
      step: [] int32, the number of updates this player has made.
      params, model_state: as its `Network` made them.
      opt_state: as its `optax.GradientTransformation` made it.
      memory: what its penalties and terms remember, by their names.
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
      ema_params, ema_model_state: the exponential moving averages of the generator's parameters
        and of its model state, such as running statistics.
    """

    key: Array
    generator: PlayerState
    discriminator: PlayerState
    ema_params: PyTree
    ema_model_state: PyTree = flax.struct.field(default_factory=dict)


StepFn: TypeAlias = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


class Algorithm(NamedTuple):
    """A GAN bound to a loss, optimizers and terms: a way to train it.

    Attributes:
      init: `(key, batch [B, ...]) -> state`, the batch read for its shapes and types only.
      step: `(state, batch [n_critic, B, ...]) -> (state, metrics)`, one step of training.
      discriminator_step, generator_step: `(state, batch [B, ...]) -> (state, metrics)`, one update
        of a player.
      sample: `(state, key, num, label=None, *, ema=True) -> x [num, ...]`.
      generate: `(state, z, label=None, *, key=None, ema=True) -> x [B, ...]`, of your own latents.
    """

    init: Callable[[Array, Batch], TrainState]
    step: StepFn
    discriminator_step: StepFn
    generator_step: StepFn
    sample: Callable[..., PyTree]
    generate: Callable[..., PyTree]
