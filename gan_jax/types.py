"""Types of networks, GANs, losses, terms, states and steps, with their shapes.

A GAN is two pure networks and a prior. A training step is a pure function `(TrainState, Batch) ->
(TrainState, Metrics)`. `lax.scan` runs functions with this signature in a loop. `jit`, `vmap`,
`pmap`, `shard_map` and `grad` also apply to a step directly.

Shapes: B is the number of examples in a batch, L the number of latent dimensions, and `...` the
shape of one example. Images are [H, W, C] floats in [-1, 1]. Samples, latents and labels may be
trees of arrays [B, ...].
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
"""Scalars [] by name."""


class Init(Protocol):
    """The type of `Network.init`."""

    def __call__(
        self, key: Array, x: PyTree, label: PyTree | None = None, /
    ) -> tuple[PyTree, PyTree]:
        """Returns the initial parameters and model state for inputs shaped like x [B, ...]."""


class Apply(Protocol):
    """The type of `Network.apply`."""

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
        """Returns a pair: the network's output for x [B, ...], and the model state after the
        pass."""


class Network(NamedTuple):
    """A neural network as two pure functions. The functions need not come from Flax.

    Attributes:
      init: `(key, x, label=None) -> (params, model_state)`, where `x` is an example batch.
      apply: `(params, model_state, x, label=None, *, train, key=None) -> (y, model_state)`.
        `model_state` holds values that are not trained by gradients, such as running statistics.
        `key` is a single key for random layers, such as dropout.
    """

    init: Init
    apply: Apply


class Output(NamedTuple):
    """The output of a discriminator that returns more than logits.

    Attributes:
      logits: [B], or a map [B, ...] such as the [B, h, w] of a PatchGAN. Losses and penalties use
        the mean of a map.
      heads: further outputs by name, such as class logits or features. Each is a tree of arrays
        [B, ...]. Terms can read these outputs.
    """

    logits: Array
    heads: Mapping[str, PyTree] = {}


class GAN(NamedTuple):
    """Two networks and a prior.

    Attributes:
      generator: a network z [B, L] -> x [B, ...].
      discriminator: a network x [B, ...] -> logits [B], or an `Output`. D(x) = sigmoid(logit), so
        the network itself must not end in a sigmoid.
      prior: `(key, num) -> z [num, L]`, which draws z ~ p_z.
    """

    generator: Network
    discriminator: Network
    prior: Callable[[Array, int], PyTree]


class Batch(NamedTuple):
    """A batch of real samples x ~ p_data, with their labels if there are any.

    `init` and the steps raise AssertionError if x is not floating or the number of labels is not B.
    They do not check the values. Scale images and keep labels in range before you make a batch.

    Attributes:
      x: [B, ...], floating. Images are NHWC in [-1, 1]: `gan_jax.data.pipeline.dequantize` converts
        uint8 images in [0, 255].
      label: None, or integers [B] in [0, number of classes), or any tree of arrays [B, ...] that
        both networks receive as a condition, such as images to translate. `flax.linen.Embed`
        returns NaN for an integer that is out of range, and all parameters are then NaN after one
        step.
    """

    x: PyTree
    label: PyTree | None = None


class AdversarialLoss(NamedTuple):
    """The loss of each player, per example.

    Attributes:
      discriminator, generator: `(real_logits [B], fake_logits [B]) -> [B]`, the loss that the
        player minimises. Both receive both logits because relativistic losses compare the two.
    """

    discriminator: Callable[[Array, Array], Array]
    generator: Callable[[Array, Array], Array]


Critic: TypeAlias = Callable[[PyTree], Array]
"""x [B, ...] -> logits [B]: the discriminator with its parameters and labels filled in."""

Penalty: TypeAlias = Callable[[Critic, PyTree, PyTree, Array], Array]
"""`(critic, real [B, ...], fake [B, ...], key) -> [B]`, added to D's loss with a weight."""


@dataclasses.dataclass(frozen=True)
class Bound:
    """A network in training mode with its parameters, model state and key filled in.

    Attributes:
      apply: `Network.apply`.
      params, model_state, key: the arguments that are filled in.
    """

    apply: Apply
    params: PyTree
    model_state: PyTree
    key: Array

    def __call__(self, x: PyTree, label: PyTree | None = None, key: Array | None = None) -> Any:
        """Returns the network's output for x [B, ...].

        `key` replaces the key that was filled in.
        """
        key = self.key if key is None else key
        return self.apply(self.params, self.model_state, x, label, train=True, key=key)[0]


