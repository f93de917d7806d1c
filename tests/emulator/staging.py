# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The files a real driver shows: device nodes, /proc/driver/nvidia*, PCI entries in /sys.

Below a directory of a test they are plain files. On a running machine (root ``/``) the nodes are real ones without a
driver behind them, a tmpfs covers /proc/driver, and another one /sys/bus/pci, on which the machine's own devices appear
again as the links to /sys/devices that they are; NVIDIA's own are left out.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
from pathlib import Path

from . import pci_files
from .machine import Machine

NVIDIA_MAJOR = 195
CONTROL_MINOR = 255
#: Capability minors: 1 and 2 are fixed, then 135 per GPU (15 GPU instances with 1 + 8 each), up to 32 GPUs.
CONFIG_MINOR, MONITOR_MINOR = 1, 2
_FIRST_MINOR, _PER_GPU, _PER_INSTANCE = 3, 135, 9
_GPUS, _INSTANCES, _COMPUTE_INSTANCES = 32, 15, 8
#: Lies on each tmpfs we mounted, so that it is known for ours.
_MARK = ".emulated-gpu"


def capability_minor(minor: int, gpu_instance: int, compute_instance: int | None = None) -> int:
    """The minor of ``/dev/nvidia-caps/nvidia-capN`` for an instance on the GPU with this device *minor*."""
    base = _FIRST_MINOR + _PER_GPU * minor + _PER_INSTANCE * gpu_instance
    return base if compute_instance is None else base + 1 + compute_instance


def mig_minors() -> str:
    """The content of ``/proc/driver/nvidia-caps/mig-minors``: every capability there can be, existing or not."""
    lines = [f"config {CONFIG_MINOR}", f"monitor {MONITOR_MINOR}"]
    for gpu in range(_GPUS):
        for instance in range(_INSTANCES):
            lines.append(f"gpu{gpu}/gi{instance}/access {capability_minor(gpu, instance)}")
            for compute in range(_COMPUTE_INSTANCES):
                lines.append(f"gpu{gpu}/gi{instance}/ci{compute}/access {capability_minor(gpu, instance, compute)}")
    return "\n".join(lines) + "\n"


class Stage:
    """The staged files of one machine below *root*."""

    def __init__(self, machine: Machine, root: Path) -> None:
        self.root = root
        self._machine = machine
        self._live = root == Path("/")
        self._caps_major, self._uvm_major = _free_majors() if self._live else (0, 0)

    def write(self) -> None:
        """Write everything; what is there already of an earlier call is brought up to date.

        :raises OSError: a file can't be written, or (on ``/``) a node or mount can't be made: root and CAP_SYS_ADMIN
            and CAP_MKNOD are needed.
        """
        bus = self.root / "sys/bus/pci"
        if self._live:
            _cover_proc(self.root / "proc/driver")
            _cover_pci(bus)
        self._write_pci(bus)
        if self._machine.loaded:
            self._write_proc()
            self._write_nodes()
            self.sync()

    def sync(self) -> None:
        """Bring what depends on instances up to date: capability files and nodes."""
        if not self._machine.loaded:
            return
        wanted = {CONFIG_MINOR: 0o400, MONITOR_MINOR: 0o444}
        folders: dict[str, int] = {"mig/config": CONFIG_MINOR, "mig/monitor": MONITOR_MINOR}
        for gpu in self._machine.gpus:
            for instance in gpu.instances.values():
                number = capability_minor(gpu.minor, instance.id)
                folder = f"gpu{gpu.minor}/mig/gi{instance.id}"
                folders[f"{folder}/access"] = number
                wanted[number] = 0o444
                for compute in instance.compute_instances:
                    number = capability_minor(gpu.minor, instance.id, compute)
                    folders[f"{folder}/ci{compute}/access"] = number
                    wanted[number] = 0o444
        self._sync_capabilities(folders, wanted)
        self._sync_nodes(wanted)

    def _write_pci(self, bus: Path) -> None:
        found = pci_files.functions(self._machine)
        bus.joinpath("devices").mkdir(parents=True, exist_ok=True)
        addresses = {function.address for function in found}
        for old in (bus / "devices").iterdir():
            if not old.is_symlink() and old.name not in addresses:
                shutil.rmtree(old)
        for stale in (bus / "drivers").glob("*/*:*.*"):
            if stale.is_symlink():
                stale.unlink()
        pci_files.write(bus, found)
        if not self._live:
            for function in found:
                group = self.root / f"sys/kernel/iommu_groups/{function.iommu_group}/devices"
                group.mkdir(parents=True, exist_ok=True)
                pci_files.link(group / function.address, f"../../../../bus/pci/devices/{function.address}")

    def _write_proc(self) -> None:
        machine = self._machine
        home = self.root / "proc/driver/nvidia"
        home.mkdir(parents=True, exist_ok=True)
        version = machine.driver_version
        (home / "version").write_text(
            f"NVRM version: NVIDIA UNIX x86_64 Kernel Module  {version}  Thu Jan  1 00:00:00 UTC 1970\n"
            "GCC version:  gcc version 14.2.0 (Debian 14.2.0-19)\n"
        )
        (home / "params").write_text("ModifyDeviceFiles: 1\nDeviceFileUID: 0\nDeviceFileGID: 0\nDeviceFileMode: 438\n")
        shutil.rmtree(home / "gpus", ignore_errors=True)
        for gpu in machine.gpus:
            folder = home / "gpus" / gpu.pci_address
            folder.mkdir(parents=True)
            (folder / "information").write_text(
                f"Model: \t\t {gpu.board.name}\nIRQ:   \t\t 16\nGPU UUID: \t {gpu.uuid}\n"
                f"Video BIOS: \t 96.00.00.00.01\nBus Type: \t PCIe\nDMA Size: \t 52 bits\n"
                f"DMA Mask: \t 0xfffffffffffff\nBus Location: \t {gpu.pci_address}\nDevice Minor: \t {gpu.minor}\n"
                f"GPU Firmware: \t {version}\nGPU Excluded:\t No\n"
            )
        caps = self.root / "proc/driver/nvidia-caps"
        caps.mkdir(parents=True, exist_ok=True)
        (caps / "mig-minors").write_text(mig_minors())

    def _write_nodes(self) -> None:
        wanted = {f"nvidia{gpu.minor}": (NVIDIA_MAJOR, gpu.minor) for gpu in self._machine.gpus}
        wanted["nvidiactl"] = (NVIDIA_MAJOR, CONTROL_MINOR)
        wanted["nvidia-uvm"] = (self._uvm_major, 0)
        wanted["nvidia-uvm-tools"] = (self._uvm_major, 1)
        home = self.root / "dev"
        home.mkdir(exist_ok=True)
        for old in home.glob("nvidia[0-9]*"):
            if old.name not in wanted:
                old.unlink()
        for name, (major, minor) in wanted.items():
            self._node(home / name, major, minor, 0o666)

    def _sync_capabilities(self, folders: dict[str, int], modes: dict[int, int]) -> None:
        home = self.root / "proc/driver/nvidia/capabilities"
        files = {home / name: number for name, number in folders.items()}
        for path in sorted(home.rglob("*"), reverse=True):  # children before their directory
            if path.is_file() and path not in files:
                path.unlink()
            elif path.is_dir() and not any(path.iterdir()):
                path.rmdir()
        for path, number in files.items():
            if not path.exists():  # what it says never changes
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(f"DeviceFileMinor: {number}\nDeviceFileMode: {modes[number]}\nDeviceFileModify: 1\n")

    def _sync_nodes(self, modes: dict[int, int]) -> None:
        home = self.root / "dev/nvidia-caps"
        home.mkdir(parents=True, exist_ok=True)
        names = {f"nvidia-cap{number}" for number in modes}
        for old in home.iterdir():
            if old.name not in names:
                old.unlink()
        for number, mode in modes.items():
            self._node(home / f"nvidia-cap{number}", self._caps_major, number, mode)

    def _node(self, path: Path, major: int, minor: int, mode: int) -> None:
        if not self._live:
            path.touch()
            return
        device = os.makedev(major, minor)
        try:
            present = path.lstat()
        except FileNotFoundError:
            pass
        else:
            if stat.S_ISCHR(present.st_mode) and present.st_rdev == device:
                return
            path.unlink()
        os.mknod(path, stat.S_IFCHR | mode, device)
        path.chmod(mode)  # whatever the umask says


