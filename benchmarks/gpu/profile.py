"""Lists the operations that take most of a DCGAN's step, by the device's own times."""

import gzip
import json
import re
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax

from benchmarks.cases import CASES
from benchmarks.flops import step_flops
from benchmarks.gpu.correct import compiled_operations
from benchmarks.gpu.jax_worker import real, training
from benchmarks.gpu.sheet import Row, Sheet
from benchmarks.gpu.speed import PEAKS, narrow

_STEPS = 20
_SHOWN = 10


def run(sheet: Sheet, small: bool) -> None:
    """Adds a row for the program of each precision, and rows for its longest operations."""
    sheet.facts(device=jax.devices()[0].device_kind, steps=_STEPS)
    batch_size = 8 if small else 256
    for precision in ("bfloat16", "tf32"):
        name = f"DCGAN 28, batch {batch_size}, {precision}"
        longest: list[Row] = []
        sheet.attempt("programs", name, partial(_profile, precision, batch_size, small, longest))
        for number, row in enumerate(longest, 1):
            sheet.attempt(name, f"{number}", partial(dict, row))


def _profile(precision: str, batch_size: int, small: bool, longest: list[Row]) -> Row:
    """Returns the row of a program, and adds the rows of its longest operations to `longest`."""
    case = narrow(CASES["dcgan28"]) if small else CASES["dcgan28"]
    (state, step), batch = training(case, precision), real(case, batch_size)
    compiled = jax.jit(step, donate_argnums=0).lower(state, batch).compile()
    text = compiled.as_text() or ""
    for _ in range(5):
        state, _ = compiled(state, batch)
    jax.block_until_ready(state)
    begin = time.perf_counter()
    for _ in range(_STEPS):
        state, _ = compiled(state, batch)
    jax.block_until_ready(state)
    seconds = (time.perf_counter() - begin) / _STEPS
    row: Row = {
        "ms/step, a call each": 1e3 * seconds,
        "GFLOP by the architecture": step_flops(case, batch_size) / 1e9,
        **_costs(compiled, seconds, precision),
        "operations": compiled_operations(text),
    }
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(_STEPS):
                state, _ = compiled(state, batch)
            jax.block_until_ready(state)
        traces = sorted(Path(folder).rglob("*.trace.json.gz"))
        events = json.loads(gzip.decompress(traces[-1].read_bytes()))["traceEvents"]
    times = operations(events)
    total = sum(times.values())
    longest += [
        {
            "operation": name,
            "share": f"{spent / total:.1%}",
            "µs/step": spent / _STEPS,
            "from": source(text, name),
        }
        for name, spent in times.most_common(_SHOWN)
    ]
    return row | {"device ms/step": total / 1e3 / _STEPS}


def _costs(compiled: Any, seconds: float, precision: str) -> Row:
    """Returns the FLOPs and bytes that XLA counts. XLA omits operations that it does not know."""
    try:
        cost, memory = compiled.cost_analysis(), compiled.memory_analysis()
        flops, moved = float(cost["flops"]), float(cost["bytes accessed"])
    except Exception as error:  # some backends do not count
        return {"XLA's count": f"none: {type(error).__name__}"}
    machine = PEAKS[precision]
    return {
        "GFLOP by XLA": flops / 1e9,
        "MB by XLA": moved / 1e6,
        "share of memory, by XLA": f"{moved / seconds / machine.memory:.1%}",
        "scratch MiB": getattr(memory, "temp_size_in_bytes", 0) / 2**20,
    }


def operations(events: list[dict[str, Any]]) -> Counter[str]:
    """Returns the microseconds of each operation on the device, from the events of a trace.

    On a GPU, the events of the streams count. On a CPU, the events that name an operation count.
    """
    process, thread = dict[int, str](), dict[tuple[int, int], str]()
    for event in events:
        if event.get("name") == "process_name":
            process[event["pid"]] = event["args"]["name"]
        if event.get("name") == "thread_name":
            thread[event["pid"], event["tid"]] = event["args"]["name"]
    gpus = {pid for pid, name in process.items() if "GPU" in name}

    def on_device() -> Iterator[dict[str, Any]]:
        for event in events:
            if event.get("ph") != "X":
                continue
            named = "hlo_op" in event.get("args", {})
            stream = "Stream" in thread.get((event["pid"], event["tid"]), "")
            if (event["pid"] in gpus and stream) if gpus else named:
                yield event

    times = Counter[str]()
    for event in on_device():
        times[event.get("args", {}).get("hlo_op") or event["name"]] += event["dur"]
    return times


def source(text: str, name: str) -> str:
    """Returns the origin of an operation from the program's metadata, or "" if it is unknown."""
    for line in text.splitlines():
        if re.match(rf"\s*(ROOT )?%?{re.escape(name)} =", line):
            known = re.search(r'op_name="([^"]+)"', line)
            target = re.search(r'custom_call_target="([^"]+)"', line)
            parts = (target and target[1], known and "/".join(known[1].split("/")[-3:]))
            return " ".join(part for part in parts if part)
    return ""
