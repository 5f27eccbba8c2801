"""The matrix products and convolutions in the text of a lowered program (StableHLO)."""

import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

_PRODUCT = re.compile(
    r"stablehlo\.(convolution|dot_general)[ (].* : "
    r"\((tensor<\S+>), (tensor<\S+>)\) -> (tensor<\S+>)"
)


class Product(NamedTuple):
    """A matrix product or a convolution: `groups` products of [rows, inner] and [inner, columns].

    A convolution is the product of patches with its kernel.
    """

    rows: int
    inner: int
    columns: int
    groups: int
    sizes: tuple[int, int, int]  # numbers of elements of both operands and of the result
    type: str  # of the first operand

    @property
    def flops(self) -> int:
        """Returns the operations. A multiply-add counts as two."""
        return 2 * self.rows * self.inner * self.columns * self.groups

    def filled(self, side: int) -> float:
        """Returns the share of a systolic array of `side` x `side` that does useful work.

        Two of the product's three lengths lie along the array and are padded to multiples of
        `side`. The pair that wastes least is taken, so the share is an upper bound.
        """
        full = sorted(n / (math.ceil(n / side) * side) for n in self[:3])
        return full[1] * full[2]


def products(program: str) -> Iterator[Product]:
    """Yields the products of a program, each as often as it runs.

    A loop counts as one iteration.
    """
    lines: dict[str, list[str]] = {}
    for line in program.splitlines():
        if found := re.search(r"func\.func \w+ @([\w.]+)", line):
            body = lines.setdefault(found[1], [])
        elif lines:
            body.append(line)

    def run(name: str) -> Iterator[Product]:
        for line in lines[name]:
            if called := re.search(r"= (?:func\.)?call @([\w.]+)", line):
                yield from run(called[1])
            elif found := _PRODUCT.search(line):
                yield _product(line, found)

    return run("main")


def random_bits(program: str) -> str:
    """Returns the names of the generators of random bits in a program."""
    kinds = {"threefry": "@threefry2x32", "rng_bit_generator": "stablehlo.rng_bit_generator"}
    return ", ".join(name for name, text in kinds.items() if text in program) or "none"


def share(found: Counter[str]) -> str:
    """Returns counts as text, such as "bf16 22, f32 3"."""
    return ", ".join(f"{name} {count}" for name, count in sorted(found.items()))


def _product(line: str, found: re.Match[str]) -> Product:
    (lhs, kind), (rhs, _), (out, _) = map(_shape, found.groups()[1:])
    sizes = math.prod(lhs), math.prod(rhs), math.prod(out)
    if found[1] == "dot_general":
        contracted, batched = (_axes(line, what) for what in ("contracting", "batching"))
        inner = math.prod(lhs[axis] for axis in contracted)
        groups = math.prod(lhs[axis] for axis in batched)
        rows, columns = sizes[0] // inner // groups, sizes[1] // inner // groups
        return Product(rows, inner, columns, groups, sizes, kind)
    layout = re.search(r"dim_numbers = \[[^]]*\]x\[([^]]*)\]->\[([^]]*)\]", line)
    if layout is None:
        raise ValueError(f"unknown layout of a convolution: {line}")
    kernel, result = (text.split(", ") for text in layout.groups())
    taps = math.prod(n for n, name in zip(rhs, kernel, strict=True) if name not in "io")
    dilated = re.search(r"lhs_dilate = \[([\d, ]+)\]", line)  # zeros need no products
    zeros = math.prod(map(int, dilated[1].split(", "))) if dilated else 1
    groups = math.prod(map(int, re.findall(r"_group_count = (\d+)", line)))
    columns = out[result.index("f")] // groups
    inner = taps * rhs[kernel.index("i")]
    # With zeros between the inputs, an output meets one tap out of `zeros`.
    return Product(sizes[2] // columns // groups, inner // zeros, columns, groups, sizes, kind)


def _shape(tensor: str) -> tuple[tuple[int, ...], str]:
    *shape, kind = tensor.removeprefix("tensor<").removesuffix(">").split("x")
    return tuple(map(int, shape)), kind


def _axes(line: str, what: str) -> list[int]:
    """Returns the first operand's axes of a kind."""
    found = re.search(rf"{what}_dims = \[([\d, ]*)\]", line)
    return [int(axis) for axis in found[1].split(", ") if axis] if found else []