def unstage(root: Path) -> None:
    """Remove what :meth:`Stage.write` made; nothing there is fine."""
    live = root == Path("/")
    for node in (root / "dev").glob("nvidia*"):
        if node.is_dir():
            shutil.rmtree(node)
        else:
            node.unlink()
    for cover in (root / "proc/driver", root / "sys/bus/pci"):
        if live:
            if (cover / _MARK).exists():
                subprocess.run(["umount", "--lazy", str(cover)], check=True)
        elif cover.exists():
            shutil.rmtree(cover)


def _free_majors(path: Path = Path("/proc/devices")) -> tuple[int, int]:
    """Two character majors that no driver of this kernel has: opening our nodes must reach nothing."""
    text = path.read_text().partition("Block devices:")[0]
    taken = {int(number) for number in re.findall(r"^\s*(\d+) ", text, re.MULTILINE)}
    free = [major for major in range(511, 383, -1) if major not in taken]
    return free[0], free[1]


def _mount_tmpfs(path: Path) -> None:
    options = "mode=755,nosuid,nodev,noexec"
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "emulated-gpu", str(path)], capture_output=True, text=True
    )
    if done.returncode:
        raise OSError(
            f"can't mount a tmpfs on {path} (mount: exit {done.returncode}, {done.stderr.strip()}): the emulated "
            "driver must run as root with CAP_SYS_ADMIN to stage on /"
        )
    (path / _MARK).touch()


def _cover_proc(path: Path) -> None:
    if (path / _MARK).exists():
        return
    if not path.is_dir():
        raise OSError(f"expected a directory {path} of the kernel, found none: is /proc mounted?")
    _mount_tmpfs(path)


def _cover_pci(bus: Path) -> None:
    """Cover *bus* by a tmpfs that shows the machine's own devices, NVIDIA's left out."""
    if (bus / _MARK).exists():
        return
    if not bus.is_dir():
        raise OSError(f"expected a directory {bus} of the kernel, found none: is /sys mounted, and has it PCI?")
    devices = {
        entry.name: str(entry.readlink())
        for entry in (bus / "devices").iterdir()
        if (entry / "vendor").read_text().strip() != "0x10de"
    }
    drivers = [entry.name for entry in (bus / "drivers").iterdir()]
    _mount_tmpfs(bus)
    for folder in ("devices", "drivers"):
        (bus / folder).mkdir()
    for name, target in devices.items():
        (bus / "devices" / name).symlink_to(target)
    for name in drivers:  # empty, but the devices' links to their driver lead somewhere
        (bus / "drivers" / name).mkdir()
