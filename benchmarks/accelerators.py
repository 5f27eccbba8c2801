"""Upper bounds for a training step on GPUs and TPUs: `python -m benchmarks.accelerators`.

The bounds are computed from the architecture and the machines' data sheets, so no accelerator is
needed. The first tables show the arithmetic of a step, its minimal memory traffic and which of the
two takes longer. They also show the smallest number of images per device for which the all-reduce
takes no longer than the step. The last table describes the library's own step, lowered for the GPU
and TPU compilers.

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
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import export
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

from benchmarks.cases import CASES, Case, Placed, parameter_shapes
from benchmarks.flops import multiply_adds, step_flops
from gan_jax import init, make_discriminator_step, make_generator_step, make_train_step
from gan_jax.losses import non_saturating
from gan_jax.models import MODELS
from gan_jax.parallel import AXIS_NAME
from gan_jax.run.tables import markdown
from gan_jax.types import Batch

ADAM, AVERAGE = 7, 2
"""Number of parameter-sized arrays touched by an update, and by a moving average."""


class Machine(NamedTuple):
    """A device and its links, with published figures.

    Attributes:
      name: the machine and the type of activations. The type of products is named if it differs.
      peak: rate of products, in operations/s.
      memory: bandwidth, in bytes/s.
      links: bytes/s that each device sends in a ring, for each largest number of devices.
      activation: bytes per activation.
      source: source of these figures.
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
_NODES = {"A100": (1.555e12, {8: 300e9, 1024: 200e9}), "H100": (3.35e12, {8: 450e9, 1024: 400e9})}
_SLICES = {"v4": (1.2e12, {4096: 300e9}), "v5e": (0.82e12, {256: 200e9})}

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
)

SHOWN = ("mlp", "dcgan28", "dcgan64")
BATCH_SIZES = (64, 256, 1024)
DEVICES = (8, 64, 256)


def passes(case: Case) -> Iterator[tuple[Placed, int]]:
    """Yields each layer with a matrix product and its number of products per step.

    The products are those that `benchmarks.flops` counts without R1: forward, kernel gradient and
    input gradient.
    """
    for role, layers in case.players().items():
        multiplying = [placed for placed in layers if multiply_adds(placed)]
        for placed in multiplying:
            first = placed is multiplying[0]
            if role == "generator":
                yield placed, case.n_critic + 3 - first
            else:
                yield placed, case.n_critic * 2 * (3 - first) + 2


def parameters(case: Case, role: str) -> int:
    """Returns the number of parameters of one player."""
    shapes = [s for p in case.players()[role] for s in parameter_shapes(p).values()]
    return sum(map(math.prod, shapes))


def step_bytes(case: Case, batch_size: int, activation: int = 4) -> int:
    """Returns the minimal memory traffic of a step in bytes."""
    total = 4 * (ADAM + AVERAGE) * parameters(case, "generator")
    total += 4 * ADAM * case.n_critic * parameters(case, "discriminator")
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
    computing = seconds * machine.peak / step_flops(case, 1)
    moving = (seconds * machine.memory - none) / (one - none)
    return max(1, math.ceil(min(computing, moving)))


def bounds(machine: Machine) -> Iterator[tuple[object, ...]]:
    """Yields table rows with the bounds of each step on a machine. `BOUNDS` names the columns."""
    for case, size in itertools.product((CASES[name] for name in SHOWN), BATCH_SIZES):
        flops, moved = step_flops(case, size), step_bytes(case, size, machine.activation)
        computing, moving = step_seconds(machine, case, size)
        seconds, gradients = max(computing, moving), gradient_bytes(case)
        yield (
            *(case.name, size, f"{flops / 1e9:,.1f}", f"{moved / 1e6:,.0f}"),
            *(f"{flops / moved:.0f}", "compute" if computing > moving else "bandwidth"),
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


def lower(case: Case, platform: str, batch_size: int = 64, devices: int = 8) -> Lowered:
    """Describes the library's train step for `case` as the compiler of "cuda" or "tpu" receives
    it."""
    tx = optax.adam(2e-4, b1=0.5)
    options = {"latent": case.latent, "width": case.widths[0]}
    mesh = AbstractMesh((devices,), (AXIS_NAME,), axis_types=(AxisType.Auto,))
    whole, split = PartitionSpec(), PartitionSpec(None, AXIS_NAME)
    x: Any = jax.ShapeDtypeStruct((case.n_critic, batch_size, *case.shape), jnp.float32)
    gan, example = MODELS[case.model](case.shape, **options), Batch(jnp.zeros((1, *case.shape)))
    state = jax.eval_shape(lambda: init(gan, tx, tx, jax.random.key(0), example))

    def text(axis_name: str | None) -> str:
        d_step = make_discriminator_step(gan, non_saturating, tx, axis_name=axis_name)
        g_step = make_generator_step(gan, non_saturating, tx, axis_name=axis_name)
        step: Any = make_train_step(d_step, g_step, n_critic=case.n_critic)
        places: dict[str, Any] = {}
        if axis_name:
            step = jax.shard_map(step, mesh=mesh, in_specs=(whole, split), out_specs=whole)
        else:
            of_state, of_batch = (NamedSharding(mesh, spec) for spec in (whole, split))
            places = {"in_shardings": (of_state, of_batch), "out_shardings": of_state}
        compiled = jax.jit(step, donate_argnums=0, **places)
        return export.export(compiled, platforms=[platform])(state, Batch(x)).mlir_module()

    program, mapped = text(None), text(AXIS_NAME)
    targets = Counter(re.findall(r"stablehlo\.custom_call @([\w.]+)", program))
    donated = len(re.findall(r"tf\.aliasing_output|jax\.buffer_donor", program))
    return Lowered(
        convolutions=program.count("stablehlo.convolution"),
        dots=program.count("stablehlo.dot_general"),
        donated=f"{donated} of {len(jax.tree.leaves(state))}",
        calls=", ".join(f"{name} {count}" for name, count in sorted(targets.items())) or "none",
        callbacks=sum(count for name, count in targets.items() if "callback" in name),
        sharded=len(re.findall(r"sdy\.sharding = ", program)),
        all_reduces=mapped.count("stablehlo.all_reduce"),
        types=", ".join(sorted(set(re.findall(r"tensor<(?:\d+x)*(\w+)>", program)))),
    )


def main() -> None:
    """Prints all tables."""
    for machine in MACHINES:
        print(f"## {machine.name}: {machine.balance:.0f} FLOP/byte\n\n{machine.source}.\n")
        print(markdown(BOUNDS, bounds(machine)) + "\n")
    print("## The lowered programs\n")
    programs = itertools.product(SHOWN, ("cuda", "tpu"))
    rows = ((name, platform, *lower(CASES[name], platform)) for name, platform in programs)
    print(markdown(("case", "platform", *Lowered._fields), rows))


if __name__ == "__main__":
    main()
