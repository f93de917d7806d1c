# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The whole answer about a machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from ansible_collections.hpc.compute.plugins.module_utils.containers.facts import gather


def _machine(root: Path) -> None:
    for name, text in {
        "etc/apptainer/nvliblist.conf": "libcuda.so\n# BEGIN hpc.compute\nlibx.so\n# END hpc.compute\n",
        "proc/self/mounts": "/dev/sda / ext4 rw 0 0\n",
    }.items():
        (root / name).parent.mkdir(parents=True)
        (root / name).write_text(text)


def test_an_answer(tmp_path: Path) -> None:
    _machine(tmp_path)
    answers = {
        "ldconfig": (0, "", ""),
        "dpkg": (0, "amd64\n", ""),
        "dpkg-query": (0, "installed apptainer 1.5.4\n", ""),
        "setpriv": (0, "", ""),
    }

    def run(command: Sequence[str]) -> tuple[int, str, str]:
        return answers[command[0]]

    assert gather(run, "/tmp", tmp_path) == {
        "architecture": "amd64",
        "versions": {"apptainer": "1.5.4", "apptainer-suid": ""},
        "user_namespaces": {"available": True, "reason": ""},
        "fuse": False,
        "temporary_in_memory": False,
        "temporary_there": False,
        "driver": {"version": "", "names": (), "unlisted": (), "missing": ()},
        "nvliblist_added": ["libx.so"],
        "device_specifications": [],
    }
    (tmp_path / "tmp").mkdir()
    assert gather(run, "/tmp", tmp_path)["temporary_there"] is True
    answers["ldconfig"] = (1, "", "broken\n")
    with pytest.raises(OSError, match="answer of 'ldconfig -p', it failed with exit code 1: broken"):
        gather(run, "/tmp", tmp_path)
    answers["ldconfig"] = (1, "", "")
    with pytest.raises(OSError, match="no message"):
        gather(run, "/tmp", tmp_path)
