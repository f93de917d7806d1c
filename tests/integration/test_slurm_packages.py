# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Slurm from packages under SchedMD's names, moved from one version to the next.

The packages are Debian's own binaries, packed anew under those names: SchedMD publishes none that could be installed
here. Their plugins stay where Debian has them, as that is compiled in.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from integration.apt_repository import repack
from rig.node import Node

REPO = Path(__file__).resolve().parents[2]
_VENV = REPO / ".venv"
_PLAY = """
- hosts: all
  become: true
  gather_facts: false
  tasks:
    - ansible.builtin.import_role:
        name: hpc.compute.slurm_compute
"""
OLD, NEW = "24.11.4-1", "24.11.5-1"
_DEBIAN = ["slurm-wlm-basic-plugins", "slurmd", "slurm-client", "slurm-wlm-nvml-plugin"]
#: As dh_installsystemd writes it for them.
_POSTINST = """#!/bin/sh
set -e
if [ "$1" = configure ]; then
    deb-systemd-helper unmask slurmd.service >/dev/null || true
    deb-systemd-helper enable slurmd.service >/dev/null || true
    if [ -d /run/systemd/system ]; then
        systemctl --system daemon-reload >/dev/null || true
        if [ -n "$2" ]; then action=restart; else action=start; fi
        deb-systemd-invoke $action slurmd.service >/dev/null || true
    fi
fi
"""


@dataclass
class Said:
    """What a run of the role came to."""

    changed: int
    failed: int
    text: str


@dataclass
class Site:
    """A node with emulated GPUs, and packages on this machine."""

    node: Node
    folder: Path

    def run(self, *words: str, **variables: Any) -> Said:
        """Run the role on the node, which has no controller."""
        inventory = self.folder / "hosts.json"
        given = {
            **self.node.connection(),
            "slurm_compute_cluster_name": "packages",
            "slurm_compute_controllers": ["ctl(10.213.97.1)"],
            "slurm_compute_munge_key": "c2VjcmV0" * 12,
            "slurm_compute_node_health": False,
            **variables,
        }
        inventory.write_text(json.dumps({"all": {"children": {"compute": {"hosts": {self.node.name: given}}}}}))
        (self.folder / "group_vars").unlink(missing_ok=True)
        (self.folder / "group_vars").symlink_to(REPO / "tests/rig/group_vars")
        (self.folder / "play.yml").write_text(_PLAY)
        done = subprocess.run(
            [_VENV / "bin/ansible-playbook", "-i", inventory, self.folder / "play.yml", *words],
            env={
                **os.environ,
                "ANSIBLE_COLLECTIONS_PATH": str(_VENV / "collections"),
                "ANSIBLE_CONFIG": str(REPO / "tests/rig/ansible.cfg"),
                "ANSIBLE_NOCOLOR": "1",
            },
            capture_output=True,
            text=True,
            timeout=400,
        )
        text = done.stdout + done.stderr
        numbers = {key: int(value) for key, value in re.findall(r"(changed|failed)=(\d+)", text)}
        assert numbers, text
        return Said(**numbers, text=text)

    def told(self, *command: str) -> str:
        return self.node.run(list(command), check=False).stdout.strip()

    def version(self, package: str) -> str:
        """What dpkg says: wanted state, state, version."""
        return self.told("dpkg-query", "-W", "-f", "${db:Status-Want} ${db:Status-Status} ${Version}", package)


