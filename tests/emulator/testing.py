# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The emulated driver for tests: a daemon of its own per test, without privileges, whose GPUs this process sees."""

from __future__ import annotations

import ctypes
import os
import select
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from .client import DriverError, control
from .install import build_library

__all__ = ["DriverError", "EmulatedDriver"]
_HERE = Path(__file__).resolve().parent
_START_TIMEOUT_S = 20.0


class EmulatedDriver:
    """``with EmulatedDriver("2xh100-80", root=tmp_path) as driver:`` starts a daemon and loads its library here.

    Inside, ``import pynvml; pynvml.nvmlInit()`` talks to it: ``dlopen("libnvidia-ml.so.1")`` finds the library
    of this SONAME that is loaded already. Sysfs, /proc and /dev files are staged below *root*, plain files in place of
    nodes, and follow every change. Other processes need :meth:`environment`.

    *old_library* has functions missing; it is only for other processes, as a process keeps the library it has loaded.
    *state* makes the daemon keep what survives a reboot: a second one with the same file is the same machine, booted.
    """

    def __init__(
        self,
        gpus: str,
        root: Path | None = None,
        *,
        driver_version: str | None = None,
        seed: int = 0,
        shuffle_minors: bool = False,
        numa: Sequence[str] = ("0-15", "16-31"),
        kernel_driver: str = "nvidia",
        privileged_uid: int | None = None,
        state: Path | None = None,
        old_library: bool = False,
    ) -> None:
        self.root = root
        self._old_library = old_library
        self._arguments = ["--gpus", gpus, "--seed", str(seed), "--kernel-driver", kernel_driver]
        for cpus in numa:
            self._arguments += ["--numa", cpus]
        if driver_version is not None:
            self._arguments += ["--driver-version", driver_version]
        if shuffle_minors:
            self._arguments.append("--shuffle-minors")
        if privileged_uid is not None:
            self._arguments += ["--privileged-uid", str(privileged_uid)]
        if state is not None:
            self._arguments += ["--state", str(state)]
        if root is not None:
            self._arguments += ["--stage", str(root)]

    def __enter__(self) -> EmulatedDriver:
        self.library = build_library()
        if self._old_library:
            self.library = self.library.parent / "old" / self.library.name
        self._folder = tempfile.TemporaryDirectory(prefix="emulated-gpu-")
        self.socket = Path(self._folder.name) / "driver.sock"
        self._log = Path(self._folder.name) / "daemon.log"
        try:
            self._start()
        except BaseException:
            self._folder.cleanup()
            raise
        self._outer_socket = os.environ.get("EMULATED_GPU_SOCKET")
        os.environ["EMULATED_GPU_SOCKET"] = str(self.socket)
        if not self._old_library:
            ctypes.CDLL(str(self.library), mode=ctypes.RTLD_GLOBAL)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._outer_socket is None:
            os.environ.pop("EMULATED_GPU_SOCKET", None)
        else:
            os.environ["EMULATED_GPU_SOCKET"] = self._outer_socket
        self._parent.close()  # which ends the daemon
        try:
            self.process.wait(timeout=_START_TIMEOUT_S)
            complaint = self._log.read_text().strip()
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        finally:
            self._folder.cleanup()
        if complaint and error is None:
            raise DriverError(f"the daemon complained: {complaint}")

    def _start(self) -> None:
        self._parent, child = socket.socketpair()
        command = [sys.executable, "-S", "-m", "emulator", "serve", "--socket", str(self.socket), *self._arguments]
        with child, self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, "--parent-fd", str(child.fileno())],
                env={**os.environ, "PYTHONPATH": str(_HERE.parent)},
                pass_fds=[child.fileno()],
                stdin=subprocess.DEVNULL,
                stderr=log,
            )
        ready, _, _ = select.select([self._parent], [], [], _START_TIMEOUT_S)
        if ready and self._parent.recv(16):
            return
        self.process.kill()
        self.process.wait()
        self._parent.close()
        raise DriverError(self._log.read_text().strip() or f"the daemon did not start in {_START_TIMEOUT_S:.0f} s")

    def environment(self) -> dict[str, str]:
        """Environment for another process that shall see these GPUs: socket and library path."""
        return {
            **os.environ,
            "EMULATED_GPU_SOCKET": str(self.socket),
            "LD_LIBRARY_PATH": str(self.library.parent),
        }

    # -- what can be done to the machine -----------------------------------------------------------------------------

    def control(self, command: str, **fields: Any) -> Any:
        """A control request, see control.py.

        :raises DriverError: it was refused.
        """
        return control(self.socket, command, **fields)

    def show(self) -> dict[str, Any]:
        """The machine as it is, as ``show --json`` prints it."""
        shown: dict[str, Any] = self.control("show")
        return shown

    def fault(
        self,
        function: str,
        *,
        error: str | int | None = None,
        kill: str | None = None,
        hang: bool = False,
        times: int | None = None,
        skip: int = 0,
        gpu: int | str | None = None,
    ) -> None:
        """Let *function* (name or shell pattern) fail with *error*, *kill* (``before``/``after``) its caller, or hang.

        *times* ``None``: until cleared, for a kill once. *skip* calls pass first. *gpu*: only calls about that one.
        """
        if (error is not None) + (kill is not None) + hang != 1:
            raise ValueError("expected exactly one of error, kill and hang")
        kind = "hang" if hang else f"kill-{kill}" if kill else "error"
        fields: dict[str, Any] = {"kind": kind, "times": 1 if kill and times is None else times}
        if error is not None:
            fields["code"] = error
        self.control("fault", function=function, skip=skip, gpu=gpu, **fields)

    def clear_faults(self) -> None:
        """Remove all faults; calls that hang go on."""
        self.control("faults-clear")

    def busy(self, target: str | int, pid: int) -> None:
        """Let the living process *pid* hold ``GPU``, ``GPU/GI`` or ``GPU/GI/CI``, until it ends or :meth:`idle`."""
        self.control("busy", target=str(target), pid=pid)

    def idle(self, target: str | int) -> None:
        """Let no process hold *target* any more."""
        self.control("idle", target=str(target))

    def leak(self, target: str | int, mib: int) -> None:
        """Let memory of ``GPU`` or ``GPU/GI`` stay in use by nobody, until a reset."""
        self.control("leak", target=str(target), mib=mib)

    def memory_errors(
        self, gpu: int | str, *, uncorrected: int = 0, pending: bool = False, failed: bool = False
    ) -> None:
        """Let a GPU have counted uncorrected errors, a row that waits to be remapped, or one that can't be."""
        self.control("memory-errors", gpu=gpu, uncorrected=uncorrected, pending=pending, failed=failed)

    def reboot(self) -> None:
        """What a reboot does to the GPUs; handles of before are invalid."""
        self.control("reboot")

    def reset(self, gpu: int | str) -> None:
        """Reset a GPU.

        :raises DriverError: a process holds it (code IN_USE), or it is lost.
        """
        self.control("reset", gpu=gpu)

    def lose(self, gpu: int | str) -> None:
        """Let a GPU fall off the bus until the next reboot."""
        self.control("lose", gpu=gpu)
