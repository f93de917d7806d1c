# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A controller for tests: it has one node and its jobs, and answers as the real one was recorded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ansible_collections.hpc.compute.plugins.module_utils.slurm.control import Completed
from ansible_collections.hpc.compute.plugins.module_utils.slurm.scontrol import Scontrol

_RECORDED = Path(__file__).parent / "recorded"
SILENT = Completed(1, "", "slurm_load_node error: Unable to contact slurm controller (connect failure)")


def _read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((_RECORDED / f"{name}.json").read_text())
    return found


class Controller:
    """*silent*: how many commands it lets pass without an answer. *jobs_end*: the second at which its jobs end.

    *unheard_until*: the second from which on it has heard of the node and can resume it.
    """

    def __init__(self, node: str = "node_idle", jobs_end: float = 0) -> None:
        self.nodes = _read(node)
        self.jobs_end = jobs_end
        self.now = 0.0
        self.silent = 0
        self.refuses = ""
        self.unheard_until = 0.0
        self.commands: list[Sequence[str]] = []

    @property
    def node(self) -> dict[str, Any]:
        node: dict[str, Any] = self.nodes["nodes"][0]
        return node

    @property
    def updates(self) -> list[Sequence[str]]:
        return [command for command in self.commands if command[1] == "update"]

    def scontrol(self, patience_s: float = 60) -> Scontrol:
        return Scontrol(self.run, patience_s, lambda: self.now, self._sleep)

    def _sleep(self, seconds: float) -> None:
        self.now += seconds

    def run(self, command: Sequence[str]) -> Completed:
        self.commands.append(command)
        if self.silent:
            self.silent -= 1
            return SILENT
        if self.refuses:
            return Completed(1, "", self.refuses)
        if command[0] == "squeue":
            return Completed(0, json.dumps(_read("jobs_running") if self.now < self.jobs_end else {"jobs": []}), "")
        if command[1] == "update" and command[-1] == "State=RESUME" and self.now < self.unheard_until:
            return Completed(1, "", "slurm_update error: Invalid node state specified")
        if command[1] == "update":
            self._update(dict(word.split("=", 1) for word in command[2:]))
        return Completed(0, json.dumps(self.nodes), "")

    def _update(self, words: dict[str, str]) -> None:
        states = [state for state in self.node["state"] if state != "DRAIN"]
        self.node["state"] = states + (["DRAIN"] if words["State"] == "DRAIN" else [])
        self.node["reason"] = words.get("Reason", self.node["reason"])
