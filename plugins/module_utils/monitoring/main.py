# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command ``hpc-node-metrics``: what node exporter can't know, as files for its textfile collector."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from . import gpus, jobs, slurm_node, software, updates
from .metrics import Metric, Sample, render, write_whole
from .probe import CollectError, Probe

#: Debian's directory for the textfile collector of prometheus-node-exporter.
FOLDER = Path("var/lib/prometheus/node-exporter")

Collector = Callable[[Probe], list[Metric]]

#: ``state`` changes by the minute and is cheap; ``system`` asks apt, which is neither.
GROUPS: Mapping[str, Mapping[str, Collector]] = {
    "state": {"slurm": slurm_node.collect, "gpus": gpus.collect, "jobs": jobs.collect},
    "system": {"software": software.collect, "updates": updates.collect},
}


@dataclass(frozen=True)
class Collected:
    """What one collector said: *metrics*, or *error*; and how long it took."""

    name: str
    metrics: tuple[Metric, ...]
    seconds: float
    error: str | None = None


def main(arguments: Sequence[str] | None = None, probe: Probe | None = None, err: TextIO | None = None) -> int:
    """Run the command; its exit code."""
    options = parser().parse_args(arguments)
    probe = Probe() if probe is None else probe
    collected = [run(name, collector, probe) for name, collector in GROUPS[options.group].items()]
    for one in collected:
        if one.error is not None:
            print(f"hpc-node-metrics: {one.name}: {' '.join(one.error.split())}", file=err or sys.stderr, flush=True)
    text = render([*(metric for one in collected for metric in one.metrics), *health(collected)])
    if options.print:
        print(text, end="")
        return 0
    path = (options.directory or probe.root / FOLDER) / f"hpc-compute-{options.group}.prom"
    try:
        write_whole(path, text)
    except OSError as error:
        print(
            f"hpc-node-metrics: expected to write {path}: {error.strerror or error}; "
            "be root, and install prometheus-node-exporter, which makes the directory",
            file=err or sys.stderr,
        )
        return 1
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="hpc-node-metrics",
        description="Write metrics of this node for the textfile collector of prometheus-node-exporter.",
        epilog="A collector that fails leaves its metrics out, sets hpc_collector_success to 0 and says why on the "
        "standard error output. Exit codes: 0 the file is written, 1 it can't be, 2 wrong arguments.",
    )
    top.add_argument(
        "group",
        choices=sorted(GROUPS),
        help="what to collect: " + "; ".join(f"{name}: {', '.join(collectors)}" for name, collectors in GROUPS.items()),
    )
    top.add_argument("--directory", type=Path, metavar="DIR", help=f"where to (default: /{FOLDER})")
    top.add_argument("--print", action="store_true", help="print instead of writing a file")
    return top


def run(name: str, collector: Collector, probe: Probe, clock: Callable[[], float] = time.monotonic) -> Collected:
    """Run one collector; what it can't tell is an error of its own and none of the others'."""
    begin = clock()
    try:
        metrics, error = tuple(collector(probe)), None
    except CollectError as failure:
        metrics, error = (), str(failure)
    return Collected(name, metrics, clock() - begin, error)


def health(collected: Sequence[Collected], now: Callable[[], float] = time.time) -> list[Metric]:
    """How the collectors fared, and when: what a file that is no longer written anew would hide."""

    def each(name: str, text: str, value: Callable[[Collected], float]) -> Metric:
        return Metric(name, text, tuple(Sample(value(one), {"collector": one.name}) for one in collected))

    return [
        each(
            "hpc_collector_success", "Whether the collector could tell all it is asked for.", lambda c: c.error is None
        ),
        each("hpc_collector_duration_seconds", "How long the collector took.", lambda c: round(c.seconds, 3)),
        each("hpc_collector_timestamp_seconds", "When the collector ran last.", lambda _: round(now())),
    ]
