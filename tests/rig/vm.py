# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A virtual machine that boots a disk image as real hardware would: firmware, boot loader, kernel, cloud-init.

It stands on the nodes' network and is told who it is by a disk for cloud-init (NoCloud). What it
writes goes to an overlay on the image. No libvirt is needed.
"""

from __future__ import annotations

import json
import shlex
import shutil
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from . import libvirt, network, ssh
from .paths import NODES, locked
from .process import Completed, RigError, indented, run, wait_for

Firmware = Literal["bios", "uefi"]
#: Of the package ovmf: UEFI with Secure Boot switched on, with the keys of Microsoft, who signed Debian's shim.
_CODE = Path("/usr/share/OVMF/OVMF_CODE_4M.secboot.fd")
_VARIABLES = Path("/usr/share/OVMF/OVMF_VARS_4M.ms.fd")
_PANIC = "Kernel panic - not syncing"


@dataclass(frozen=True)
class Machine:
    """A virtual machine by name. *ip* is an address of the rig's network. *options*: more words for QEMU."""

    name: str
    ip: str
    firmware: Firmware = "bios"
    cpus: int = 2
    memory_mib: int = 1024
    options: Sequence[str] = field(default_factory=tuple)

    @property
    def folder(self) -> Path:
        """Everything of this machine on the host."""
        return NODES / self.name

    @property
    def console(self) -> str:
        """What it printed on its serial port so far."""
        path = self.folder / "console.log"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def start(self, image: Path, files: Mapping[str, str]) -> None:
        """Boot a new disk made from *image*, told *files* by cloud-init (text by path); returns at once.

        :raises RigError: QEMU or its firmware is missing, or the machine does not start.
        """
        self.down()
        try:
            with locked("network"):
                self.folder.mkdir(parents=True)
                network.add()
            made_from = ("-F", "qcow2", "-b", str(image.absolute()))
            run(["qemu-img", "create", "-q", "-f", "qcow2", *made_from, self.folder / "disk.qcow2"])
            self._seed(files)
            run(["ip", "tuntap", "add", "dev", self._tap, "mode", "tap"])
            run(["ip", "link", "set", self._tap, "master", network.BRIDGE, "up"])
            run(self._command())
        except BaseException:  # also on Ctrl-C: nothing half made may stay
            self.down()
            raise

    def reset(self) -> None:
        """Press the button: it boots again, from the same disk."""
        self._tell("system_reset")

    def run(self, command: Sequence[str], *, check: bool = True, timeout: float = 120) -> Completed:
        """Run *command* in it as root.

        :raises RigError: it failed while *check* is set, or took longer than *timeout* seconds.
        """
        words = ["ssh", *self._trust(), *ssh.options(), f"root@{self.ip}", "--", shlex.join(command)]
        called = f"on machine {self.name}: {shlex.join(command)}"
        done = run(words, check=False, timeout=timeout, called=called)
        if check and done.returncode != 0:
            raise RigError(f"{called} failed with exit code {done.returncode}: {(done.stderr or done.stdout).strip()}")
        return done

    def wait_until_up(self, seconds: float) -> str:
        """Wait until it has booted; what systemd calls its state (``running``, ``degraded``).

        :raises RigError: it does not answer in time; the message has the end of its console.
        """

        def answers() -> bool:
            self.check()
            return self.run(["true"], check=False, timeout=60).returncode == 0

        try:
            wait_for(f"machine {self.name} to answer on {self.ip}", answers, seconds=seconds, every=1)
        except RigError as error:
            raise RigError(f"{error}\nthe end of its console:\n{indented(self.console)}") from error
        wait = ["systemctl", "is-system-running", "--wait"]
        return self.run(wait, check=False, timeout=seconds).stdout.strip()

    def check(self) -> None:
        """
        :raises RigError: it ended, or its kernel gave up.
        """
        if not self.is_up() or _PANIC in self.console:
            raise RigError(f"machine {self.name} ended; the end of its console:\n{indented(self.console)}")

    def is_up(self) -> bool:
        return self._tell("query-status")

    def down(self) -> None:
        """Take its power away and remove it; one that is not there is no failure."""
        self._tell("quit")
        wait_for(f"machine {self.name} to end", lambda: not self.is_up(), seconds=20)
        if Path(f"/sys/class/net/{self._tap}").exists():
            run(["ip", "link", "delete", self._tap])
        if self.folder.exists():
            shutil.rmtree(self.folder)
            with locked("network"):
                if not any(NODES.iterdir()):
                    network.remove()

    @property
    def _tap(self) -> str:
        return f"vm-{self.name}"[:15]

    @property
    def _mac(self) -> str:
        return "52:54:00:0a:{:02x}:{:02x}".format(*map(int, self.ip.split(".")[2:]))

    def _trust(self) -> list[str]:
        """Its host keys are its own, made at its first boot: the first one seen is the one to be seen again.

        To be given before the other options, as ssh takes the first value that it is given.
        """
        return ["-o", f"UserKnownHostsFile={self.folder}/known_hosts", "-o", "StrictHostKeyChecking=accept-new"]

    def _tell(self, command: str) -> bool:
        """Have QEMU execute *command* of its machine protocol; whether there was a QEMU to hear it."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(60)
            try:
                connection.connect(str(self.folder / "qmp"))
            except (FileNotFoundError, ConnectionRefusedError):
                return False
            with connection.makefile("rw") as protocol, suppress(ConnectionResetError, BrokenPipeError):
                protocol.readline()  # its greeting
                for word in ("qmp_capabilities", command):
                    protocol.write(json.dumps({"execute": word}) + "\n")
                    protocol.flush()
                    # events come between; after "quit" it may be gone without an answer
                    while (answer := protocol.readline()) and not {"return", "error"} & json.loads(answer).keys():
                        pass
        return True

    def _seed(self, files: Mapping[str, str]) -> None:
        seed = self.folder / "seed.img"
        with seed.open("wb") as handle:
            handle.truncate(1 << 20)
        run(["mkfs.vfat", "-n", "CIDATA", seed])
        for name, text in {
            "meta-data": self._meta(),
            "user-data": "",
            "network-config": self._network(),
            **files,
        }.items():
            path = self.folder / name
            path.write_text(text, encoding="utf-8")
            run(["mcopy", "-i", seed, path, f"::/{name}"])

    def _meta(self) -> str:
        return f"instance-id: {self.name}-{self.folder.stat().st_ctime_ns}\nlocal-hostname: {self.name}\n"

    def _network(self) -> str:
        return (
            "version: 2\nethernets:\n  nic:\n"
            f'    match: {{macaddress: "{self._mac}"}}\n    set-name: nic\n    addresses: ["{self.ip}/24"]\n'
            f"    routes: [{{to: default, via: {network.GATEWAY}}}]\n"
            f"    nameservers: {{addresses: [{', '.join(network.name_servers())}]}}\n"
        )

    def _command(self) -> list[str | Path]:
        kvm = libvirt.accelerator().domain == "kvm"
        words: list[str | Path] = ["qemu-system-x86_64", "-name", self.name, "-nodefaults", "-display", "none"]
        # a processor of AMD's kind: an emulated one that needs no protection from Meltdown is a third faster
        # and one thread: with several, a kernel that rewrites its own code is at times run as it was before, and panics
        tcg = ["-accel", "tcg,thread=single,tb-size=512", "-cpu", "qemu64"]
        words += ["-accel", "kvm", "-cpu", "host"] if kvm else tcg
        words += ["-smp", str(self.cpus), "-m", str(self.memory_mib), "-device", "virtio-rng-pci"]
        words += self._drive(self.folder / "disk.qcow2", "qcow2") + self._drive(self.folder / "seed.img", "raw")
        words += ["-netdev", f"tap,id=nic,ifname={self._tap},script=no,downscript=no"]
        words += ["-device", f"virtio-net-pci,netdev=nic,mac={self._mac}"]
        words += ["-serial", f"file:{self.folder}/console.log", "-daemonize"]
        words += ["-qmp", f"unix:{self.folder}/qmp,server=on,wait=off"]
        return [*words, *(self._uefi() if self.firmware == "uefi" else ("-machine", "pc")), *self.options]

    def _drive(self, path: Path, kind: str) -> list[str | Path]:
        return ["-drive", f"if=virtio,file={path},format={kind},cache=unsafe"]

    def _uefi(self) -> list[str | Path]:
        if missing := [str(path) for path in (_CODE, _VARIABLES) if not path.exists()]:
            raise RigError(f"expected UEFI for virtual machines, missing: {', '.join(missing)}: install ovmf")
        variables = self.folder / "variables.fd"
        shutil.copyfile(_VARIABLES, variables)
        flash = "if=pflash,format=raw"
        return [
            *("-machine", "q35,smm=on", "-global", "driver=cfi.pflash01,property=secure,value=on"),
            *("-drive", f"{flash},unit=0,readonly=on,file={_CODE}", "-drive", f"{flash},unit=1,file={variables}"),
        ]


@contextmanager
def started(machine: Machine, image: Path, files: Mapping[str, str]) -> Iterator[Machine]:
    """A machine for the time of a ``with`` block."""
    machine.start(image, files)
    try:
        yield machine
    finally:
        machine.down()
