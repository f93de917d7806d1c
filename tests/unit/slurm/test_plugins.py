# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plugins that slurm.conf names are there, or are told."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.hpc.compute.plugins.module_utils.slurm.plugins import missing_plugins


def machine(root: Path, conf: str, folder: str = "usr/lib/x86_64-linux-gnu/slurm-wlm") -> Path:
    for name in ("task_cgroup", "task_affinity", "proctrack_cgroup"):
        path = root / folder / f"{name}.so"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    path = root / "slurm.conf"
    path.write_text(conf)
    return path


def test_what_is_there_is_no_matter(tmp_path: Path) -> None:
    conf = (
        "TaskPlugin = task/cgroup,task/Affinity # both\nproctracktype=proctrack/cgroup\n"
        "SwitchType=switch/none\nPrepPlugins=script\n"
    )
    assert missing_plugins(machine(tmp_path, conf), tmp_path) == []


def test_what_is_missing_is_named_with_its_file_and_the_folder(tmp_path: Path) -> None:
    path = machine(tmp_path, "#TaskPlugin=task/x\nInclude more.conf\n")
    (tmp_path / "more.conf").write_text("TaskPlugin=task/cgroup,task/none_such\n")
    assert missing_plugins(path, tmp_path) == [
        "TaskPlugin=task/none_such needs task_none_such.so, which is not in /usr/lib/x86_64-linux-gnu/slurm-wlm"
    ]


def test_a_folder_that_slurm_conf_names(tmp_path: Path) -> None:
    path = machine(tmp_path, "PluginDir=/opt/no:/opt/slurm/lib\nTaskPlugin=task/cgroup,task/new\n", "opt/slurm/lib")
    assert missing_plugins(path, tmp_path) == [
        "TaskPlugin=task/new needs task_new.so, which is not in /opt/no or /opt/slurm/lib"
    ]


@pytest.mark.parametrize("conf", ["TaskPlugin=task/none_such\n", "PluginDir=/none\nTaskPlugin=task/none_such\n"])
def test_without_a_folder_of_plugins_nothing_is_known(tmp_path: Path, conf: str) -> None:
    path = tmp_path / "slurm.conf"
    path.write_text(conf)
    assert missing_plugins(path, tmp_path) == []
