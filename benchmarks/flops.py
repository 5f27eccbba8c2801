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
from collections.abc import Iterator

from benchmarks.cases import Case, Conv, ConvTranspose, Dense, Placed


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


def passes(case: Case) -> Iterator[tuple[Placed, int]]:
    """Yields each layer with a matrix product and its number of products per step."""
    for role, layers in case.players().items():
        multiplying = [placed for placed in layers if multiply_adds(placed)]
        for placed in multiplying:
            first, last = placed is multiplying[0], placed is multiplying[-1]
            if role == "generator":
                yield placed, case.n_critic + 3 - first
            else:
                of_r1 = 3 - last if case.r1 else 0
                yield placed, case.n_critic * (2 * (3 - first) + of_r1) + 2


def step_flops(case: Case, batch_size: int) -> float:
    """Returns the floating-point operations of one step: `n_critic` updates of D and one of G.

    They are not counted for a case that is no chain of layers: NaN.
    """
    if not case.is_chain:
        return math.nan
    products = sum(times * multiply_adds(placed) for placed, times in passes(case))
    return 2 * batch_size * products
