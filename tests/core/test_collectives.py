"""The collectives that each layout adds to a step, counted in programs that ran on 8 devices.

They are counted in the optimised HLO, where XLA has merged independent all-reduces. An instruction
in a loop counts once per known iteration. The test fails if a loop with collectives has an unknown
number of iterations.

The target is one all-reduce for each update of a player. It covers gradients, metrics and model
state. Batch norm adds one for each layer and direction, if they must wait for each other.
"""

import os
import re
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gan_jax
from gan_jax import Batch, parallel
from gan_jax.losses import non_saturating
from gan_jax.models import MODELS

BATCH = 24  # three examples on each device; no other array here has size 24
TX = optax.adam(1e-3)
SHAPES = {"mlp": (6,), "dcgan": (28, 28, 1)}
COLLECTIVES = "all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter"

pytestmark = pytest.mark.usefixtures("quick_compile")  # of XLA's passes, only LLVM's are skipped


def make_gan(model):
    family = model.split()[0]
    options = {"latent": 3, "width": 8}
    if family == "dcgan":
        options |= {"width": 4, "discriminator_norm": model == "dcgan with norm"}
    return MODELS[family](SHAPES[family], **options)


@cache
def initialise(model):
    example = Batch(jnp.zeros((2, *SHAPES[model.split()[0]])))
    return jax.jit(lambda key: gan_jax.init(make_gan(model), TX, TX, key, example))


def build(model, kind, axis_name):
    """Returns (first state, pure step, leading axes of its batch) for a kind in `EXPECTED`."""
    gan = make_gan(model)
    d_step = gan_jax.make_discriminator_step(gan, non_saturating, TX, axis_name=axis_name)
    g_step = gan_jax.make_generator_step(gan, non_saturating, TX, axis_name=axis_name)
    state = initialise(model)(jax.random.key(0))
    if not kind.startswith("train"):
        return state, {"discriminator": d_step, "generator": g_step}[kind], ()
    n_critic = int(kind[-1])
    return state, gan_jax.make_train_step(d_step, g_step, n_critic=n_critic), (n_critic,)


@cache
def programs(layout, model, kind):
    """Returns the optimised HLO of all programs that one call of a step loads."""
    state, step, leading = build(model, kind, parallel.AXIS_NAMES[layout])
    x = np.zeros((*leading, BATCH, *SHAPES[model.split()[0]]), np.float32)
    wrapped = parallel.make_step(layout, step, batch_axis=len(leading))
    client = jax.devices()[0].client
    before = client.live_executables()
    jax.block_until_ready(wrapped(state, Batch(x)))
    known = set(map(id, before))
    loaded = [e for e in client.live_executables() if id(e) not in known]
    assert loaded
    return [module.to_string() for e in loaded for module in e.hlo_modules()]


def collectives(program):
    """Returns a map from each collective to its number of executions in one run of a program."""
    bodies, name = {}, ""
    for line in program.splitlines():
        if found := re.match(r"(ENTRY )?%?([\w.-]+) \(.*\{$", line):
            name = "entry" if found[1] else found[2]
        bodies.setdefault(name, []).append(line)

    def count(computation):
        total = Counter()
        for line in bodies[computation]:
            if found := re.search(rf" ({COLLECTIVES})(?:-start)?\(", line):
                total[found[1]] += 1
                continue
            inside = Counter()
            for called in re.findall(r"(?:body|calls|to_apply)=%?([\w.-]+)", line):
                inside += count(called)
            for branches in re.findall(r"branch_computations=\{([^}]*)\}", line):
                for called in branches.replace("%", "").split(", "):
                    inside += count(called)
            times = 1
            if inside and " while(" in line:
                times = int(re.search(r'"known_trip_count":\{"n":"(\d+)"', line)[1])
            total += Counter({what: number * times for what, number in inside.items()})
        return total

    return count("entry")


def test_an_instruction_in_a_loop_counts_as_often_as_the_loop_runs():
    program = """\
HloModule made_up

%sum (a: f32[], b: f32[]) -> f32[] {
  ROOT %add = f32[] add(%a, %b)
}

%body.1 (p: (s32[], f32[4])) -> (s32[], f32[4]) {
  %all-reduce.1 = f32[4]{0} all-reduce(%x), replica_groups={}, to_apply=%sum
}

ENTRY %main (p: f32[4]) -> f32[4] {
  %g = (f32[4]{0}, f32[4]{0}) all-gather-start(%p), dimensions={0}
  %w = (s32[], f32[4]) while(%t), body=%body.1, backend_config={"known_trip_count":{"n":"3"}}
  ROOT %all-reduce.2 = (f32[4]{0}, f32[]) all-reduce(%y, %z), to_apply=%sum
}
"""
    assert collectives(program) == {"all-reduce": 4, "all-gather": 1}


