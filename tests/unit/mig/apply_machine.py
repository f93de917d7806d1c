# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""An emulated machine for tests of changes: brought to a state, changed, and judged by what the emulator says."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible_collections.hpc.compute.plugins.module_utils.mig.apply import Outcome, apply, look
from ansible_collections.hpc.compute.plugins.module_utils.mig.apply_prepare import Host, Options, Prepared
from ansible_collections.hpc.compute.plugins.module_utils.mig.apply_reset import ResetError
from ansible_collections.hpc.compute.plugins.module_utils.mig.apply_state import ExactState, exact, steps_to
from ansible_collections.hpc.compute.plugins.module_utils.mig.apply_steps import Driver, Place, StepRunner
from ansible_collections.hpc.compute.plugins.module_utils.mig.layout import Entry, parse_entries
from emulator.testing import DriverError, EmulatedDriver

#: What a layout can change, as the emulator tells it: mode, pending mode, instances as (profile id, start, split).
Seen = tuple[bool, bool, tuple[tuple[int, int, tuple[int, ...]], ...]]


@dataclass
class Systemctl:
    """In place of systemctl: units that run, units that refuse, and what was asked for."""

    running: set[str] = field(default_factory=set)
    stubborn: set[str] = field(default_factory=set)
    asked: list[list[str]] = field(default_factory=list)
    hook: Callable[[list[str]], None] = lambda _: None

    def __call__(self, arguments: Sequence[str]) -> tuple[int, str]:
        words = list(arguments)
        unit = words[-1]
        if words[0] == "is-active":
            return (0 if unit in self.running else 3), ""
        self.asked.append(words)
        self.hook(words)
        if unit in self.stubborn:
            return 1, f"Job for {unit} failed."
        (self.running.add if words[0] == "start" else self.running.discard)(unit)
        return 0, ""


class Machine:
    """A running emulator and the ways to it that a change takes."""

    def __init__(self, driver: EmulatedDriver, root: Path) -> None:
        self.driver = driver
        self.root = root
        self.systemctl = Systemctl()
        self.resets: list[str] = []
        self.refuse_reset: str | None = None
        self.host = Host(root=root, reset=self._reset, systemctl=self.systemctl)

    def _reset(self, pci_address: str) -> None:
        self.resets.append(pci_address)
        if self.refuse_reset is not None:
            raise ResetError(self.refuse_reset)
        try:
            self.driver.reset(pci_address)
        except DriverError as error:
            raise ResetError(str(error)) from error

    def apply(self, wanted: dict[str, int] | None, devices: Any = "all", **options: Any) -> Outcome:
        return apply(layout(wanted, devices), Options(**options), self.host)

    def look(self, wanted: dict[str, int] | None, devices: Any = "all", **options: Any) -> Prepared:
        return look(layout(wanted, devices), Options(**options), self.host)

    def seen(self, gpu: int = 0) -> Seen:
        """A GPU as the emulator itself has it."""
        one = self.driver.show()["gpus"][gpu]
        instances = sorted(
            (
                gi["profile_id"],
                gi["start"],
                tuple(sorted((ci["slices"] for ci in gi["compute_instances"]), reverse=True)),
            )
            for gi in one["gpu_instances"]
        )
        return one["mig_current"], one["mig_pending"], tuple(instances)

    def ids(self, gpu: int = 0) -> dict[str, int]:
        """Ids of GPU instances by ``PROFILE@START``."""
        return {f"{gi['profile']}@{gi['start']}": gi["id"] for gi in self.driver.show()["gpus"][gpu]["gpu_instances"]}

    def address(self, gpu: int = 0) -> str:
        return str(self.driver.show()["gpus"][gpu]["pci_address"])

    def state(self, gpu: int = 0) -> ExactState:
        with self.runner(gpu) as runner:
            return exact(runner.state())

    def bring_to(self, target: ExactState, gpu: int = 0) -> None:
        """Put a GPU into a state, without the machinery under test around it."""
        with self.runner(gpu) as runner:
            runner.run(steps_to(runner.state(), target, at_once=False), lambda _: None)
            assert exact(runner.state()) == target

    @contextmanager
    def runner(self, gpu: int = 0) -> Iterator[StepRunner]:
        driver = Driver()
        try:
            yield StepRunner(driver, Place(self.address(gpu)), self._reset)
        finally:
            driver.leave()

    @property
    def checkpoint(self) -> Path:
        return self.host.checkpoint.path


@contextmanager
def machine(gpus: str, root: Path, **options: Any) -> Iterator[Machine]:
    with EmulatedDriver(gpus, root=root, **options) as driver:
        yield Machine(driver, root)


def layout(wanted: dict[str, int] | None, devices: Any = "all") -> tuple[Entry, ...]:
    """One entry: these instances, or MIG off."""
    if wanted is None:
        return parse_entries([{"devices": devices, "mig-enabled": False}])
    return parse_entries([{"devices": devices, "mig-enabled": True, "mig-devices": wanted}])


def in_child(work: Callable[[], object]) -> int:
    """Run *work* in a process of its own; the signal that killed it, 0 when it came to its end."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)  # no test may go on twice
    status = os.waitpid(child, 0)[1]
    return signal.Signals(os.WTERMSIG(status)) if os.WIFSIGNALED(status) else 0
