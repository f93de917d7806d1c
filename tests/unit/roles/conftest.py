# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs pieces of the roles on this machine, many hosts in one run, without a node: each host is a case."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

REPO = Path(__file__).resolve().parents[3]
#: What the role asks a machine; given as if gathered, so that any machine can run the tests.
TRIXIE = {"ansible_distribution": "Debian", "ansible_distribution_major_version": "13"}
FACTS = (*TRIXIE, "ansible_hostname")

#: hosts and their variables, tasks -> what Ansible printed; facts of single hosts override TRIXIE.
Play = Callable[..., str]


@pytest.fixture
def play(tmp_path: Path) -> Play:
    """Run tasks on hosts that are all this machine, and return Ansible's output whatever became of the tasks."""

    def run(
        hosts: Mapping[str, Mapping[str, Any]],
        tasks: Sequence[Mapping[str, Any]],
        facts: Mapping[str, Mapping[str, str]] | None = None,
    ) -> str:
        known = {
            name: {**own, "known": {**TRIXIE, "ansible_hostname": name, **(facts or {}).get(name, {})}}
            for name, own in hosts.items()
        }
        gathered = {
            "ansible.builtin.set_fact": {"cacheable": True, **{fact: f"{{{{ known.{fact} }}}}" for fact in FACTS}}
        }
        inventory = tmp_path / "hosts.yml"
        inventory.write_text(yaml.safe_dump({"all": {"hosts": known}}))
        config = tmp_path / "ansible.cfg"
        config.touch()  # an empty one, so that none of this machine counts
        playbook = tmp_path / "play.yml"
        playbook.write_text(yaml.safe_dump([{"hosts": "all", "gather_facts": False, "tasks": [gathered, *tasks]}]))
        done = subprocess.run(
            [Path(sys.executable).with_name("ansible-playbook"), "-i", inventory, playbook],
            env={
                **os.environ,
                "ANSIBLE_CONFIG": str(config),
                "ANSIBLE_COLLECTIONS_PATH": str(REPO / ".venv/collections"),
                "ANSIBLE_TRANSPORT": "local",
                "ANSIBLE_PYTHON_INTERPRETER": sys.executable,
                "ANSIBLE_LOCAL_TEMP": str(tmp_path / "ansible"),
                "ANSIBLE_REMOTE_TEMP": str(tmp_path / "ansible"),
                "ANSIBLE_INJECT_FACT_VARS": "false",
                "ANSIBLE_NOCOLOR": "1",
                "ANSIBLE_FORKS": "4",
            },
            capture_output=True,
            text=True,
            timeout=120,
        )
        output = done.stdout + done.stderr
        assert "PLAY RECAP" in output, output
        return output

    return run