def schedmd(debs: dict[str, Path], folder: Path, version: str) -> None:
    """Debian's packages as those of SchedMD in *version*."""
    common = {"Version": version, "Source": "slurm-smd", "Recommends": None, "Suggests": None, "Replaces": None}
    conflicts = "slurm-wlm, slurm-wlm-basic-plugins, slurm-wlm-plugins"
    base = f"slurm-smd (= {version}), munge"
    says = "Debian's Slurm 24.11 under the name of SchedMD's package, for tests"
    nvml = folder.parent / "nvml"
    if not nvml.exists():
        subprocess.run(["dpkg-deb", "--extract", debs["slurm-wlm-nvml-plugin"], nvml], check=True)
    plugin = next(nvml.rglob("gpu_nvml.so"))
    repack(
        debs["slurm-wlm-basic-plugins"],
        folder,
        fields={**common, "Package": "slurm-smd", "Conflicts": conflicts, "Breaks": None, "Description": says},
        remove=["usr/lib/sysusers.d", "DEBIAN/postinst", "DEBIAN/postrm"],
        copy={str(plugin.relative_to(nvml)): plugin},
    )
    repack(
        debs["slurmd"],
        folder,
        fields={**common, "Package": "slurm-smd-slurmd", "Depends": base, "Conflicts": "slurmd", "Description": says},
        move={"usr/sbin/slurmd-wlm": "usr/sbin/slurmd", "usr/sbin/slurmstepd-wlm": "usr/sbin/slurmstepd"},
        remove=["etc/init.d", "etc/logrotate.d", "DEBIAN/preinst", "DEBIAN/prerm", "DEBIAN/postrm", "DEBIAN/conffiles"],
        replace={"DEBIAN/postinst": _POSTINST, "DEBIAN/conffiles": "/etc/default/slurmd\n"},
    )
    repack(
        debs["slurm-client"],
        folder,
        fields={
            **common,
            "Package": "slurm-smd-client",
            "Depends": f"{base}, liblua5.1-0, liblz4-1, libreadline8t64",
            "Conflicts": "slurm-client",
            "Description": says,
        },
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("slurm")
    node = Node("it-smd", "10.213.97.86")
    node.up(gpus="h100-80=1g.10gb*2")
    try:
        lists = "-o Dir::Etc::SourceParts=/root/sources -o Dir::State::Lists=/root/lists"
        node.run(
            [
                "sh",
                "-ec",
                "mkdir -p /root/sources /root/lists; cd /root;"
                "sed 's/^Components: .*/Components: main contrib/' /etc/apt/sources.list.d/debian.sources"
                " > sources/all.sources;"
                f"apt-get -qq {lists} update; apt-get -qq {lists} download {' '.join(_DEBIAN)}",
            ]
        )
        debs = {name: next((node.root / "root").glob(f"{name}_*.deb")) for name in _DEBIAN}
        for version in (OLD, NEW):
            schedmd(debs, folder / "debs", version)
        yield Site(node, folder)
        node.keep_packages()
    finally:
        node.down()


def test_packages_under_schedmds_names_in_two_versions(site: Site) -> None:
    source = {
        "slurm_compute_package_source": "debs",
        "slurm_compute_package_debs": str(site.folder / "debs"),
        "slurm_compute_package_hold": True,
    }
    said = site.run("--check", "--diff", **source, slurm_compute_package_version=OLD)
    assert said.failed == 0, said.text
    assert "from a source to be enabled first: slurm-smd" in said.text
    assert site.version("slurm-smd") == ""

    said = site.run(**source, slurm_compute_package_version=OLD)
    assert said.failed == 0, said.text
    for package in ("slurm-smd", "slurm-smd-slurmd", "slurm-smd-client"):
        assert site.version(package) == f"hold installed {OLD}"
    assert " installed" not in site.version("slurmd")
    assert site.told("systemctl", "is-active", "slurmd") == "active"
    assert site.told("id", "-u", "slurm") == "64030"
    assert "nvidia_h100_80gb_hbm3_1g.10gb" in (site.node.root / "etc/slurm/slurm.conf").read_text()
    started = site.told("systemctl", "show", "-p", "MainPID", "slurmd")
    said = site.run(**source, slurm_compute_package_version=OLD)
    assert (said.failed, said.changed) == (0, 0), said.text
    assert site.told("systemctl", "show", "-p", "MainPID", "slurmd") == started

    said = site.run(**source, slurm_compute_package_version="25.05.*")
    assert said.failed == 1, said.text
    assert f"slurm-smd-slurmd: expected version 25.05.*, found {NEW} from file:" in said.text
    assert site.version("slurm-smd-slurmd") == f"hold installed {OLD}"

    said = site.run(**source, slurm_compute_package_version=NEW)
    assert said.failed == 0, said.text
    for package in ("slurm-smd", "slurm-smd-slurmd", "slurm-smd-client"):
        assert site.version(package) == f"hold installed {NEW}"
    restarted = site.told("systemctl", "show", "-p", "MainPID", "slurmd")
    assert restarted not in (started, "MainPID=0"), "the new slurmd does not run"

    # Back to Debian's, whose packages conflict with those that are held.
    said = site.run(slurm_compute_package_hold=True)
    assert said.failed == 0, said.text
    assert " installed" not in site.version("slurm-smd-slurmd")
    assert site.version("slurmd").startswith("hold installed 24.11.")
    assert site.told("systemctl", "is-active", "slurmd") == "active"
    assert site.told("systemctl", "show", "-p", "MainPID", "slurmd") != restarted
    said = site.run(slurm_compute_package_hold=True)
    assert (said.failed, said.changed) == (0, 0), said.text
