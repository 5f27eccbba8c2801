"""The output of measurements: Markdown tables, a results file and facts about the machine."""

import dataclasses
import math
import os
import platform
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.cases import Case
from benchmarks.driver import Timed
from benchmarks.flops import step_flops
from benchmarks.workers.machine import COPY_BYTES, GEMM_FLOPS
from gan_jax.errors import UserError
from gan_jax.run.tables import markdown

BASELINE = "torch_tuned"
"""The contender to which the ratios refer."""

MACHINE = {
    "gemm_jax": (GEMM_FLOPS, "GFLOP/s"),
    "gemm_torch": (GEMM_FLOPS, "GFLOP/s"),
    "copy": (COPY_BYTES, "GB/s"),
}
"""The measurements of the machine, each with the operations or bytes of a step and its unit."""


@dataclasses.dataclass(frozen=True)
class Result:
    """The results of one case at one batch size.

    Attributes:
      case, batch_size: the case and batch size.
      contenders: contenders by name.
      machine: the machine measurements of the same rounds, by name.
    """

    case: Case
    batch_size: int
    contenders: dict[str, Timed]
    machine: dict[str, Timed]

    @property
    def gemm_gflops(self) -> float:
        """Returns the machine's rate of matrix products in GFLOP/s, with the faster library."""
        rates = [self._machine_rate(name) for name in ("gemm_jax", "gemm_torch")]
        return max((rate for rate in rates if rate is not None), default=math.nan)

    def _machine_rate(self, name: str) -> float | None:
        timed = self.machine.get(name)
        if timed is None or not timed.windows:
            return None
        return median(timed.rates) * MACHINE[name][0] / 1e9

    def to_json(self) -> dict[str, Any]:
        """Returns all results for the results file."""
        flops = step_flops(self.case, self.batch_size)
        return {
            "case": dataclasses.asdict(self.case),
            "batch_size": self.batch_size,
            "step_flops": None if math.isnan(flops) else flops,
            "contenders": {name: timed.to_json() for name, timed in self.contenders.items()},
            "machine": {name: timed.to_json() for name, timed in self.machine.items()},
        }

    def table(self) -> str:
        """Returns a table with the contenders as rows."""
        case, size = self.case, self.batch_size
        flops = step_flops(case, size)
        counted = "" if math.isnan(flops) else f"{flops / 1e9:.3g} GFLOP a step; "
        examples = "samples" if case.on_ring else "images"
        header = (
            *("contender", "steps/s", "min to max", f"{examples}/s", f"÷ {BASELINE}"),
            *("share of GEMM", "peak MiB", "losses agree to"),
        )
        return (
            f"### {case.name}, batch {size}\n\n"
            f"{counted}{self._machine_line()}\n\n"
            f"{markdown(header, map(self._row, self.contenders))}"
        )

    def _machine_line(self) -> str:
        rates = {name: self._machine_rate(name) for name in MACHINE}
        known = (f"{n} {rate:.1f} {MACHINE[n][1]}" for n, rate in rates.items() if rate is not None)
        busy = [
            window.disturbance
            for timed in self.contenders.values()
            for window in timed.windows
            if window.disturbance is not None
        ]
        other = (
            f"; other processes: {median(busy):.2f} cores (most {max(busy):.2f})" if busy else ""
        )
        return "the machine: " + ", ".join(known) + other

    def _row(self, name: str) -> tuple[str, ...]:
        timed = self.contenders[name]
        if timed.unavailable is not None or not timed.windows:
            return name, f"not available: {timed.unavailable}"
        rate = median(timed.rates)
        share = rate * step_flops(self.case, self.batch_size) / 1e9 / self.gemm_gflops
        return (
            name,
            _number(rate),
            f"{_number(min(timed.rates))} to {_number(max(timed.rates))}",
            _number(rate * self.batch_size * self.case.n_critic),
            self._ratio(timed),
            "" if math.isnan(share) else f"{share:.1%}",
            "" if timed.peak_bytes is None else f"{timed.peak_bytes / 2**20:.0f}",
            "reference" if timed.deviation is None else f"{timed.deviation:.0e}",
        )

    def _ratio(self, timed: Timed) -> str:
        """Returns the median of the ratios of the rounds. A slow phase of the machine affects both
        speeds of a ratio."""
        baseline = self.contenders.get(BASELINE)
        if baseline is None or baseline.unavailable is not None:
            return ""
        pairs = zip(timed.rates, baseline.rates, strict=True)
        return f"{median(ours / theirs for ours, theirs in pairs):.2f}"


def _number(x: float) -> str:
    """Returns the number with three digits and without an exponent."""
    return f"{x:.0f}" if x >= 100 else f"{x:.3g}"


def check_out(out: Path | None, flag: str = "--out") -> None:
    """Creates the folder of an output file, so that a bad path fails before the work starts.

    Raises:
      UserError: `out`, the value of `flag`, is a folder, or its folder cannot be created.
    """
    if out is None:
        return
    if out.is_dir():
        raise UserError(f"{flag} {out} is a folder: name a file")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{flag} {out} cannot be created ({error}): name another file") from None


def machine_facts() -> dict[str, Any]:
    """Returns the processor and the system."""
    cpuinfo = Path("/proc/cpuinfo")
    names = [
        line.split(":", 1)[1].strip()
        for line in (cpuinfo.read_text().splitlines() if cpuinfo.exists() else [])
        if line.startswith("model name")
    ]
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
    }
