"""Tables as text."""

from collections.abc import Iterable, Sequence

import numpy as np


def markdown(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Returns a table in Markdown. A row shorter than the header is filled up with empty cells."""
    width = len(header)

    def line(cells: Sequence[object]) -> str:
        return f"| {' | '.join(map(str, cells))} |" + " |" * (width - len(cells))

    return "\n".join((line(header), "|---" * width + "|", *map(line, rows)))


def spread(values: Sequence[float] | np.ndarray, form: str) -> str:
    """Returns "mean (lowest to highest)", each number in the given format, such as ".2f"."""
    return f"{np.mean(values):{form}} ({np.min(values):{form}} to {np.max(values):{form}})"
