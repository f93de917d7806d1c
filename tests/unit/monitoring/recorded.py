# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A machine whose commands are recorded, for the collectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible_collections.hpc.compute.plugins.module_utils.gpu.nvml import PynvmlMissing
from ansible_collections.hpc.compute.plugins.module_utils.monitoring.metrics import Metric
from ansible_collections.hpc.compute.plugins.module_utils.monitoring.probe import Probe
from ansible_collections.hpc.compute.plugins.module_utils.slurm.control import Completed

KERNEL = "6.12.48+deb13-amd64"


def no_pynvml() -> Any:
    raise PynvmlMissing("no pynvml here")


class Recorded:
    """*answers*: what commands print, by their first words; an exit code and a text for one that fails."""

    def __init__(self, root: Path, answers: Mapping[str, str | tuple[int, str]] | None = None) -> None:
        self.answers = dict(answers or {})
        self.asked: list[str] = []
        self.root = root
        self.probe = Probe(root, self.run, no_pynvml, lambda: KERNEL)

    def run(self, command: Sequence[str]) -> Completed:
        words = " ".join(command)
        self.asked.append(words)
        for begin, answer in self.answers.items():
            if words.startswith(begin):
                return Completed(0, answer, "") if isinstance(answer, str) else Completed(answer[0], "", answer[1])
        return Completed(127, "", f"{command[0]}: command not found")

    def file(self, path: str, text: str = "") -> Path:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        return target


def values(metrics: Sequence[Metric], name: str) -> dict[tuple[str, ...], float]:
    """The samples of one metric by the values of their labels."""
    (metric,) = [one for one in metrics if one.name == name]
    return {tuple(sample.labels.values()): sample.value for sample in metric.samples}
