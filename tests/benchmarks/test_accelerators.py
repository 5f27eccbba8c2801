"""The analysis of GPUs and TPUs: its formulas, and the operations that are lowered for them."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import pytest

from benchmarks import accelerators
from benchmarks.accelerators import CHAINS, MACHINES, Machine
from benchmarks.cases import CASES, Case, Dense, Placed
from benchmarks.flops import multiply_adds, passes, step_flops
from benchmarks.lowered import products
from gan_jax.run.tables import markdown

TOY = Machine("toy", 100.0, 10.0, {4: 2.0, 8: 1.0}, 4, "")


def test_a_ring_sends_each_share_round_twice_but_to_itself():
    # 4 devices, 80 bytes: shares of 20 are sent 3 times for the sums and 3 times for the results.
    assert TOY.all_reduce_seconds(80, 4) == 2 * 3 * 20 / 2.0
    assert TOY.all_reduce_seconds(80, 8) == 2 * 7 * 10 / 1.0
    assert TOY.all_reduce_seconds(80, 1) == 0
    assert TOY.balance == 10


def touched(function, *arrays):
    """Returns (operations, bytes) of all products in a program. Each array is moved once."""
    flops = moved = 0
    for equation in jax.make_jaxpr(function)(*arrays).eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            avals = [variable.aval for variable in (*equation.invars, *equation.outvars)]
            length = math.prod(avals[0].shape[axis] for axis in contracted)
            flops += 2 * avals[2].size * length
            moved += sum(aval.size * aval.dtype.itemsize for aval in avals)
    return flops, moved


def test_operations_and_bytes_are_those_of_a_layer_by_brute_force():
    """G and D have one layer each. The updates of D and G are counted product by product."""
    batch, latent, size = 8, 3, 5
    case = Case("flat", "mlp", (size,), latent, ())
    z, x = jnp.ones((batch, latent)), jnp.ones((batch, size))
    g, d = jnp.ones((latent, size)), jnp.ones((size, 1))

    def discriminator(d, g, z, x):
        return jnp.sum(jnp.tanh(x @ d)) + jnp.sum(jnp.tanh(jnp.tanh(z @ g) @ d))

    def generator(g, d, z):
        return jnp.sum(jnp.tanh(jnp.tanh(z @ g) @ d))

    counts = touched(jax.grad(discriminator), d, g, z, x), touched(jax.grad(generator), g, d, z)
    flops, moved = map(sum, zip(*counts, strict=True))
    assert step_flops(case, batch) == flops
    g_size, d_size = latent * size + size, size + 1
    optimizers = 4 * (9 * g_size + 7 * d_size)
    assert accelerators.step_bytes(case, batch) == moved + optimizers
    assert accelerators.gradient_bytes(case) == 4 * (g_size + d_size)


def test_a_large_square_product_has_a_sixth_of_its_size_in_operations_per_byte():
    placed = Placed(Dense(600, bias=False), (600,), (600,))
    moved = 4 * 3 * 600 * 600
    assert 2 * 600 * multiply_adds(placed) / moved == 600 / 6


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.name)
def test_communication_hides_from_the_smallest_batch_that_takes_as_long(machine):
    for name in CHAINS:
        for devices in accelerators.DEVICES:
            case = CASES[name]
            wait = machine.all_reduce_seconds(accelerators.gradient_bytes(case), devices)
            batch = accelerators.hiding_batch(machine, case, devices)
            assert max(accelerators.step_seconds(machine, case, batch)) >= wait
            if batch > 1:
                assert max(accelerators.step_seconds(machine, case, batch - 1)) < wait


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_the_step_lowered_holds_what_the_architecture_needs_and_nothing_else(platform):
    """The step has only the counted products, no host call, and donates all buffers."""
    case = dataclasses.replace(CASES["dcgan28"], latent=3, widths=(4, 8))
    lowered = accelerators.lower(case, platform, batch_size=8)
    counts = {True: 0, False: 0}
    for placed, times in passes(case):
        counts[isinstance(placed.layer, Dense)] += times
    assert (lowered.dots, lowered.convolutions) == (counts[True], counts[False]) == (11, 22)
    assert lowered.calls == "none"
    assert lowered.callbacks == 0
    assert len(set(lowered.donated.split(" of "))) == 1
    assert lowered.types == "f32, i1, i32, ui32"
    # One for each array of gradients, metrics and running statistics of D and G, and batch norm's
    # own. XLA merges them, and `test_collectives` counts the result.
    assert lowered.all_reduces > (6 + 5 + 2) + (7 + 1 + 4)
    assert lowered.sharded


@pytest.mark.slow
def test_products_counted_in_the_program_are_those_of_the_architecture():
    case = dataclasses.replace(CASES["dcgan28"], latent=3, widths=(4, 8))
    found = accelerators.counts(case)
    assert found.fixed == 0
    assert found.each == step_flops(case, 1)
    moved = [accelerators.step_bytes(case, size) for size in (0, 1)]
    assert 4 * found.activations == moved[1] - moved[0]
    optimizers = 9 * accelerators.parameters(case, "generator")
    optimizers += 7 * accelerators.parameters(case, "discriminator")
    assert 4 * (found.kernels + optimizers) == moved[0]
    assert (found.types, found.bits) == ("bf16 33", "threefry")


@pytest.mark.parametrize(
    ("line", "expected", "filled"),
    [
        (
            "%1 = stablehlo.dot_general %a, %b, contracting_dims = [1] x [0] : "
            "(tensor<7x128xbf16>, tensor<128x64xbf16>) -> tensor<7x64xbf16>",
            (7, 128, 64, 1),
            0.5,
        ),
        (
            "%1 = stablehlo.dot_general %a, %b, batching_dims = [0] x [0], "
            "contracting_dims = [2] x [1] : "
            "(tensor<3x7x5xf32>, tensor<3x5x2xf32>) -> tensor<3x7x2xf32>",
            (7, 5, 2, 3),
            7 / 128 * 5 / 128,
        ),
        (  # a transposed convolution: each of 2 x 6 x 6 outputs meets 4 of 16 taps
            "%1 = stablehlo.convolution(%a, %b) dim_numbers = [b, 0, 1, f]x[0, 1, i, o]->"
            "[b, 0, 1, f], window = {pad = [[2, 2], [2, 2]], lhs_dilate = [2, 2]} "
            "{batch_group_count = 1 : i64, feature_group_count = 1 : i64} : "
            "(tensor<2x3x3x8xbf16>, tensor<4x4x8x5xbf16>) -> tensor<2x6x6x5xbf16>",
            (72, 32, 5, 1),
            72 / 128 * 32 / 128,
        ),
        (
            "%1 = stablehlo.convolution(%a, %b) dim_numbers = [b, 0, 1, f]x[0, 1, i, o]->"
            "[b, 0, 1, f], window = {} "
            "{batch_group_count = 1 : i64, feature_group_count = 3 : i64} : "
            "(tensor<2x3x3x12xf32>, tensor<1x1x4x6xf32>) -> tensor<2x3x3x6xf32>",
            (18, 4, 2, 3),
            18 / 128 * 4 / 128,
        ),
    ],
)
def test_a_product_in_a_program_is_read(line, expected, filled):
    program = f"  func.func public @main(%a) {{\n{line} loc(#1)\n"
    (found,) = products(program)
    assert found[:4] == expected
    assert found.filled(128) == pytest.approx(filled)


def test_a_function_counts_as_often_as_it_is_called():
    line = (
        "%1 = stablehlo.dot_general %a, %b, contracting_dims = [1] x [0] : "
        "(tensor<2x3xf32>, tensor<3x4xf32>) -> tensor<2x4xf32>"
    )
    program = (
        "func.func public @main(%a) {\n%0 = call @f(%a)\n%1 = func.call @f(%0)\n}\n"
        f"func.func private @f(%a) {{\n{line}\n}}\n"
    )
    assert [one.flops for one in products(program)] == [48, 48]


def test_tables_are_as_wide_as_their_headers(monkeypatch):
    monkeypatch.setattr(accelerators, "SHOWN", [CASES[name] for name in CHAINS])
    rows = list(accelerators.bounds(MACHINES[0]))
    assert {len(row) for row in rows} == {len(accelerators.BOUNDS)}
    lines = markdown(accelerators.BOUNDS, rows).splitlines()
    assert {line.count("|") for line in lines} == {len(accelerators.BOUNDS) + 1}