EXPECTED = {
    # pmap meets the target. In "1 + 2 + 2" the 1 is the player's, and the rest is batch norm's: two
    # layers of G forwards (and backwards, in G's step), and D's layer forwards and backwards.
    ("pmap", "mlp", "discriminator"): 1,
    ("pmap", "mlp", "generator"): 1,
    ("pmap", "mlp", "train, n_critic = 1"): 1 + 1,
    ("pmap", "mlp", "train, n_critic = 3"): 3 * 1 + 1,
    ("pmap", "dcgan", "discriminator"): 1 + 2,
    ("pmap", "dcgan", "generator"): 1 + 2 + 2,
    # In a train step the two passes through G share one all-reduce, because nothing delays it.
    ("pmap", "dcgan", "train, n_critic = 1"): (1 + 2) + (1 + 2 + 2) - 1,
    ("pmap", "dcgan", "train, n_critic = 3"): 3 * (1 + 2) + (1 + 2 + 2),
    ("pmap", "dcgan with norm", "discriminator"): 1 + 2 + 1 + 1,
    ("pmap", "dcgan with norm", "generator"): 1 + 2 + 1 + 1 + 2,
    ("pmap", "dcgan with norm", "train, n_critic = 3"): 3 * (1 + 4) + (1 + 6),
    # shard gives the same counts, except with batch norm in D: D's update then has one more. The
    # compiler keeps it apart, because it wrote the same group of devices in two ways.
    ("shard", "mlp", "discriminator"): 1,
    ("shard", "mlp", "generator"): 1,
    ("shard", "mlp", "train, n_critic = 1"): 1 + 1,
    ("shard", "mlp", "train, n_critic = 3"): 3 * 1 + 1,
    ("shard", "dcgan", "discriminator"): 1 + 2,
    ("shard", "dcgan", "generator"): 1 + 2 + 2,
    ("shard", "dcgan", "train, n_critic = 3"): 3 * (1 + 2) + (1 + 2 + 2),
    ("shard", "dcgan with norm", "discriminator"): 1 + 2 + 1 + 1 + 1,
    ("shard", "dcgan with norm", "generator"): 1 + 2 + 1 + 1 + 2,
    ("shard", "dcgan with norm", "train, n_critic = 3"): 3 * (1 + 5) + (1 + 6),
    # A single device needs no collective.
    ("jit", "mlp", "train, n_critic = 3"): 0,
    ("jit", "dcgan with norm", "train, n_critic = 1"): 0,
}
"""(layout, model, kind of step) -> all-reduces in one step. There are no other collectives."""


QUICK = [
    *(f"mlp {kind}" for kind in ("discriminator", "generator", "train, n_critic = 3")),
    "dcgan with norm train, n_critic = 3",
]
"""The cases of the default run: a DCGAN takes long to compile, and the last holds all of it."""


@pytest.mark.parametrize(
    ("layout", "model", "kind"),
    [
        pytest.param(*case, marks=() if " ".join(case[1:]) in QUICK else pytest.mark.slow)
        for case in EXPECTED
    ],
)
def test_a_step_costs_so_many_collectives(layout, model, kind):
    total = Counter()
    for program in programs(layout, model, kind):
        total += collectives(program)
    assert total == Counter({"all-reduce": EXPECTED[layout, model, kind]})


MORE_DEVICES = """
import sys
import jax
import test_collectives as t
from small_runs import compiled_in_a_hurry

t.BATCH = 2 * jax.device_count()
with compiled_in_a_hurry():
    programs = t.programs(*sys.argv[1:])
print(sum(map(t.collectives, programs), t.Counter()))
"""
"""Prints the collectives of a case, for the number of devices in the environment."""


@pytest.mark.slow
@pytest.mark.parametrize("devices", [16, 64])
@pytest.mark.parametrize("layout", ["shard", "pmap"])
def test_more_devices_need_no_more_collectives(layout, devices):
    case = layout, "dcgan with norm", "train, n_critic = 3"
    here = Path(__file__).parent
    paths = os.pathsep.join(filter(None, (str(here), str(here.parent), os.getenv("PYTHONPATH"))))
    done = subprocess.run(
        [sys.executable, "-c", MORE_DEVICES, *case],
        env={**os.environ, "JAX_NUM_CPU_DEVICES": str(devices), "PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == str(Counter({"all-reduce": EXPECTED[case]}))


@pytest.mark.parametrize(
    ("layout", "kind"),
    [
        *(("pmap", kind) for kind in ("discriminator", "generator")),
        ("shard", "discriminator"),
        ("shard", "generator"),
    ],
)
def test_no_device_computes_on_the_whole_batch(layout, kind):
    for program in programs(layout, "mlp", kind):
        products = re.findall(r"= f32\[(\d+),\d+\]\S* dot\(", program)
        assert str(BATCH) not in products
