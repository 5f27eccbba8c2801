"""Upper bounds for a training step on GPUs and TPUs: `python -m benchmarks.accelerators`.

The bounds are computed from the architecture and the machines' data sheets, so no accelerator is
needed. The first tables show the arithmetic of a step, its minimal memory traffic and which of the
two takes longer. They also show the smallest number of images per device for which the all-reduce
takes no longer than the step. The last tables describe the library's own step, lowered for the GPU
and TPU compilers. For a model that is no chain of layers, the products are counted in this program.

Bytes are counted as follows. The forward pass of a layer reads the input and the kernel, and writes
the output. The input gradient and the kernel gradient also read two arrays and write one, with the
same three shapes. Elementwise operations, including batch norm, are assumed to be fused and free.
Adam reads four arrays: the gradient, the parameters and two moments. It writes the parameters and
the moments, so an update touches seven arrays. For G, reading and writing the moving average makes
nine. Parameters, gradients and moments are float32.
No program that runs layer by layer moves fewer bytes, so the rates are upper bounds. Launch
overhead and latency are ignored. They dominate above about 10,000 steps/s.
"""

import itertools
import math
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import export
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

from benchmarks import cases, flops
from benchmarks.cases import CASES, Case, parameter_shapes
from benchmarks.flops import passes
from benchmarks.library import initial_state, library_gan, train_step
from benchmarks.lowered import products, random_bits, share
from gan_jax import mixed_precision
from gan_jax.parallel import AXIS_NAME
from gan_jax.run.tables import markdown
from gan_jax.types import GAN, Batch, TrainState

ADAM, AVERAGE = 7, 2
"""Number of parameter-sized arrays touched by an update, and by a moving average."""


class Machine(NamedTuple):
    """A device and its links, with its published rates.

    Attributes:
      name: the machine and the type of activations. The type of products is named if it differs.
      peak: rate of products, in operations/s.
      memory: bandwidth, in bytes/s.
      links: bytes/s that each device sends in a ring, for each largest number of devices.
      activation: bytes per activation.
      source: source of these rates.
    """

    name: str
    peak: float
    memory: float
    links: dict[int, float]
    activation: int
    source: str

    @property
    def balance(self) -> float:
        """Returns the operations per byte of memory traffic at peak rates."""
        return self.peak / self.memory

    def all_reduce_seconds(self, size: int, devices: int) -> float:
        """Returns the seconds for a ring all-reduce of `size` bytes.

        Each device sends all bytes except its own share, twice.
        """
        link = next(rate for most, rate in self.links.items() if devices <= most)
        return 2 * (devices - 1) / devices * size / link


_A100 = (
    "NVIDIA A100 datasheet (40 GB): NVLink 300 GB/s each way in a node of 8; beyond, its 8 "
    "adapters of 200 Gb/s (DGX A100 datasheet)"
)
_H100 = (
    "NVIDIA H100 datasheet (SXM, dense): NVLink 450 GB/s each way in a node of 8; beyond, its 8 "
    "adapters of 400 Gb/s (DGX H100 datasheet)"
)
_V4 = "Jouppi et al. 2023, TPU v4: 6 links of 50 GB/s, all in use"
_V5E = "Google Cloud, TPU v5e system architecture: links of 1600 Gb/s, all in use"
_V5P = (
    "Google Cloud, TPU v5p system architecture: links of 1200 GB/s in both directions, all in use"
)
_V6E = "Google Cloud, TPU v6e system architecture: links of 800 GB/s in both directions, all in use"
_NODES = {"A100": (1.555e12, {8: 300e9, 1024: 200e9}), "H100": (3.35e12, {8: 450e9, 1024: 400e9})}
_SLICES = {
    "v4": (1.2e12, {4096: 300e9}),
    "v5e": (0.82e12, {256: 200e9}),
    "v5p": (2.765e12, {6144: 600e9}),
    "v6e": (1.6e12, {256: 400e9}),
}

MACHINES = (
    Machine("A100, float32", 19.5e12, *_NODES["A100"], 4, _A100),
    Machine("A100, float32 multiplied in TF32", 156e12, *_NODES["A100"], 4, _A100),
    Machine("A100, bfloat16", 312e12, *_NODES["A100"], 2, _A100),
    Machine("H100, float32", 67e12, *_NODES["H100"], 4, _H100),
    Machine("H100, float32 multiplied in TF32", 495e12, *_NODES["H100"], 4, _H100),
    Machine("H100, bfloat16", 989e12, *_NODES["H100"], 2, _H100),
    Machine("TPU v4, float32 multiplied in bfloat16", 275e12, *_SLICES["v4"], 4, _V4),
    Machine("TPU v4, bfloat16", 275e12, *_SLICES["v4"], 2, _V4),
    Machine("TPU v5e, float32 multiplied in bfloat16", 197e12, *_SLICES["v5e"], 4, _V5E),
    Machine("TPU v5e, bfloat16", 197e12, *_SLICES["v5e"], 2, _V5E),
    Machine("TPU v5p, float32 multiplied in bfloat16", 459e12, *_SLICES["v5p"], 4, _V5P),
    Machine("TPU v5p, bfloat16", 459e12, *_SLICES["v5p"], 2, _V5P),
    Machine("TPU v6e, float32 multiplied in bfloat16", 918e12, *_SLICES["v6e"], 4, _V6E),
    Machine("TPU v6e, bfloat16", 918e12, *_SLICES["v6e"], 2, _V6E),
)

