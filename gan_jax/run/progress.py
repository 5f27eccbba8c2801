"""Displays of progress: a bar on a terminal, and otherwise a line every ten seconds."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import TextIO, TypeVar

from tqdm import tqdm

from gan_jax.run.folder import Record

TIMES = ("step", "steps_per_second", "seconds")
"""The entries of a record that are not metrics."""

_Item = TypeVar("_Item")


def in_words(record: Record) -> str:
    """Returns all metrics of a record as one line of names and values."""
    return " ".join(f"{k} {v:.3g}" for k, v in record.items() if k not in TIMES)


def time_left(elapsed: float, done: int, left: int) -> str:
    """Returns the time for `left` items as h:mm:ss, if `done` items took `elapsed` seconds."""
    return tqdm.format_interval(elapsed * left / done)


class Progress:
    """A progress bar. If there is no terminal, a line is printed every ten seconds instead.

    Args:
      start, total: number of items that are done, and of all items.
      words: a function of a record that returns the text for it.
      task: the name of the work, or "".
      unit: the name of an item, such as "step". Its plural ends in s.
      lines: the stream of the lines. None: stdout.
      leave: whether the bar remains when it is closed.
    """

    def __init__(
        self,
        start: int,
        total: int,
        words: Callable[[Record], str] = in_words,
        *,
        task: str = "",
        unit: str = "step",
        lines: TextIO | None = None,
        leave: bool = True,
    ) -> None:
        shown = {"unit": unit, "desc": task or None, "leave": leave, "dynamic_ncols": True}
        self._bar = tqdm(total=total, initial=start, disable=None, **shown)
        self._total, self._words, self._unit, self._lines = total, words, unit, lines
        self._task = f"{task}: " if task else ""
        self._first: tuple[int, float] | None = None
        self._printed = 0.0
        self._known: Record = {}

    def update(self, done: int, record: Record) -> None:
        """Shows the metrics of a record, and the last value of metrics that it lacks."""
        self._known |= record
        figures = self._words(self._known)
        if not self._bar.disable:
            self._bar.set_postfix_str(figures, refresh=False)
            self._bar.update(done - self._bar.n)
            return
        now = time.monotonic()
        if self._first is None:
            self._first = done, now  # the pace does not include compilation
        if now - self._printed >= 10 or done == self._total:
            self._printed = now
            number, seconds = done - self._first[0], now - self._first[1]
            pace = ""
            if number and seconds:
                left = time_left(seconds, number, self._total - done)
                pace = f"{number / seconds:.1f} {self._unit}s/s  ETA {left}  "
            line = f"{self._task}{self._unit} {done}/{self._total}  {pace}{figures}"
            print(line.rstrip(), file=self._lines, flush=True)

    def say(self, message: str) -> None:
        """Prints a line above the bar."""
        tqdm.write(message, file=sys.stdout if self._bar.disable else sys.stderr)

    def close(self) -> None:
        """Closes the bar and restores the terminal."""
        self._bar.close()


def over(
    items: Sequence[_Item], task: str, words: Callable[[_Item], str] = lambda item: ""
) -> Iterator[_Item]:
    """Yields the items, and shows on stderr how many of them are done.

    Stdout stays free for the results. Without a terminal, a line is printed at once, every ten
    seconds and at the end.

    Args:
      items: the items to work on. The display calls them parts.
      task: the name of the work.
      words: returns the text to show during the work on an item.
    """
    shown = Progress(
        0,
        len(items),
        lambda record: record["words"],
        task=task,
        unit="part",
        lines=sys.stderr,
        leave=False,
    )
    with closing(shown):
        for done, item in enumerate(items):
            shown.update(done, {"words": words(item)})
            yield item
        shown.update(len(items), {"words": ""})
