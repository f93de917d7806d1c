# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A disposable Debian 13 machine: systemd as PID 1, own network address, emulated GPUs if wanted; up in seconds."""

from __future__ import annotations

import json
import re
import shlex
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path

from emulator.install import install
from emulator.spec import SpecError, parse

from . import base, debs, mounts, network, nspawn, ssh
from .paths import NODES, REPO, STATE, locked
from .process import Completed, RigError, indented, run, wait_for

IMAGES = base.IMAGES


@dataclass(frozen=True)
class Node:
    """A node by name. *ip* is an address of the rig's network; who uses which stands in the rig's README.

    *image* is ``debian`` (a bare Debian 13), ``controller`` (with slurmctld installed, not configured), ``accounting``
    (with slurmdbd and its database, too), ``compute`` (with what the roles install on a compute node) or ``kernels``
    (with two of Debian's kernels installed, which are not the one that runs).
    """

    name: str
    ip: str
    image: str = "debian"

    @property
    def folder(self) -> Path:
        """Everything of this node on the host."""
        return NODES / self.name

    @property
    def root(self) -> Path:
        """Its root file system, as the host sees it while the node is up."""
        return self.folder / "root"

    def up(
        self,
        gpus: str | None = None,
        *,
        layers: tuple[Path, ...] | None = None,
        files: Mapping[str, str] | None = None,
        share: Path | None = None,
    ) -> None:
        """Boot it, fresh; one that is up by this name is removed first. Returns when it has booted and answers.

        :param gpus: emulated GPUs, as the emulator's ``--gpus`` takes them; ``None`` or ``none`` for a machine without.
        :param layers: root file systems to stand on, upper first, in place of those of *image*.
        :param files: more files to write before it boots, by their path without the leading slash.
        :param share: a folder that the node has as ``/srv/shared``, as from a file server; made where it isn't there.
        :raises RigError: the name, address or GPU specification is no good, or the node did not come up; in the last
            case it is removed again.
        """
        self._check()
        check_gpus(gpus or "none")
        if layers is None:
            layers = base.layers(self.image)
        ssh.ensure_keys()
        with locked(f"node-{self.name}"):
            self._remove()
            try:
                self._prepare(layers, gpus, files or {})
                if share:
                    share.mkdir(parents=True, exist_ok=True)
                nspawn.boot(self.name, self.root, self.folder / "console.log", share)
                self._wait_until_up()
            except BaseException:  # also on Ctrl-C: nothing half made may stay
                self._remove()
                raise

    def down(self) -> None:
        """Remove it: processes, mounts, control groups, files; with the last node the network too.

        One that is not there is no failure.
        """
        with locked(f"node-{self.name}"):
            self._remove()

    def is_up(self) -> bool:
        return nspawn.is_up(self.name)

    def run(
        self, command: Sequence[str], *, check: bool = True, stdin: str | None = None, timeout: float | None = 300
    ) -> Completed:
        """Run *command* in the node as root and return its result, text output included.

        :raises RigError: it failed while *check* is set, or took longer than *timeout* seconds.
        """
        words = ["ssh", *self._ssh_options(), f"root@{self.ip}", "--", shlex.join(command)]
        called = f"on node {self.name}: {shlex.join(command)}"
        done = run(words, check=False, stdin=stdin, timeout=timeout, called=called)
        if check and done.returncode != 0:
            told = (done.stderr or done.stdout).strip()
            raise RigError(f"{called} failed with exit code {done.returncode}: {told}")
        return done

    def shell_command(self) -> list[str]:
        """The command that gives a person a root shell in it."""
        return ["ssh", "-t", *ssh.options(), f"root@{self.ip}"]

    def keep_packages(self) -> None:
        """Put what it downloaded into the cache; ``down`` does so too."""
        debs.take_from(self.root)

    def connection(self, user: str = base.USER) -> dict[str, str]:
        """Variables with which Ansible reaches it, as an ordinary user who may use sudo unless told otherwise."""
        return {
            "ansible_host": self.ip,
            "ansible_user": user,
            "ansible_python_interpreter": "/usr/bin/python3",
            "ansible_ssh_common_args": shlex.join(self._ssh_options()),
        }

    def _ssh_options(self) -> list[str]:
        return ssh.options(self.folder / "ssh")

    def _check(self) -> None:
        if self.image not in IMAGES:
            raise RigError(f"expected a node image of {', '.join(IMAGES)}, found {self.image!r}")
        if not re.fullmatch(r"[a-z][a-z0-9-]{0,39}", self.name):
            raise RigError(f"expected a node name of up to 40 small letters, digits and hyphens, found {self.name!r}")
        if self.ip not in map(str, ip_network(network.NETWORK).hosts()) or self.ip == network.GATEWAY:
            raise RigError(f"expected an address of {network.NETWORK} other than {network.GATEWAY}, found {self.ip}")
        for other in all_nodes():
            if other.ip == self.ip and other.name != self.name and other.is_up():
                raise RigError(
                    f"the address {self.ip} is in use by node {other.name}; take that down or choose another"
                )

    def _prepare(self, layers: tuple[Path, ...], gpus: str | None, more: Mapping[str, str]) -> None:
        with locked("network"):
            # the folder says that the node needs the network, so both are made under one lock
            self.folder.mkdir(parents=True)
            network.add()
        (self.folder / "ssh").mkdir(mode=0o700)
        (self.folder / "node.json").write_text(
            json.dumps({"name": self.name, "ip": self.ip, "image": self.image, "gpus": gpus}), encoding="utf-8"
        )
        mounts.mount_overlay(layers, self.root, self.folder / "upper", self.folder / "work")
        files = {
            "etc/hostname": f"{self.name}\n",
            "etc/hosts": f"127.0.0.1 localhost\n{self.ip} {self.name}\n",
            "etc/machine-id": f"{uuid.uuid4().hex}\n",
            "etc/resolv.conf": "".join(f"nameserver {server}\n" for server in network.name_servers()),
            "etc/systemd/network/10-rig.network": (
                f"[Match]\nName=host0\n[Network]\nAddress={self.ip}/24\nGateway={network.GATEWAY}\nLinkLocalAddressing=no\n"
            ),
            **more,
        }
        for path, text in files.items():
            (self.root / path).parent.mkdir(parents=True, exist_ok=True)
            (self.root / path).unlink(missing_ok=True)
            (self.root / path).write_text(text, encoding="utf-8")
        ssh.install_keys(self.root, base.USER)
        debs.put_into(self.root)
        if gpus and gpus != "none":
            _install_gpus(self.root, gpus)

    def _wait_until_up(self) -> None:
        try:
            wait_for(f"node {self.name} to answer on {self.ip}", self._answers, seconds=60)
            state = self.run(["systemctl", "is-system-running", "--wait"], check=False).stdout.strip()
        except RigError as error:
            raise RigError(f"{error}\n{self._console()}") from error
        if state != "running":
            failed = self.run(["systemctl", "--failed", "--no-legend", "--plain"], check=False).stdout.split()[:1]
            journal = self.run(
                ["journalctl", "--no-pager", "-n", "30", *(f"--unit={unit}" for unit in failed)], check=False
            )
            raise RigError(
                f"expected node {self.name} to reach the state 'running', found {state!r} (failed: {failed}):\n"
                f"{indented(journal.stdout)}"
            )

    def _answers(self) -> bool:
        if not self.is_up():
            raise RigError(f"node {self.name} ended while it booted")
        return self.run(["true"], check=False, timeout=20).returncode == 0

    def _console(self) -> str:
        console = self.folder / "console.log"
        text = console.read_text(encoding="utf-8", errors="replace") if console.exists() else ""
        return "the end of its console:\n" + indented(text)

    def _remove(self) -> None:
        ssh.close(self.folder / "ssh")
        nspawn.kill(self.name)
        if mounts.below(self.root):
            debs.take_from(self.root)
        mounts.remove_tree(self.folder)
        with locked("network"):
            if NODES.exists() and any(NODES.iterdir()):
                return
            network.remove()
            for folder in (NODES, STATE):
                if folder.exists() and not any(folder.iterdir()):
                    folder.rmdir()


def all_nodes() -> list[Node]:
    """Every node that has files on this machine, up or left behind, by name."""
    found = []
    for path in sorted(NODES.glob("*/node.json")):
        entry = json.loads(path.read_text(encoding="utf-8"))
        found.append(Node(entry["name"], entry["ip"], entry["image"]))
    return found


def check_gpus(gpus: str) -> None:
    """Refuse a specification of emulated GPUs before anything is made for it.

    :raises RigError: it is no good; the message names the part that is not, and what there is.
    """
    try:
        parse(gpus)
    except SpecError as error:
        raise RigError(str(error)) from error


def _install_gpus(root: Path, gpus: str) -> None:
    with locked("emulator"):
        run(["make", "-s", "-C", REPO / "tests/emulator"])
    install(root, gpus)
