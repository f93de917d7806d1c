# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A load of jobs on a cluster of nodes of the rig, and the account of what became of each."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rig.node import Node
from rig.process import RigError, wait_for

_HERE = Path(__file__).parent
_UNIT = "load.service"
_ENDED = "/var/log/slurm/jobcomp.log"
#: Keys of slurm.conf that the account needs: the controller writes down how each job ended.
SLURM_CONF = {"JobCompType": "jobcomp/filetxt", "JobCompLoc": _ENDED}


@dataclass
class Account:
    """What became of the jobs. Lists hold a sentence for each case, empty when all is well.

    *stranded*: jobs that still wait for a type that no node offers any more; that is for who submitted them to decide.
    """

    submitted: int = 0
    completed: int = 0
    refused: int = 0
    stranded: int = 0
    lost: list[str] = field(default_factory=list)
    wrong_device: list[str] = field(default_factory=list)
    bad_states: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        return not (self.lost or self.wrong_device or self.bad_states) and self.completed > 0

    def __str__(self) -> str:
        figures = (
            f"jobs: {self.submitted} submitted, {self.completed} completed, {len(self.lost)} killed or lost, "
            f"{len(self.wrong_device)} on a wrong device, {self.stranded} still wait for a type that is gone; "
            f"{self.refused} refused at once for the same reason; "
            f"{len(self.bad_states)} times a node was INVAL or drained without our reason"
        )
        return "\n".join([figures, *self.lost[:20], *self.wrong_device[:20], *self.bad_states[:20]])


class Load:
    """Jobs that keep coming, on *compute* nodes, submitted on *controller*."""

    def __init__(self, controller: Node, compute: Sequence[Node]) -> None:
        self.controller = controller
        self.compute = tuple(compute)

    def start(self, seed: int) -> None:
        """Install the programs and begin."""
        for node in (self.controller, *self.compute):
            node.run(["sh", "-ec", "rm -rf /var/lib/load /run/load; mkdir -p /opt/load /var/lib/load"])
        for node in self.compute:
            (node.root / "opt/load/job.py").write_bytes((_HERE / "job.py").read_bytes())
        (self.controller.root / "opt/load/generator.py").write_bytes((_HERE / "generator.py").read_bytes())
        self.controller.run(["sh", "-c", f": > {_ENDED}; chown slurm: {_ENDED}"])
        started = ["systemd-run", "--quiet", f"--unit={_UNIT}", "--property=Environment=PYTHONDONTWRITEBYTECODE=1"]
        self.controller.run([*started, "python3", "-S", "/opt/load/generator.py", str(seed)])

    def stop(self, seconds: float = 120) -> Account:
        """No more jobs; wait for the last ones and give account of all.

        :raises RigError: the generator failed, or jobs that could run did not end.
        """
        self.controller.run(["touch", "/var/lib/load/stop"])
        wait_for("the generator to end", lambda: not self._generating(), 90, every=0.5)
        failed = self.controller.run(["systemctl", "is-failed", _UNIT], check=False).returncode == 0
        if failed:
            raise RigError(self.controller.run(["journalctl", "--no-pager", f"--unit={_UNIT}"]).stdout)
        stranded: set[str] = set()

        def ended() -> bool:
            left = self._unended()
            stranded.clear()
            stranded.update(name for name, state, type_ in left if state == "PENDING" and self._gone(type_))
            return len(left) == len(stranded)

        try:
            wait_for("the last jobs to end", ended, seconds, every=1)
        except RigError as error:
            raise RigError(f"{error}\n{self.controller.run(['squeue', '--long']).stdout}") from error
        account = self._account(stranded)
        for name in stranded:
            self.controller.run(["scancel", f"--name={name}"])
        return account

    def waiting_or_running(self) -> int:
        """How many jobs there are just now."""
        return len(self._unended())

    def _generating(self) -> bool:
        return self.controller.run(["systemctl", "--quiet", "is-active", _UNIT], check=False).returncode == 0

    def _unended(self) -> list[tuple[str, str, str]]:
        text = self.controller.run(["squeue", "--noheader", "--format=%j|%T|%b"]).stdout
        return [(name, state, wanted) for name, state, wanted in (line.split("|") for line in text.splitlines())]

    def _gone(self, wanted: str) -> bool:
        kind = re.search(r"gpu:([^:]+):\d+$", wanted)
        nodes = self.controller.run(["scontrol", "--oneliner", "show", "nodes"]).stdout
        return kind is not None and f"gpu:{kind[1]}:" not in nodes

    def _account(self, stranded: set[str]) -> Account:
        account = Account(stranded=len(stranded))
        ends: dict[str, list[str]] = {}
        for line in self._text(self.controller, _ENDED).splitlines():
            words = dict(word.split("=", 1) for word in line.split() if "=" in word)
            ends.setdefault(words["Name"], []).append(words["JobState"])
        told = self._told()
        for entry in self._lines("submitted"):
            name = entry["name"]
            if entry["state"] == "refused":  # sbatch said so; Slurm writes that down as a failed job without a node
                account.refused += 1
                continue
            # sbatch may have been cut off from a restarting controller that took the job all the same, or did not
            if entry["state"] == "unclear" and name not in ends and name not in stranded:
                continue
            account.submitted += 1
            if name in stranded:
                continue
            lines = told.get(name, [])
            bad = [f"{name} on {line['node']}: {line['text']}" for line in lines if line["event"] == "bad"]
            good = [line for line in lines if line["event"] == "good"]
            account.wrong_device += bad
            if ends.get(name) == ["COMPLETED"] and len(good) == entry["parts"] and not bad:
                account.completed += 1
            elif not bad:
                account.lost.append(f"{name}: Slurm says {ends.get(name, 'nothing')}, the job says {lines}")
        account.bad_states = [f"{line['node']}: {line['why']} ({line['reason']})" for line in self._lines("seen")]
        return account

    def _told(self) -> dict[str, list[dict[str, Any]]]:
        found: dict[str, list[dict[str, Any]]] = {}
        for node in self.compute:
            for path in (node.root / "var/lib/load").glob("load-*"):
                found.setdefault(path.name, []).extend(map(json.loads, path.read_text(encoding="utf-8").splitlines()))
        return found

    def _lines(self, name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._text(self.controller, f"/var/lib/load/{name}").splitlines()]

    @staticmethod
    def _text(node: Node, path: str) -> str:
        return (node.root / path.lstrip("/")).read_text(encoding="utf-8")
