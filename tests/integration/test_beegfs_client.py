# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role beegfs_client on a machine with two kernels: from bare, over an image, to a client that goes from 7.4 to 8.

The tests are in the order of a machine's life and stand on each other. What is BeeGFS's own is stood in for; see
``beegfs_packages.py``.
"""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from integration.apt_repository import SignedRepository, SigningKey, serve
from integration.beegfs_packages import ManagementDaemon, make_packages
from integration.package_runs import transactions
from rig.network import GATEWAY
from rig.node import Node

REPO = Path(__file__).resolve().parents[2]
_VENV = REPO / ".venv"
SECRET = bytes(range(256)) * 2
TEXT = base64.b64encode(SECRET).decode()
#: No mount of BeeGFS can be had in a container: the stand-in mounts a tmpfs, and says so.
STOOD_IN = {"__beegfs_client_fstypes": ["tmpfs"]}
_PLAY = """
- hosts: all
  become: true
  gather_facts: false
  roles:
    - hpc.compute.beegfs_client
"""
#: Says in the journal whether the file system was there when it started.
_SLURMD = """[Service]
ExecStartPre=/bin/sh -c 'grep " /mnt/beegfs " /proc/self/mountinfo'
ExecStart=/bin/sleep infinity
"""


@dataclass
class Said:
    """What a run of the role came to."""

    changed: int
    failed: int
    ok: int
    text: str
    seconds: float


class Site:
    """A node, BeeGFS's repository, and a management daemon, all stood in for."""

    def __init__(self, node: Node, folder: Path, key: SigningKey, url: str, daemon: ManagementDaemon) -> None:
        self.node = node
        self.folder = folder
        self.key = key
        self.url = url
        self.daemon = daemon

    def given(self, **other: Any) -> dict[str, Any]:
        return {
            **STOOD_IN,
            "beegfs_client_repository_url": self.url,
            "beegfs_client_repository_key": self.key.public,
            "beegfs_client_conn_auth": TEXT,
            "beegfs_client_mounts": [self.mount()],
            **other,
        }

    def mount(self, path: str = "/mnt/beegfs", **other: Any) -> dict[str, Any]:
        return {"path": path, "mgmtd_host": GATEWAY, "mgmtd_port": self.daemon.port, **other}

    def run(self, *words: str, **variables: Any) -> Said:
        inventory = self.folder / "hosts.json"
        inventory.write_text(json.dumps({"all": {"hosts": {self.node.name: self.node.connection()}}}))
        playbook = self.folder / "play.yml"
        playbook.write_text(_PLAY)
        values = self.folder / "values.json"
        values.write_text(json.dumps(self.given(**variables)))
        start = time.monotonic()
        done = subprocess.run(
            [_VENV / "bin/ansible-playbook", "-i", inventory, playbook, "-e", f"@{values}", *words],
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
        numbers = {key: int(value) for key, value in re.findall(r"(ok|changed|failed)=(\d+)", text)}
        assert numbers, text
        assert TEXT not in text, "the secret is in what Ansible says"
        return Said(**numbers, text=text, seconds=time.monotonic() - start)

    def succeeds(self, *words: str, **variables: Any) -> Said:
        said = self.run(*words, **variables)
        assert said.failed == 0, said.text
        return said

    def fails(self, pattern: str, *words: str, **variables: Any) -> Said:
        said = self.run(*words, **variables)
        assert said.failed == 1, said.text
        # Ansible escapes quotes and line breaks in the result that it prints
        assert re.search(pattern, said.text.replace("\\n", "\n").replace('\\"', '"')), said.text
        return said

    def packages(self) -> dict[str, str]:
        """What dpkg has of BeeGFS, in whatever state."""
        shown = self.node.run(["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status} ${Version}\\n"]).stdout
        rows = (line.split() for line in shown.splitlines())
        return {row[0]: " ".join(row[1:]) for row in rows if "beegfs" in row[0] and row[1] != "not-installed"}

    def modules(self) -> list[str]:
        """Kernels for which the module is installed, with its version."""
        shown = self.node.run(["dkms", "status"], check=False).stdout
        return re.findall(r"^beegfs/(\S+), (?:\S+)-(?:cloud-)?amd64, \S+: installed$", shown, re.MULTILINE)

    def mounted(self, path: str = "/mnt/beegfs") -> str:
        """Source and options of what is mounted there."""
        found = self.node.run(["findmnt", "-n", "-o", "SOURCE,OPTIONS", path], check=False).stdout
        return found.strip()

    def state(self, unit: str) -> tuple[str, str]:
        shown = [self.node.run(["systemctl", verb, unit], check=False) for verb in ("is-enabled", "is-active")]
        return (shown[0].stdout.strip(), shown[1].stdout.strip())

    def read(self, path: str) -> str:
        return self.node.run(["cat", path]).stdout

    def exists(self, path: str) -> bool:
        return self.node.run(["test", "-e", path], check=False).returncode == 0

    def untouched(self) -> None:
        """Nothing of BeeGFS is on the machine, and apt works."""
        assert self.packages() == {}
        assert not self.exists("/etc/beegfs/conn.auth")
        assert not self.exists("/etc/systemd/system/mnt-beegfs.mount")
        assert not self.exists("/etc/dkms/no-autoinstall")
        self.node.run(["apt-get", "-qq", "check"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("beegfs")
    for version, broken in (("7.4.7", False), ("8.3.0", False), ("8.3.1", False), ("8.4.0", True)):
        make_packages(folder / "debs", version, broken=broken)
    key = SigningKey.make(folder / "key")
    tree = SignedRepository(folder / "tree", key, components=["non-free"])
    tree.publish({"non-free": sorted((folder / "debs").glob("*.deb"))})
    node = Node("it-beegfs", "10.213.97.73", image="kernels")
    node.up(gpus=None)
    try:
        with serve(tree.folder) as url, ManagementDaemon().serving() as daemon:
            daemon.secret = SECRET
            yield Site(node, folder, key, url, daemon)
    finally:
        node.keep_packages()
        node.down()


def test_by_default_a_machine_is_no_client(site: Site) -> None:
    said = site.succeeds(beegfs_client_mounts=[])
    assert (said.changed, site.packages()) == (0, {})


def test_mistakes_are_told_together_and_nothing_is_touched(site: Site) -> None:
    said = site.fails(
        r"has no key connMaxInternodenum .*is connMaxInternodeNum meant",
        beegfs_client_version="7.4.6",
        beegfs_client_conn_auth="",
        beegfs_client_settings={"connMaxInternodenum": 3, "quotaEnabled": "maybe"},
        beegfs_client_packages_extra=["beegfs-storage"],
    )
    for words in (
        "quotaEnabled must be true or false",
        "the secret of BeeGFS's connection authentication is needed",
        "this role makes clients only, found the server package beegfs-storage",
        "BeeGFS 7.4.6 is known to build for kernels up to 6.11, found 6.12.",
    ):
        assert words in said.text, said.text
    site.untouched()
    site.fails("Could not connect", beegfs_client_repository_url="http://10.213.97.1:1")
    stranger = SigningKey.make(site.folder / "stranger")
    site.fails("Missing key", beegfs_client_repository_key=stranger.public)
    site.untouched()


def test_check_mode_on_the_bare_machine(site: Site) -> None:
    said = site.succeeds("--check", "--diff")
    assert re.search(r"from a source to be enabled first: .*beegfs-client-dkms", said.text), said.text
    assert "+connMgmtdPort = " in said.text
    assert "+(a secret)" in said.text
    site.untouched()
    assert not site.exists("/etc/beegfs")


def test_an_image_has_the_client_and_neither_secret_nor_mount(site: Site) -> None:
    image = {"hpc_image_build": True, "beegfs_client_enabled": True, "beegfs_client_version": "7.4"}
    before = len(transactions(site.node))
    site.succeeds(**image, beegfs_client_mounts=[], beegfs_client_conn_auth="")
    names = ("beegfs-client-dkms", "beegfs-common", "beegfs-helperd", "beegfs-utils")
    # what the module is built with, and once it has been seen to build, the client
    tools, client = transactions(site.node)[before:]
    assert "dkms:" in tools
    assert "beegfs-" not in tools
    assert all(f"{name}:" in client for name in names)
    assert site.packages() == dict.fromkeys(names, "installed 20:7.4.7")
    assert site.modules() == ["7.4.7", "7.4.7"]
    for path in ("/etc/beegfs/conn.auth", "/etc/systemd/system/mnt-beegfs.mount", "/var/lib/dkms/mok.key"):
        assert not site.exists(path), path
    assert site.state("beegfs-helperd.service") == ("disabled", "inactive")
    said = site.succeeds(**image)
    assert said.changed == 0, said.text
    assert not site.node.run(["grep", "-rl", GATEWAY, "/etc/beegfs"], check=False).stdout
    policy = site.node.run(["apt-cache", "policy", "beegfs-storage"]).stdout
    assert "Candidate: (none)" in policy, "apt could install a server package"


def test_a_wrong_secret_is_told(site: Site) -> None:
    wrong = base64.b64encode(b"another secret").decode()
    said = site.fails(
        r"to be mounted at /mnt/beegfs, found .*authentication failed \(the secret of the connection authentication",
        beegfs_client_version="7.4",
        beegfs_client_conn_auth=wrong,
    )
    assert wrong not in said.text
    assert not site.mounted()


def test_a_client_of_7_4(site: Site) -> None:
    (site.node.root / "etc/systemd/system/slurmd.service").write_text(_SLURMD)
    given = {"beegfs_client_version": "7.4", "beegfs_client_slurmd": "require"}
    site.succeeds("-vvv", **given, beegfs_client_net_filter=["10.0.0.0/8"], beegfs_client_settings={"logLevel": 4})
    assert re.match(r"beegfs_nodev\s+rw,nosuid,nodev,", site.mounted())
    assert site.state("mnt-beegfs.mount") == ("enabled", "active")
    assert site.state("beegfs-helperd.service") == ("enabled", "active")
    conf = site.read("/etc/beegfs/beegfs-client.conf")
    for line in (
        f"sysMgmtdHost = {GATEWAY}",
        f"connMgmtdPortTCP = {site.daemon.port}",
        "connClientPortUDP = 8004",
        "connAuthFile = /etc/beegfs/conn.auth",
        "connNetFilterFile = /etc/beegfs/beegfs-client.net-filter",
        "connMaxInternodeNum = 12",
        "logLevel = 4",
    ):
        assert f"\n{line}\n" in conf, conf
    assert site.node.run(["stat", "-c", "%a %U %G %s", "/etc/beegfs/conn.auth"]).stdout.split() == [
        *("400", "root", "root", str(len(SECRET))),
    ]
    assert TEXT not in site.node.run(["journalctl", "--no-pager"], timeout=60).stdout, "the secret is in the journal"
    assert not site.node.run(["find", "/mnt/beegfs", "-mindepth", "1"]).stdout, "the write test left something"
    site.node.run(["systemd-analyze", "verify", "mnt-beegfs.mount"])

    said = site.succeeds(**given, beegfs_client_net_filter=["10.0.0.0/8"], beegfs_client_settings={"logLevel": 4})
    assert said.changed == 0, said.text
    assert said.ok <= 12, said.text


def test_slurmd_starts_after_the_mounts_and_not_without_them(site: Site) -> None:
    site.node.run(["systemctl", "start", "slurmd"])
    site.node.run(["systemctl", "stop", "mnt-beegfs.mount"])
    assert site.state("slurmd")[1] == "inactive", "slurmd outlived what it requires"
    site.daemon.secret = b"changed on the servers"
    try:
        done = site.node.run(["systemctl", "start", "slurmd"], check=False)
        assert done.returncode != 0, "slurmd started without its file system"
    finally:
        site.daemon.secret = SECRET
    site.node.run(["systemctl", "start", "slurmd"])
    assert site.mounted(), "slurmd did not bring the mount along"
    assert "remote-fs.target" in site.node.run(["systemctl", "show", "-P", "WantedBy", "mnt-beegfs.mount"]).stdout
    after = site.node.run(["systemctl", "show", "-P", "After", "mnt-beegfs.mount"]).stdout
    assert {"network-online.target", "beegfs-helperd.service"} <= set(after.split())


def test_several_mounts_change_only_while_nobody_uses_them(site: Site) -> None:
    two = [site.mount(), site.mount("/scratch/bee-1", client_port=8014, options=["ro"], rdma=False)]
    given = {"beegfs_client_version": "7.4", "beegfs_client_slurmd": "require", "beegfs_client_mounts": two}
    holder = "cd /mnt/beegfs && exec sleep 300"
    site.node.run(["systemd-run", "--quiet", "--unit=job", "sh", "-c", holder])
    site.fails(r"found /mnt/beegfs by \d+ sleep\. Nothing was changed", **given)
    assert not site.exists("/etc/beegfs/beegfs-client-scratch-bee\\x2d1.conf")
    before = site.packages()
    site.fails(r"found /mnt/beegfs by \d+ sleep\. Nothing was changed", beegfs_client_version="8.3.0")
    assert site.packages() == before, "the packages were changed under a mount in use"
    said = site.succeeds(**given, beegfs_client_remount="later")
    assert "Mounted with older settings until the next boot" in said.text
    assert re.match(r"beegfs_nodev\s+ro,", site.mounted("/scratch/bee-1"))
    site.node.run(["systemctl", "stop", "job"])
    said = site.succeeds(**given)
    assert "/mnt/beegfs again, with other settings" in said.text or said.changed == 1
    assert site.state("slurmd")[1] == "active", "slurmd was not started again"


def test_upgrade_to_8_and_back_to_what_worked_when_it_fails(site: Site) -> None:
    given = {"beegfs_client_version": "8.3.0", "beegfs_client_slurmd": "wait"}
    site.succeeds(**given)
    assert site.packages() == {
        "beegfs-client-dkms": "installed 20:8.3.0",
        "beegfs-tools": "installed 20:8.3.0",
        **{name: text for name, text in site.packages().items() if text.startswith("config-files")},
    }
    assert site.modules() == ["8.3.0", "8.3.0"]
    assert site.daemon.calls[-1].startswith("8.3 ")
    conf = site.read("/etc/beegfs/beegfs-client.conf")
    assert f"connMgmtdPort = {site.daemon.port}\n" in conf
    assert "PortUDP" not in conf
    assert not site.mounted("/scratch/bee-1")
    for gone in ("/etc/systemd/system/scratch-bee\\x2d1.mount", "/etc/beegfs/beegfs-helperd.conf"):
        assert not site.exists(gone), gone
    drop_in = site.read("/etc/systemd/system/slurmd.service.d/hpc-compute-beegfs.conf")
    assert "Wants=mnt-beegfs.mount" in drop_in
    site.fails(
        r"refused the connection.*The settings before are back, and what was mounted is mounted again",
        **{**given, "beegfs_client_conn_auth": base64.b64encode(b"wrong").decode()},
    )
    assert site.mounted()
    said = site.succeeds(**given)
    assert said.changed == 0, "something changes with each run, or not all was put back: " + said.text


def test_a_release_that_does_not_build_is_explained_and_changes_nothing(site: Site) -> None:
    before = (site.packages(), site.modules(), site.mounted())
    said = site.fails(
        r"module beegfs/8\.4\.0\) to build for every installed kernel, found .*kernel 6\S+-cloud-amd64: "
        r"build/beegfs\.c:\d+:\d+: .* has no member named .an_api_that_newer_kernels",
        beegfs_client_version="8.4",
    )
    assert said.text.count("has no member named") >= 2, "one of the kernels was not tried"
    assert "Nothing of BeeGFS was installed or replaced." in said.text
    assert (site.packages(), site.modules(), site.mounted()) == before
    assert not site.exists("/etc/dkms/no-autoinstall")
    site.node.run(["apt-get", "-qq", "check"])


def test_the_module_follows_the_options_of_its_build(site: Site) -> None:
    # of the series that is wanted one release is there: nothing is upgraded behind the site's back
    site.succeeds(beegfs_client_version="8.3", beegfs_client_build_options={"BEEGFS_NO_RDMA": 1})
    assert site.modules() == ["8.3.0", "8.3.0"]
    kernels = site.node.run(["ls", "/lib/modules"]).stdout.split()
    for kernel in kernels:
        found = site.node.run(["modinfo", "-k", kernel, "-F", "standin_rdma", "beegfs"]).stdout
        assert found.strip() == "no", "the module was not built anew"


def test_the_last_mount_can_be_taken_back_after_a_run_that_was_cut_off(site: Site) -> None:
    # what a run leaves that is killed while it installs
    site.node.run(["sh", "-c", "echo 'hpc.compute: for the moment of an installation' >/etc/dkms/no-autoinstall"])
    given = {"beegfs_client_enabled": True, "beegfs_client_mounts": [], "beegfs_client_conn_auth": ""}
    site.succeeds(**given, beegfs_client_build_options={"BEEGFS_NO_RDMA": 1})
    assert not site.exists("/etc/dkms/no-autoinstall"), "new kernels get no modules"
    assert site.modules() == ["8.3.0", "8.3.0"]
    assert not site.mounted()
    drop_in = "/etc/systemd/system/slurmd.service.d/hpc-compute-beegfs.conf"
    for path in ("/etc/beegfs/conn.auth", "/etc/systemd/system/mnt-beegfs.mount", drop_in):
        assert not site.exists(path), path
    said = site.succeeds(**given, beegfs_client_build_options={"BEEGFS_NO_RDMA": 1})
    assert said.changed == 0, said.text
