"""Run every workload and print one Markdown table: `python -m benchmarks [--quick] [--out benchmarks/RESULTS.md]`."""

import argparse
import importlib.metadata
import math
import platform
import sys
import time
from pathlib import Path

import torch

from benchmarks import coupling, few_steps, guidance, imports, likelihood, manifolds, sampling, tokens, training_step
from fmlib import devices

WORKLOADS = (training_step, coupling, sampling, guidance, few_steps, tokens, manifolds, likelihood, imports)
VERSIONS = ("torch", "flow_matching", "torchcfm", "POT", "scipy", "numpy")


def machine() -> str:
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.partition(":")[2].strip() for line in lines if "model name" in line), cpu)
    place = devices.device_of()
    gpu = f", {torch.cuda.get_device_name()}" if place.type == "cuda" else ""
    bf16 = "are faster than" if devices.multiplies_bf16(place) else "are not timed, as they are no faster than"
    return f"{cpu}, {torch.get_num_threads()} threads{gpu}; products in bf16 {bf16} in float32"


def line(row) -> str:
    def seconds(value):
        return "" if math.isnan(value) else f"{1000 * value:.3g} ms"

    ratio = "" if math.isnan(row.ratio) else f"{row.ratio:.2f}"
    cells = [row.workload, row.against, seconds(row.ours), seconds(row.theirs), ratio, row.wanted, row.quality]
    return f"| {' | '.join(cells)} |"


def missed(rows: list) -> list[str]:
    """A list of the rows whose ratio is not the wanted one, with what their profile says."""
    found = [f"- {row.workload}: {row.why or 'no profile yet'}" for row in rows if row.missed()]
    return ["", "Where the wanted ratio is missed:", "", *found] if found else []


def main() -> None:
    options = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    options.add_argument("--quick", action="store_true", help="fewer sizes and steps, under three minutes")
    options.add_argument("--out", type=Path, help="write the table to this file too")
    chosen = options.parse_args()
    start = time.perf_counter()
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in VERSIONS)
    head = [
        "# Measured side by side",
        "",
        f"{machine()}. Python {platform.python_version()}, {versions}.",
        "",
        "Both sides run in one process with the same network weights, in turn; times, and ratios (theirs / ours: above",
        "1, `fmlib` is faster) are medians of three to seven pairs. *Wanted* is the goal. `make bench` repeats it all.",
        "",
        "| workload | against | ours | theirs | ratio | wanted | what both computed |",
        "|---|---|---|---|---|---|---|",
    ]
    print("\n".join(head), flush=True)
    rows, before = [], start
    for workload in WORKLOADS:
        for row in workload.rows(chosen.quick):
            rows.append(row)
            print(line(row), flush=True)
            print(f"{time.perf_counter() - before:6.1f} s  {row.workload}", file=sys.stderr, flush=True)
            before = time.perf_counter()
    tail = missed(rows)
    print("\n".join(tail))
    print(f"\n{before - start:.0f} s in all", file=sys.stderr)
    if chosen.out:
        chosen.out.write_text("\n".join([*head, *map(line, rows), *tail]) + "\n")


if __name__ == "__main__":
    main()
