"""The result rows of a part, saved after each row, and the part's time limit."""

import json
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

from gan_jax.run.tables import markdown

Row: TypeAlias = dict[str, Any]
"""The results of one measurement. It has the key `error` if the measurement failed."""

TABLES = "tables.md"
"""The file with the tables of all parts."""

_TRACEBACK_LINES = 12


class Sheet:
    """The rows of one part, in a JSON file that is rewritten after each row.

    An interrupted run keeps its rows, and the next run continues after them. Threads may add rows.

    Args:
      folder: the folder for the files of all parts.
      part: the name of the part and of its file.
      seconds: the part's time limit, counted from now.
    """

    def __init__(self, folder: Path, part: str, seconds: float) -> None:
        self.folder, self.part = folder, part
        self._path, self._lock = folder / f"{part}.json", threading.RLock()
        self._start, self._deadline = time.monotonic(), time.monotonic() + seconds
        self.content: dict[str, Any] = {"part": part, "finished": False, "facts": {}, "rows": []}
        if self._path.exists():
            self.content = json.loads(self._path.read_text())
            self.content["rows"] = [row for row in self.rows if "error" not in row]

    @property
    def rows(self) -> list[Row]:
        """Returns all rows so far."""
        rows: list[Row] = self.content["rows"]
        return rows

    @property
    def finished(self) -> bool:
        """Returns True if the part was completed, in this run or an earlier one."""
        return bool(self.content["finished"])

    @property
    def left(self) -> float:
        """Returns the seconds until the part should start no more work."""
        return self._deadline - time.monotonic()

    def facts(self, **facts: Any) -> None:
        """Adds facts that hold for all rows."""
        with self._lock:
            self.content["facts"] |= facts
            self._write()

    def attempt(self, table: str, name: str, make: Callable[[], Row]) -> Row | None:
        """Adds the row that `make` returns, or its error. An existing row is kept.

        If no time is left, `make` is not called, and the row says so.

        Returns:
          The row, or None if it failed, had no time left or existed already.
        """
        key = {"table": table, "name": name}
        if any(row["table"] == table and row["name"] == name for row in self.rows):
            return None
        if self.left <= 0:
            self._add(key | {"error": "left out: no time was left"}, f"{name}: no time left")
            return None
        start = time.monotonic()
        try:
            made = make()
        except Exception as error:
            lines = traceback.format_exc().strip().splitlines()[-_TRACEBACK_LINES:]
            what = f"{type(error).__name__}: {error}".splitlines()[0][:300]
            self._add(key | {"error": what, "traceback": lines}, f"{name}: {what}")
            return None
        row = key | made | {"took s": round(time.monotonic() - start, 2)}
        values = (f"{k} {v}" for k, v in made.items() if isinstance(v, str | int | float))
        self._add(row, f"{name}: {', '.join(values)}")
        return row

    def done(self) -> None:
        """Marks the part as finished."""
        with self._lock:
            seconds = round(time.monotonic() - self._start, 1)
            self.content |= {"finished": True, "seconds": seconds}
            self._write()

    def _add(self, row: Row, line: str) -> None:
        with self._lock:
            self.rows.append(row)
            self._write()
            print(f"[{self.part} {time.monotonic() - self._start:5.1f} s] {line}", flush=True)

    def _write(self) -> None:
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text(json.dumps(self.content, indent=1, default=str) + "\n")
        temporary.replace(self._path)
        write_tables(self.folder)


def write_tables(folder: Path) -> None:
    """Writes the tables of all parts that have a file in the folder."""
    contents = (json.loads(path.read_text()) for path in sorted(folder.glob("*.json")))
    texts = [tables(content) for content in contents]
    (folder / TABLES).write_text("\n\n".join(texts) + "\n")


def tables(content: dict[str, Any]) -> str:
    """Returns a part's rows in Markdown: one table for each value of `table`, then the errors."""
    state = f"{content['seconds']} s" if content["finished"] else "cut short"
    texts = [f"## {content['part']} ({state})"]
    texts += [f"- {name}: {value}" for name, value in content["facts"].items()]
    good = [row for row in content["rows"] if "error" not in row]
    for table in dict.fromkeys(row["table"] for row in good):
        rows = [row for row in good if row["table"] == table]
        columns = [c for c in dict.fromkeys(c for row in rows for c in row) if c != "table"]
        cells = ([_cell(row.get(column, "")) for column in columns] for row in rows)
        texts += ["", f"### {table}", "", markdown(columns, cells)]
    bad = [row for row in content["rows"] if "error" in row]
    if bad:
        texts += ["", "### Not available", ""]
        texts += [f"- {row['table']}, {row['name']}: {row['error']}" for row in bad]
    return "\n".join(texts)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value).replace("|", "/")
