"""The arithmetic of a training step, counted from the architecture.

Multiply-adds of matrix products and of direct convolutions count as two operations each.
Activations, norms, losses and Adam are not counted. A layer with M multiply-adds costs M in the
forward pass, M for the kernel gradient and M for the input gradient. A step needs:

    D's update:   G forward. Also, on real and on fake: D forward, its kernel gradients, and its
                  input gradients of all layers except the first.
    with R1:      additionally the input gradients of all layers, which give grad_x D; the
                  derivatives of grad_x D with respect to the kernels; and, for all layers except
                  the last, its derivatives with respect to the incoming gradient. D's forward pass
                  on the real batch is not counted again. The count is exact if D is piecewise
                  linear and has no batch norm.
    G's update:   G and D forward, D's input gradients, G's kernel gradients, and G's input
                  gradients of all layers except the first.

The count is the same for all libraries. A library that does additional work is not credited for it.
Fast convolutions need fewer multiplications than direct ones, so the share of peak computed from
this count may exceed the real utilisation.
"""

import math
from typing import NamedTuple

from benchmarks.cases import Case, Conv, ConvTranspose, Dense, Placed


class _Player(NamedTuple):
    """Multiply-adds per example of a player, of its first layer and of its last layer."""

    all: int
    first: int
    last: int


def multiply_adds(placed: Placed) -> int:
    """Returns the multiply-adds of one layer's forward pass on one example."""
    match placed.layer:
        case Dense(features):
            return math.prod(placed.before) * features
        case Conv(features):
            return 16 * placed.before[2] * math.prod(placed.after)
        case ConvTranspose(features):
            return 16 * features * math.prod(placed.before)
        case _:
            return 0


def _player(layers: list[Placed]) -> _Player:
    counts = [count for count in map(multiply_adds, layers) if count]
    return _Player(sum(counts), counts[0], counts[-1])


def step_flops(case: Case, batch_size: int) -> float:
    """Returns the floating-point operations of one step: `n_critic` updates of D and one of G.

    They are not counted for a case that is no chain of layers: NaN.
    """
    if not case.is_chain:
        return math.nan
    g, d = (_player(layers) for layers in case.players().values())
    discriminator = g.all + 2 * (3 * d.all - d.first)
    if case.r1:
        discriminator += d.all + (2 * d.all - d.last)
    generator = 3 * g.all - g.first + 2 * d.all
    return 2 * batch_size * (case.n_critic * discriminator + generator)
