"""Tables as text."""

from collections.abc import Iterable, Sequence


def markdown(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Returns a table in Markdown. Rows shorter than the header are filled with empty cells."""
    width = len(header)

    def line(cells: Sequence[object]) -> str:
        return f"| {' | '.join(map(str, cells))} |" + " |" * (width - len(cells))

    return "\n".join((line(header), "|---" * width + "|", *map(line, rows)))
