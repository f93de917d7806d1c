# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run Ansible as a user would, follow what it does, and read how it ended."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import environment
from .node import Node
from .paths import REPO, VENV
from .process import RigError, follow, log_end, run
from .progress import Step

_RECAP = re.compile(r"ok=(\d+)\s+changed=(\d+)\s+unreachable=(\d+)\s+failed=(\d+)")


@dataclass(frozen=True)
class Recap:
    """How many tasks were *ok* and how many *changed* something, all hosts together."""

    ok: int
    changed: int

    def __str__(self) -> str:
        return f"ok={self.ok} changed={self.changed}"


def playbook(words: Sequence[str | Path], hosts: Path, log: Path, shown_in: Step, collections: Path) -> Recap:
    """Run ``ansible-playbook`` with *words*, a playbook and options, on the inventory *hosts*.

    :param shown_in: the step that shows which task is under way.
    :param collections: folder in which Ansible finds the collection.
    :raises RigError: it failed; the message carries the end of *log*.
    """
    recaps: list[re.Match[str]] = []

    def read(line: str) -> None:
        if line.startswith(("TASK [", "RUNNING HANDLER [")):
            shown_in.show(line.partition("[")[2].rpartition("]")[0])
        if found := _RECAP.search(line):
            recaps.append(found)

    command: list[str | Path] = [VENV / "bin/ansible-playbook", "-i", hosts, *words]
    variables = {**environment.variables(collections), "ANSIBLE_CALLBACK_RESULT_FORMAT": "yaml"}
    code = follow(command, log=log, on_line=read, env=variables, cwd=REPO)
    if code != 0:
        raise RigError(f"the playbook {words[0]} failed with exit code {code}{log_end(log)}")
    return Recap(sum(int(found[1]) for found in recaps), sum(int(found[2]) for found in recaps))


def module(name: str, node: Node, hosts: Path, collections: Path) -> Any:
    """Run the module *name* on *node* as root and return its result.

    :raises RigError: it failed or said something that is no result.
    """
    command: list[str | Path] = [VENV / "bin/ansible", "-i", hosts, node.name, "--become", "-m", name]
    said = run(command, env=environment.variables(collections), cwd=REPO).stdout
    start = said.find("{")
    if start < 0:
        raise RigError(f"expected a result of the module {name}, found {said.strip()!r}")
    return json.JSONDecoder().raw_decode(said[start:])[0]
