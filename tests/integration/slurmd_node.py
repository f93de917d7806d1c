# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A rig node on which slurmd is installed, and the questions that the tests ask it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rig.node import Node

REPO = Path(__file__).resolve().parents[2]
_PACKAGES = ("slurmd", "slurm-client", "slurm-wlm-nvml-plugin", "munge")
_ENGINE = Path("opt/engine/ansible_collections/hpc/compute/plugins/module_utils")
_EMULATOR_SETTINGS = Path("etc/emulated-gpu.conf")


class SlurmdNode:
    """See :class:`rig.node.Node`. The engine lies on it without Ansible, as it must work from a shell, too."""

    def __init__(self, name: str, ip: str) -> None:
        self.node = Node(name, ip)

    def up(self) -> None:
        """Boot it with one emulated GPU, and install."""
        self.node.up(gpus="t4")
        root = self.node.root
        shutil.copytree(
            REPO / "plugins/module_utils",
            root / _ENGINE,
            ignore=shutil.ignore_patterns("__pycache__"),
            dirs_exist_ok=True,
        )
        for script in ("slurmd_batch.py", "predict.py"):
            shutil.copy(REPO / "tests/integration" / script, root / "opt" / script)
        sources = root / "etc/apt/sources.list.d/debian.sources"
        sources.write_text(sources.read_text().replace("Components: main\n", "Components: main contrib\n"))
        # slurmd has no configuration here, and its unit would wait for one
        policy = root / "usr/sbin/policy-rc.d"
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
        install = "DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install"
        self.node.run(["sh", "-ec", f"apt-get -qq update && {install} {' '.join(_PACKAGES)}"])
        # unpacked only: its dependency is NVIDIA's library, in whose place the emulated one is
        self.node.run(["sh", "-ec", "cd /tmp; apt-get -qq download python3-pynvml; dpkg -x python3-pynvml_*.deb /"])
        self.node.keep_packages()
        self.node.run(["systemctl", "start", "munge"])

    def down(self) -> None:
        self.node.down()

    def use_gpus(self, spec: str) -> None:
        """Give it other emulated GPUs, as with another machine."""
        settings = self.node.root / _EMULATOR_SETTINGS
        lines = settings.read_text().splitlines()
        lines = [f"EMULATED_GPUS={spec}" if line.startswith("EMULATED_GPUS=") else line for line in lines]
        self.node.run(["systemctl", "stop", "emulated-gpu"])
        settings.write_text("\n".join(lines) + "\n")
        start = "rm -f /var/lib/emulated-gpu/state.json; systemctl start emulated-gpu || {\n%s\nexit 1\n}"
        self.node.run(["sh", "-ec", start % "journalctl --no-pager --output=cat --lines=9 --unit=emulated-gpu >&2"])

    def predict(self) -> dict[str, Any]:
        """What the engine says of the node's GPUs; see predict.py."""
        done = self.node.run(["env", "PYTHONPATH=/opt/engine", "python3", "/opt/predict.py"])
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def ask_slurmd(self, cases: Sequence[dict[str, str | None]]) -> list[dict[str, Any]]:
        """What ``slurmd -G`` says of each case; see slurmd_batch.py."""
        done = self.node.run(["python3", "/opt/slurmd_batch.py"], stdin=json.dumps(list(cases)))
        answers: list[dict[str, Any]] = json.loads(done.stdout)
        return answers