CHAINS = ("mlp", "dcgan28", "dcgan64")
MODELS = ("sngan32", "r3gan32", "stylegan2_32")
SHOWN = tuple((CASES | cases.MODELS)[name] for name in CHAINS + MODELS)
BATCH_SIZES = (64, 256, 1024)
DEVICES = (8, 64, 256)


class Counts(NamedTuple):
    """The products of a step, counted in the lowered program.

    Attributes:
      fixed: operations that do not depend on the batch, such as those of spectral norm.
      each: operations per image.
      kernels: elements of operands and results that do not depend on the batch.
      activations: elements of the other operands and results, per image.
      filled: for each side of a systolic array in `ARRAYS`, the share of its work that is useful.
      types: numbers of products by the type of their operands.
      bits: generators of random bits.
    """

    fixed: float
    each: float
    kernels: int
    activations: float
    filled: tuple[float, ...]
    types: str
    bits: str


ARRAYS = (128, 256)
"""Sides of the systolic arrays of a TPU v5e or older, and of a TPU v6e."""

_PRIME, _COUNTED = 11, 264
"""A batch of 264 images. No network has a size that 11 divides, so 11 divides the sizes that depend
on the batch, and no others."""


@cache
def counts(case: Case) -> Counts:
    """Returns the products in the step in bfloat16, lowered for a TPU."""
    gan = mixed_precision(library_gan(case))
    program = lowered_text(case, gan, "tpu", _COUNTED)
    found = list(products(program))
    both = [0, 0]
    elements = [0, 0]
    for one in found:
        both[one.flops % _PRIME == 0] += one.flops
        for size in one.sizes:
            elements[size % _PRIME == 0] += size

    def filled(side: int) -> float:
        return sum(both) / sum(one.flops / one.filled(side) for one in found)

    return Counts(
        *(both[0], both[1] / _COUNTED, elements[0], elements[1] / _COUNTED),
        filled=tuple(map(filled, ARRAYS)),
        types=share(Counter(one.type for one in found)),
        bits=random_bits(program),
    )


def step_flops(case: Case, batch_size: int) -> float:
    """Returns the operations of a step: those of its matrix products and convolutions."""
    if case.is_chain:
        return flops.step_flops(case, batch_size)
    return counts(case).fixed + counts(case).each * batch_size


@cache
def parameters(case: Case, role: str) -> int:
    """Returns the number of parameters of one player."""
    if not case.is_chain:
        params = getattr(_state(case, library_gan(case)), role).params
        return sum(leaf.size for leaf in jax.tree.leaves(params))
    shapes = [s for p in case.players()[role] for s in parameter_shapes(p).values()]
    return sum(map(math.prod, shapes))


def step_bytes(case: Case, batch_size: int, activation: int = 4) -> int:
    """Returns the minimal memory traffic of a step in bytes."""
    total = 4 * (ADAM + AVERAGE) * parameters(case, "generator")
    total += 4 * ADAM * case.n_critic * parameters(case, "discriminator")
    if not case.is_chain:
        found = counts(case)
        return total + 4 * found.kernels + round(activation * batch_size * found.activations)
    for placed, times in passes(case):
        kernel = math.prod(parameter_shapes(placed)["kernel"])
        arrays = math.prod(placed.before) + math.prod(placed.after)
        total += times * (4 * kernel + activation * batch_size * arrays)
    return total


def step_seconds(machine: Machine, case: Case, batch_size: int) -> tuple[float, float]:
    """Returns the minimal seconds of a step: (to compute, to move its bytes)."""
    moved = step_bytes(case, batch_size, machine.activation)
    return step_flops(case, batch_size) / machine.peak, moved / machine.memory


def gradient_bytes(case: Case) -> int:
    """Returns the bytes that a step averages over the devices: the gradients of each update."""
    counts = case.n_critic * parameters(case, "discriminator") + parameters(case, "generator")
    return 4 * counts


def hiding_batch(machine: Machine, case: Case, devices: int) -> int:
    """Returns the images per device from which the all-reduce takes no longer than the step."""
    seconds = machine.all_reduce_seconds(gradient_bytes(case), devices)
    none, one = step_bytes(case, 0, machine.activation), step_bytes(case, 1, machine.activation)
    computing = (seconds * machine.peak - step_flops(case, 0)) / (
        step_flops(case, 1) - step_flops(case, 0)
    )
    moving = (seconds * machine.memory - none) / (one - none)
    return max(1, math.ceil(min(computing, moving)))