class Pass(NamedTuple):
    """The values that a term can read. D's update and G's update provide the same fields.

    Attributes:
      real, fake: samples [B, ...]. In G's update, gradients pass through `fake` to G's parameters.
      z: the latents [B, L] of the fakes.
      real_label, fake_label: the labels of real and fake, or None.
      real_output, fake_output: D's outputs for real and fake. Logits and heads are at least
        float32.
      generator: G as a function `(z, label=None, key=None) -> x`.
      discriminator: D as a function `(x, label=None, key=None) -> Output`, which first augments x.
      step: [] int32, the number of updates this player has made.
      key: a single key for the random draws of this term.
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
"""`(Pass) -> [B]`, added to the loss of either player with a weight."""


class WithMemory(NamedTuple):
    """A penalty or a term with a state of its own, called its memory.

    Attributes:
      init: `() -> memory`, which returns the memory before the first update: a tree of floating
        arrays and integer counters. `PlayerState.memory` stores the memory.
      apply: the penalty or the term as a function with one more argument at the end, the memory. It
        returns `([B], memory)`. Every shard and every microbatch receives the same memory, and the
        returned memories are averaged. A batch mean in the memory is therefore the mean over the
        whole batch.
      name: the name of the memory in the state, and of the penalty or the term in the metrics.
    """

    init: Callable[[], PyTree]
    apply: Callable[..., tuple[Array, PyTree]]
    name: str


Augment: TypeAlias = Callable[[Array, PyTree], PyTree]
"""`(key, x [...]) -> x [...]`, a random change of one example."""


class Augmentation(NamedTuple):
    """A random change of D's inputs. Its strength depends on D's step or on D's outputs.

    Attributes:
      init: `() -> memory`, as in `WithMemory`. D's state stores this memory under the name
        "augmentation".
      apply: `(key, x [...], memory, step) -> x [...]` for one example. `step` [] int32 is the
        number of updates D has made.
      update: `(memory, real_output) -> memory`, called once in each update of D with D's output for
        the real samples.
    """

    init: Callable[[], PyTree]
    apply: Callable[[Array, PyTree, PyTree, Array], PyTree]
    update: Callable[[PyTree, Output], PyTree]


Weight: TypeAlias = float | Array | Callable[[Array], float | Array]
"""A number, an array (such as a traced hyper-parameter), or a schedule `step [] -> []`. A schedule
receives the number of the player's earlier updates, as in optax."""

WeightedPenalty: TypeAlias = tuple[Penalty | WithMemory, Weight]
WeightedTerm: TypeAlias = tuple[Term | WithMemory, Weight]


@flax.struct.dataclass
class PlayerState:
    """The state of one player.

    Attributes:
      step: [] int32, the number of updates this player has made.
      params, model_state: made by `Network.init` and changed by the updates.
      opt_state: the state of the player's `optax.GradientTransformation`.
      memory: the memories of the player's penalties and terms, by name.
    """

    step: Array
    params: PyTree
    model_state: PyTree
    opt_state: PyTree
    memory: dict[str, PyTree] = flax.struct.field(default_factory=dict)


@flax.struct.dataclass
class TrainState:
    """The complete state of training. It contains only arrays.

    Attributes:
      key: a key that never changes. Each random draw uses this key, folded with the role of the
        player, the player's step and the example's index in the whole batch. A resumed run
        therefore gives the results of an uninterrupted run, and no result depends on the number of
        devices.
      generator, discriminator: the states of the players.
      ema_params, ema_model_state: the exponential moving averages of the generator's parameters and
        of the generator's model state, such as running statistics.
    """

    key: Array
    generator: PlayerState
    discriminator: PlayerState
    ema_params: PyTree
    ema_model_state: PyTree = flax.struct.field(default_factory=dict)


StepFn: TypeAlias = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
"""`(TrainState, Batch) -> (TrainState, Metrics)`, a training step."""


class Algorithm(NamedTuple):
    """The functions that train one GAN and draw its samples.

    Attributes:
      init: `(key, batch [B, ...]) -> state`. Only the shapes and types of the batch are read.
      step: `(state, batch [n_critic, B, ...]) -> (state, metrics)`, one training step.
      discriminator_step, generator_step: `(state, batch [B, ...]) -> (state, metrics)`, one update
        of one player.
      sample: `(state, key, num, label=None, *, ema=True) -> x [num, ...]`, samples for new latents.
      generate: `(state, z, label=None, *, key=None, ema=True) -> x [B, ...]`, the samples for given
        latents z.
    """

    init: Callable[[Array, Batch], TrainState]
    step: StepFn
    discriminator_step: StepFn
    generator_step: StepFn
    sample: Callable[..., PyTree]
    generate: Callable[..., PyTree]
