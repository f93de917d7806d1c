# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""All checks of one run, each within its time. A mistake in one is no fault of the node and hides no other."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from ..gpu import nvml
from ..gpu.nvml import Loader
from . import gpus, kernel_log, machine
from .model import CheckResult, Finding, Report, fault, from_json, to_json, unknown
from .probe import HANGING, Answer, answer, ask
from .settings import CHECKS, Settings

ACKNOWLEDGED = HANGING / "acknowledged"

#: Looks at one thing.
Look = Callable[[], Iterable[Finding]]

_LOCAL_TIMEOUT = 10.0
_MISTAKE = "could not be checked: "


@dataclass(frozen=True)
class Node:
    """The machine that is looked at, under its name in Slurm. Below *root* lie all files but those of *proc*."""

    name: str
    root: Path = Path("/")
    proc: Path = Path("/proc")
    load: Loader = nvml.load_pynvml


def look(node: Node, settings: Settings) -> Report:
    """Look at everything that is not switched off. Never fails."""
    began, clock = time.time(), time.monotonic()
    results = {name: CheckResult(name, settings.mode(name)) for name in CHECKS}
    for name, findings in _Run(node, settings).findings().items():
        mode = results[name].mode
        if mode != "off":
            results[name] = CheckResult(name, mode, tuple(findings))
    return Report(node.name, began, time.monotonic() - clock, tuple(results.values()))


def read_kernel_log(source: str) -> list[str]:
    """Lines with Xids: of this boot's journal, or of a file.

    :raises OSError: it can't be read.
    """
    if source != "journal":
        return Path(source).read_text(encoding="utf-8", errors="replace").splitlines()
    done = subprocess.run(kernel_log.COMMAND, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode not in (0, kernel_log.NOTHING_FOUND) or done.stderr.strip():
        told = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise OSError(f"{' '.join(kernel_log.COMMAND)} ended with exit code {done.returncode}: {told}")
    return done.stdout.splitlines()


class _Run:
    """Starts all questions that may hang before it waits for any, so that the limits do not add up."""

    def __init__(self, node: Node, settings: Settings) -> None:
        self._node = node
        self._settings = settings
        self._found: dict[str, list[Finding]] = {name: [] for name in CHECKS}

    def _on(self, check: str) -> bool:
        return self._settings.mode(check) != "off"

    def findings(self) -> dict[str, list[Finding]]:
        waiting = [*self._ask_driver(), *self._ask_kernel_log(), *self._ask_mounts(), *self._ask_disks()]
        at_once: dict[str, Look] = {
            "devices": self._devices,
            "readonly": self._read_only,
            "memory": self._memory,
            "clock": machine.clock,
        }
        for check, look_at in [*((name, one) for name, one in at_once.items() if self._on(name)), *waiting]:
            try:
                self._found[check] += look_at()
            except Exception as error:  # whatever it was, it must not take the node out of service
                self._found[check].append(unknown("", f"{_MISTAKE}{type(error).__name__}: {error}"))
        return self._found

    def _ask(self, name: str, question: Callable[[], object], limit: float) -> Callable[[], Answer]:
        probe = ask(name, question, limit, self._node.root, self._node.proc)
        return lambda: answer(probe, self._node.proc)

    # -- the driver ----------------------------------------------------------------------------------------------------

    def _ask_driver(self) -> list[tuple[str, Look]]:
        if not any(self._on(check) for check in gpus.CHECKS):
            return []
        root, load, settings = self._node.root, self._node.load, self._settings
        wait = self._ask("driver", lambda: to_json(gpus.look_at_gpus(root, load, settings)), settings.driver_timeout)

        def judge() -> Iterable[Finding]:
            told = wait()
            if told.state == "hangs":
                return [fault("", f"the NVIDIA driver does not answer: {told.text}")]
            if told.state == "failed":
                return [unknown("", f"{_MISTAKE}{told.text}")]
            found = from_json(told.value)
            for check, findings in found.items():
                if check != "driver":
                    self._found[check] += findings
            return found["driver"]

        return [("driver", judge)]

    # -- other questions -----------------------------------------------------------------------------------------------

    def _ask_kernel_log(self) -> list[tuple[str, Look]]:
        if not self._on("xid"):
            return []
        source, xids = self._settings.kernel_log, self._settings.xids
        wait = self._ask("kernel-log", lambda: read_kernel_log(source), _LOCAL_TIMEOUT)

        def judge() -> Iterable[Finding]:
            told = wait()
            if told.state != "answered":
                return [unknown("", f"the kernel log could not be read: {told.text}")]
            return kernel_log.judge(kernel_log.parse(told.value), xids, acknowledged(self._node.root))

        return [("xid", judge)]

    def _ask_mounts(self) -> list[tuple[str, Look]]:
        if not self._on("mounts") or not self._settings.mounts:
            return []
        try:
            there = machine.read_mounts(self._node.proc)
        except OSError as error:
            told = str(error)
            return [("mounts", lambda: [unknown("", f"{_MISTAKE}{told}")])]
        missing = list(machine.missing_mounts(self._settings.mounts, there))
        lacking = {finding.subject for finding in missing}
        waiting: list[tuple[str, Look]] = [("mounts", lambda: missing)]
        for path in self._settings.mounts:
            if path not in lacking:
                waiting.append(("mounts", self._mount(path)))
        return waiting

    def _mount(self, path: str) -> Look:
        wait = self._ask(f"mount{path.replace('/', '-')}", lambda: machine.touch(path), self._settings.mount_timeout)

        def judge() -> Iterable[Finding]:
            told = wait()
            if told.state == "answered":
                return []
            return [fault(path, f"does not answer: {told.text}")]

        return judge

    def _ask_disks(self) -> list[tuple[str, Look]]:
        if not self._on("disk"):
            return []
        return [("disk", self._disk(number)) for number in range(len(self._settings.disks))]

    def _disk(self, number: int) -> Look:
        disk = self._settings.disks[number]
        wait = self._ask(
            f"disk{disk.path.replace('/', '-')}",
            lambda: to_json({"disk": machine.room(disk)}),
            self._settings.mount_timeout,
        )

        def judge() -> Iterable[Finding]:
            told = wait()
            if told.state == "hangs":
                return [fault(disk.path, f"does not answer: {told.text}")]
            if told.state == "failed":
                return [unknown(disk.path, f"{_MISTAKE}{told.text}")]
            return from_json(told.value)["disk"]

        return judge

    # -- questions that are answered at once ---------------------------------------------------------------------------

    def _devices(self) -> Iterable[Finding]:
        missing = machine.missing_files(machine.gres_files(self._node.root, self._node.name), self._node.root)
        if missing:
            yield fault("", f"device files of gres.conf are missing: {', '.join(missing)}")

    def _memory(self) -> Iterable[Finding]:
        return machine.memory(self._node.root, self._node.proc, self._settings.memory_available_mib)

    def _read_only(self) -> Iterable[Finding]:
        fstab = self._node.root / "etc/fstab"
        text = fstab.read_text(encoding="utf-8", errors="replace") if fstab.exists() else ""
        return list(machine.read_only(machine.read_mounts(self._node.proc), text))


def acknowledged(root: Path) -> float:
    """Until when Xids are dealt with, in seconds since 1970; 0 where nobody has said so since boot."""
    try:
        return float((root / ACKNOWLEDGED).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0.0


def acknowledge(root: Path, now: float) -> None:
    """Note that everything up to now is dealt with; a reboot forgets it.

    :raises OSError: it can't be noted.
    """
    path = root / ACKNOWLEDGED
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    path.write_text(f"{now:.6f}\n", encoding="ascii")
