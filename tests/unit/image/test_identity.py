# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is found and removed of a machine's identity, and what stays."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from ansible_collections.hpc.compute.plugins.module_utils.image import identity
from ansible_collections.hpc.compute.plugins.module_utils.join import apply
from ansible_collections.hpc.compute.plugins.module_utils.join.sources import Told

#: One path for each kind of thing a build leaves behind.
LEFT = (
    "etc/munge/munge.key",
    "etc/slurm/slurm.conf",
    "etc/hpc-compute/join.conf",
    "etc/beegfs/conn.auth",
    "etc/beegfs/beegfs-client-scratch.auth",
    "etc/hpc-compute/monitoring/tls.key",
    "etc/hpc-compute/monitoring/tls.crt",
    "etc/hpc-compute/monitoring/web.yml",
    "etc/ssh/ssh_host_ed25519_key",
    "etc/ssh/ssh_host_ed25519_key.pub",
    "root/.ssh/authorized_keys",
    "home/builder/.ssh/authorized_keys",
    "var/lib/dbus/machine-id",
    "var/lib/systemd/random-seed",
    "etc/nvme/hostnqn",
    "var/lib/dkms/mok.key",
    "var/lib/cloud/instance/user-data.txt",
    "etc/netplan/50-cloud-init.yaml",
    "var/lib/dhcp/dhclient.leases",
    "etc/udev/rules.d/70-persistent-net.rules",
    "var/log/dpkg.log",
    "var/log/apt/term.log",
    "root/.bash_history",
    "home/builder/.python_history",
    "home/builder/.ansible/tmp/x",
    "var/lib/apt/lists/mirror_dists_trixie_InRelease",
    "var/cache/apt/archives/slurmd_24.11.5-4_amd64.deb",
    "var/cache/apt/pkgcache.bin",
    "var/cache/hpc-compute-apptainer.deb",
    "var/lib/dpkg/status-old",
    "var/cache/ldconfig/aux-cache",
    "var/lib/dkms/nvidia-current/550.163.01/6.12.118+deb13-amd64/x86_64/log/make.log",
    "tmp/left",
    "var/tmp/left",
)
STAYS = (
    "etc/ssh/sshd_config",
    "etc/munge/README",
    "etc/beegfs/beegfs-client.conf",
    "etc/default/slurmd",
    "etc/hpc-compute/gpu-layout.yml",
    "var/lib/apt/lists/partial/.keep",
    "usr/share/doc/slurmd/copyright",
    "usr/share/zoneinfo/Europe/Athens",
    "home/builder/.profile",
    "var/lib/dpkg/status",
    "var/lib/dkms/nvidia-current/550.163.01/6.12.118+deb13-amd64/x86_64/module/nvidia-current.ko.xz",
    "tmp/systemd-private-0123-x/tmp",
    "tmp/ansible_hpc.compute.image_seal_payload_x/y.zip",
)


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    for path in (*LEFT, *STAYS, "etc/machine-id", "etc/hostname"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("of this machine\n")
    return tmp_path


def test_nothing_of_one_machine_stays_and_nothing_else_goes(machine: Path) -> None:
    (machine / "etc/machine-id").chmod(0o444)
    identity.remove(machine, identity.leftovers(machine))
    assert identity.leftovers(machine) == []
    assert [path for path in LEFT if (machine / path).exists()] == []
    assert [path for path in STAYS if not (machine / path).exists()] == []
    assert (machine / "etc/machine-id").read_text() == ""
    assert (machine / "etc/machine-id").stat().st_mode & 0o777 == 0o444
    assert (machine / "etc/hostname").read_text() == "localhost\n"
    assert (machine / "var/log/apt").is_dir()
    assert (machine / "var/lib/cloud").is_dir()


@pytest.mark.parametrize("path", LEFT)
def test_each_is_found_by_itself(tmp_path: Path, path: str) -> None:
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).touch()
    (found,) = identity.leftovers(tmp_path)
    assert f"/{path}".startswith(found.path)
    assert found.to_dict() == {"path": found.path, "subject": found.rule.subject}


@pytest.mark.parametrize(
    ("text", "stays"),
    [
        (apply.slurmd_options(Told(("ctl",), node_name="n1"), ""), False),
        (f"{apply.OF_ANSIBLE} local changes are overwritten.\nSLURMD_OPTIONS='-N n1'\n", False),
        ("# Written by the role hpc.compute.slurm_compute in an image; x\nSLURMD_OPTIONS='--conf-server ctl'\n", True),
        ("# Additional options\nSLURMD_OPTIONS=''\n", True),
    ],
)
def test_options_of_slurmd_go_where_they_are_one_nodes(tmp_path: Path, text: str, stays: bool) -> None:
    (tmp_path / "etc/default").mkdir(parents=True)
    (tmp_path / "etc/default/slurmd").write_text(text)
    identity.remove(tmp_path, identity.leftovers(tmp_path))
    assert (tmp_path / "etc/default/slurmd").exists() == stays


def test_a_journal_goes_with_the_directory_that_is_named_after_the_machine(tmp_path: Path) -> None:
    (tmp_path / "var/log/journal/0123").mkdir(parents=True)
    (tmp_path / "var/log/journal/0123/system.journal").touch()
    assert [one.path for one in identity.leftovers(tmp_path)] == ["/var/log/journal/0123"]
    identity.remove(tmp_path, identity.leftovers(tmp_path))
    assert list((tmp_path / "var/log/journal").iterdir()) == []


def test_looking_changes_nothing(machine: Path) -> None:
    before = {path: path.lstat().st_mtime_ns for path in machine.rglob("*")}
    assert len(identity.leftovers(machine)) >= len(LEFT)
    assert {path: path.lstat().st_mtime_ns for path in machine.rglob("*")} == before


def test_a_link_out_of_the_image_is_replaced_and_not_followed(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "etc").mkdir(parents=True)
    (root / "var/log").mkdir(parents=True)
    outside.mkdir()
    (outside / "file").write_text("mine")
    (root / "etc/machine-id").symlink_to(outside / "file")
    (root / "var/log/elsewhere").symlink_to(outside)
    identity.remove(root, identity.leftovers(root))
    assert (outside / "file").read_text() == "mine"
    assert not (root / "etc/machine-id").is_symlink()
    assert not (root / "var/log/elsewhere").is_symlink()


def test_what_is_gone_meanwhile_is_no_failure_and_a_running_service_keeps_its_socket(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp/file").touch()
    found = identity.leftovers(tmp_path)
    (tmp_path / "tmp/file").unlink()
    identity.remove(tmp_path, found)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "tmp/service"))
        assert identity.leftovers(tmp_path) == []
