# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bringing a machine to its layout: one change at a time, one GPU after the other, each as a transaction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..gpu.inventory import read_inventory
from ..gpu.model import Inventory
from ..gpu.nvml import NvmlError
from .apply_gpu import EndState, GpuJob, GpuResult, change_gpu
from .apply_prepare import Host, Options, Prepared, prepare
from .apply_services import ServiceError, StoppedServices
from .apply_steps import Driver, Place, StepRunner
from .checkpoint import CheckpointError
from .layout import Entry
from .lock import locked

#: Told of each GPU when it is done.
Report = Callable[[GpuResult], None]


@dataclass(frozen=True)
class Outcome:
    """What became of a machine.

    *results*: one per GPU that was to be changed. *after*: the machine read again; as before where nothing was to do.
    *failures*: all that went wrong, refusals included, each a sentence or two for a person.
    """

    prepared: Prepared
    results: tuple[GpuResult, ...]
    after: Inventory
    failures: tuple[str, ...] = ()

    @property
    def changed(self) -> bool:
        """Whether anything was changed, be it that it was changed back."""
        return any(result.changed for result in self.results)

    @property
    def reboot_required(self) -> bool:
        """Whether a mode change waits for a reboot."""
        return any(result.end is EndState.REBOOT_REQUIRED for result in self.results)

    @property
    def failed(self) -> bool:
        """Whether the machine is not what the layout wants."""
        return bool(self.failures)


def look(entries: Sequence[Entry], options: Options, host: Host) -> Prepared:
    """What :func:`apply` would do now. Changes nothing and takes no lock.

    :raises LayoutError, CheckpointError: as :func:`.apply_prepare.prepare`.
    """
    driver = Driver(host.load)
    try:
        return prepare(entries, options, host, driver)
    finally:
        driver.leave()


def apply(entries: Sequence[Entry], options: Options, host: Host, report: Report = lambda _: None) -> Outcome:
    """Bring the machine to the layout; whatever happens, what was stopped is started again and nothing is left between.

    :raises LockError: another change does not end.
    :raises LayoutError, CheckpointError: as :func:`.apply_prepare.prepare`; nothing was changed.
    """
    services = StoppedServices(host.systemctl, host.stopped_services, host.wait_for_services)
    try:
        with locked(host.lock, options.lock_wait_s):
            services.recover()
            outcome = _apply(entries, options, host, report, services)
    finally:
        # After the lock: a service may have to wait for gpu-layout.service, which takes it.
        troubles = services.start()
    return Outcome(outcome.prepared, outcome.results, outcome.after, (*outcome.failures, *troubles))


def _apply(
    entries: Sequence[Entry], options: Options, host: Host, report: Report, services: StoppedServices
) -> Outcome:
    driver = Driver(host.load)
    try:
        prepared = prepare(entries, options, host, driver)
        for address in prepared.over:
            host.checkpoint.end(address)
        if not prepared.jobs:
            return Outcome(prepared, (), prepared.inventory, prepared.refusals)
        try:
            if prepared.stops_services:
                services.stop(options.stop_services)
        except ServiceError as error:
            return Outcome(prepared, (), prepared.inventory, (*prepared.refusals, f"{error}; nothing was changed"))
        results = _run(prepared, host, driver, report)
    finally:
        _leave(driver)
    failures = [*prepared.refusals, *(_words(result) for result in results if result.failed)]
    return Outcome(prepared, results, read_inventory(host.root, host.load), tuple(failures))


def _run(prepared: Prepared, host: Host, driver: Driver, report: Report) -> tuple[GpuResult, ...]:
    minors = {gpu.pci_address: gpu.minor for gpu in prepared.inventory.gpus}
    results: list[GpuResult] = []
    stopped_at: str | None = None
    for job in prepared.jobs:
        if stopped_at is not None:
            result = _untouched(job, stopped_at)
        else:
            place = Place(job.pci_address, minors[job.pci_address], host.proc, host.root / "dev")
            runner = StepRunner(driver, place, host.reset if prepared.options.reset == "when_needed" else None)
            result = _changed(job, runner, host)
            if result.failed:
                stopped_at = job.pci_address
        results.append(result)
        report(result)
    return tuple(results)


def _changed(job: GpuJob, runner: StepRunner, host: Host) -> GpuResult:
    """Change one GPU. A checkpoint that can't be written ends this one; what was done to others is still told."""
    try:
        return change_gpu(job, runner, host.checkpoint)
    except CheckpointError as error:
        if not runner.done:
            return GpuResult(job.pci_address, EndState.UNTOUCHED, f"was not touched: {error}")
        # Only the note that the change is over could not be written; the next run finds the GPU where it is.
        told = f"was changed, but the record of it could not be closed: {error}"
        return GpuResult(job.pci_address, EndState.UNKNOWN, told, tuple(runner.done), changed=True)


def _untouched(job: GpuJob, failed: str) -> GpuResult:
    return GpuResult(job.pci_address, EndState.UNTOUCHED, f"was not touched, as GPU {failed} failed before it")


def _words(result: GpuResult) -> str:
    return f"GPU {result.pci_address} ({result.end}): {result.message}"


def _leave(driver: Driver) -> None:
    try:
        driver.leave()
    except NvmlError:
        # All that matters was read and judged; a driver that fails to say goodbye changes none of it, and the exception
        # that may be on its way must not be hidden.
        return
