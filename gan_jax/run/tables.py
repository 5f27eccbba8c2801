"""Tables as text."""

from collections.abc import Iterable, Sequence


def markdown(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table in Markdown; a row shorter than the header ends in empty cells."""
    width = len(header)

    def line(cells: Sequence[object]) -> str:
        return f"| {' | '.join(map(str, cells))} |" + " |" * (width - len(cells))

    return "\n".join((line(header), "|---" * width + "|", *map(line, rows)))