def bounds(machine: Machine) -> Iterator[tuple[object, ...]]:
    """Yields table rows with the bounds of each step on a machine. `BOUNDS` names the columns."""
    for case, size in itertools.product(SHOWN, BATCH_SIZES):
        products, moved = step_flops(case, size), step_bytes(case, size, machine.activation)
        computing, moving = step_seconds(machine, case, size)
        seconds, gradients = max(computing, moving), gradient_bytes(case)
        yield (
            *(case.name, size, f"{products / 1e9:,.1f}", f"{moved / 1e6:,.0f}"),
            *(f"{products / moved:.0f}", "compute" if computing > moving else "bandwidth"),
            f"{1 / seconds:,.0f}",
            *(f"{machine.all_reduce_seconds(gradients, n) / seconds:.0%}" for n in DEVICES),
            *(hiding_batch(machine, case, n) for n in DEVICES),
        )


BOUNDS = (
    *("case", "batch", "GFLOP", "MB", "FLOP/byte", "limit", "max steps/s"),
    *(f"all-reduce on {n} devices, share of the step" for n in DEVICES),
    *(f"images per device to hide it, {n} devices" for n in DEVICES),
)


class Lowered(NamedTuple):
    """Counts and array types in the text of a lowered step."""

    convolutions: int
    dots: int
    donated: str  # reused buffers of the state, out of all its buffers
    calls: str  # custom calls, by target
    callbacks: int  # calls to the host
    sharded: int  # arrays with a given sharding, if the compiler splits the work
    all_reduces: int  # in a step mapped over the devices, before any merging
    types: str


def _state(case: Case, gan: GAN) -> TrainState:
    """Returns the shapes of a state."""
    state: TrainState = jax.eval_shape(lambda: initial_state(case, gan, jax.random.key(0)))
    return state


def lowered_text(
    case: Case,
    gan: GAN,
    platform: str,
    batch_size: int,
    devices: int = 1,
    axis_name: str | None = None,
) -> str:
    """Returns the train step as the compiler of "cuda" or "tpu" receives it.

    With `axis_name` it is mapped over the devices. Otherwise the compiler splits the work.
    """
    mesh = AbstractMesh((devices,), (AXIS_NAME,), axis_types=(AxisType.Auto,))
    whole, split = PartitionSpec(), PartitionSpec(None, AXIS_NAME)
    x: Any = jax.ShapeDtypeStruct((case.n_critic, batch_size, *case.shape), jnp.float32)
    step: Any = train_step(case, gan, axis_name)
    places: dict[str, Any] = {}
    if axis_name:
        step = jax.shard_map(step, mesh=mesh, in_specs=(whole, split), out_specs=whole)
    elif devices > 1:
        of_state, of_batch = (NamedSharding(mesh, spec) for spec in (whole, split))
        places = {"in_shardings": (of_state, of_batch), "out_shardings": of_state}
    compiled = jax.jit(step, donate_argnums=0, **places)
    text = export.export(compiled, platforms=[platform])(_state(case, gan), Batch(x))
    return str(text.mlir_module())


def lower(case: Case, platform: str, batch_size: int = 64, devices: int = 8) -> Lowered:
    """Describes the library's train step for `case` as the compiler of "cuda" or "tpu" receives
    it."""
    gan = library_gan(case)
    program, mapped = (
        lowered_text(case, gan, platform, batch_size, devices, name) for name in (None, AXIS_NAME)
    )
    targets = Counter(re.findall(r"stablehlo\.custom_call @([\w.]+)", program))
    donated = len(re.findall(r"tf\.aliasing_output|jax\.buffer_donor", program))
    return Lowered(
        convolutions=program.count("stablehlo.convolution"),
        dots=program.count("stablehlo.dot_general"),
        donated=f"{donated} of {len(jax.tree.leaves(_state(case, gan)))}",
        calls=", ".join(f"{name} {count}" for name, count in sorted(targets.items())) or "none",
        callbacks=sum(count for name, count in targets.items() if "callback" in name),
        sharded=len(re.findall(r"sdy\.sharding = ", program)),
        all_reduces=mapped.count("stablehlo.all_reduce"),
        types=", ".join(sorted(set(re.findall(r"tensor<(?:\d+x)*(\w+)>", program)))),
    )


IN_BFLOAT16 = (
    *("case", "GFLOP per image", "products by type", "random bits"),
    *(f"useful share of a {side} x {side} array, at most" for side in ARRAYS),
)


def in_bfloat16(case: Case) -> tuple[object, ...]:
    """Returns the table row of a step in bfloat16, lowered for a TPU."""
    found = counts(case)
    shares = (f"{filled:.0%}" for filled in found.filled)
    return case.name, f"{found.each / 1e9:.2f}", found.types, found.bits, *shares


def main() -> None:
    """Prints all tables."""
    for machine in MACHINES:
        print(f"## {machine.name}: {machine.balance:.0f} FLOP/byte\n\n{machine.source}.\n")
        print(markdown(BOUNDS, bounds(machine)) + "\n")
    print("## The lowered programs\n")
    programs = itertools.product(CHAINS, ("cuda", "tpu"))
    rows = ((name, platform, *lower(CASES[name], platform)) for name, platform in programs)
    print(markdown(("case", "platform", *Lowered._fields), rows))
    print("\n## In bfloat16 for a TPU\n")
    print(markdown(IN_BFLOAT16, map(in_bfloat16, SHOWN)))


if __name__ == "__main__":
    main()
