# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The change of one GPU as a transaction: it ends as wanted or as it was, and says which; only a driver that refuses
the way back, too, can leave it in between, and then that is told exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from .apply_state import ExactState, exact, steps_to
from .apply_steps import RebootNeededError, StepError, StepRunner
from .checkpoint import Change, Checkpoint, CheckpointError
from .steps import Step

# Some refusals pass within moments: a process that ends, a driver that was still busy with the last step.
_ROLLBACK_ATTEMPTS = 3


class EndState(StrEnum):
    """Where a GPU is after the attempt to change it."""

    WANTED = "wanted"
    PREVIOUS = "previous"
    #: Its MIG mode changes with the next reboot; until then it has no instances.
    REBOOT_REQUIRED = "reboot_required"
    #: Neither; the message lists what exists.
    BETWEEN = "between"
    #: The GPU does not answer any more.
    UNKNOWN = "unknown"
    #: An earlier GPU failed before it was this one's turn.
    UNTOUCHED = "untouched"


@dataclass(frozen=True)
class GpuJob:
    """What to do to one GPU.

    *previous* is what it is rolled back to; ``None`` for what it is when the job begins. *expected* is what the plan
    was made for, ``None`` where that can't be told exactly. *at_once*: mode changes of the board need no reset.
    """

    pci_address: str
    steps: tuple[Step, ...]
    wanted: ExactState
    expected: ExactState | None = None
    previous: ExactState | None = None
    at_once: bool = False


@dataclass(frozen=True)
class GpuResult:
    """How it went. *steps*: those that were done, without a rollback's. *message* says all of it in words."""

    pci_address: str
    end: EndState
    message: str
    steps: tuple[Step, ...] = ()
    changed: bool = False

    @property
    def failed(self) -> bool:
        """Whether the GPU is not (and will not be after a reboot) what was wanted."""
        return self.end not in (EndState.WANTED, EndState.REBOOT_REQUIRED)


def change_gpu(job: GpuJob, runner: StepRunner, checkpoint: Checkpoint) -> GpuResult:
    """Carry out *job*.

    :raises CheckpointError: the checkpoint can't be written; nothing was changed.
    """
    try:
        before = exact(runner.state())
    except StepError as error:
        return _result(
            job, EndState.UNKNOWN if error.lost else EndState.PREVIOUS, f"{error}; nothing was changed", runner
        )
    if job.expected is not None and before != job.expected:
        told = (
            f"expected {job.expected}, found {before}: something else changed it meanwhile; nothing was done, run again"
        )
        return _result(job, EndState.PREVIOUS, told, runner)
    previous = before if job.previous is None else job.previous
    checkpoint.begin(Change(job.pci_address, previous, job.wanted, job.steps))
    try:
        runner.run(job.steps, lambda number: checkpoint.advance(job.pci_address, number))
        found = exact(runner.state())
        if found != job.wanted:
            raise StepError(f"after all steps expected {job.wanted}, found {found}")
        result = _result(job, EndState.WANTED, f"is as wanted: {found}", runner)
    except RebootNeededError as error:
        result = _pending(job, previous, runner, str(error))
    except (StepError, CheckpointError) as error:
        result = _roll_back(job, previous, runner, str(error))
    except BaseException as error:
        # Also when interrupted from the keyboard: nobody may be left with half a layout.
        _close(checkpoint, _roll_back(job, previous, runner, f"interrupted ({error!r})"))
        raise
    _close(checkpoint, result)
    return result


def _close(checkpoint: Checkpoint, result: GpuResult) -> None:
    """Keep the checkpoint of a GPU that the next run has to put straight."""
    if result.end not in (EndState.BETWEEN, EndState.UNKNOWN):
        checkpoint.end(result.pci_address)


def _pending(job: GpuJob, previous: ExactState, runner: StepRunner, reason: str) -> GpuResult:
    """The mode waits for a reboot. It must really be pending, or the reboot would bring nothing."""
    try:
        found = exact(runner.state())
    except StepError as error:
        return _result(job, EndState.UNKNOWN, f"{reason}; {error}", runner)
    if found.pending != job.wanted.enabled:
        return _result(job, EndState.BETWEEN, f"{reason}, and the mode is not pending either: {found}", runner)
    told = f"has {found}; {reason}: reboot the machine, and gpu-layout.service does the rest"
    return _result(job, EndState.REBOOT_REQUIRED, told, runner)


def _roll_back(job: GpuJob, previous: ExactState, runner: StepRunner, reason: str) -> GpuResult:
    done = tuple(runner.done)
    trouble = ""
    found: ExactState | None = None
    for _ in range(_ROLLBACK_ATTEMPTS):
        try:
            live = runner.state()
            found = exact(live)
            if found == job.wanted:
                # The driver did it and answered wrongly, or failed only when it was asked how it went.
                told = f"is as wanted: {found} (at first: {reason})"
                return _result(job, EndState.WANTED, told, runner, done)
            if found == previous:
                return _result(job, EndState.PREVIOUS, f"{reason}; it is as it was: {found}", runner, done)
            runner.run(steps_to(live, previous, job.at_once), lambda _: None)
        except StepError as error:
            trouble = str(error)
            if error.lost:
                told = f"{reason}; the GPU does not answer any more, so its state is unknown"
                return _result(job, EndState.UNKNOWN, told, runner, done)
        except RebootNeededError as error:
            trouble = str(error)
            break
    return _last_look(job, previous, runner, done, reason, trouble)


def _last_look(
    job: GpuJob, previous: ExactState, runner: StepRunner, done: tuple[Step, ...], reason: str, trouble: str
) -> GpuResult:
    try:
        found = exact(runner.state())
    except StepError as error:
        told = f"{reason}; it could not be rolled back ({trouble}), and its state is unknown: {error}"
        return _result(job, EndState.UNKNOWN, told, runner, done)
    if found == previous:
        return _result(job, EndState.PREVIOUS, f"{reason}; it is as it was: {found}", runner, done)
    told = (
        f"{reason}; it could not be rolled back to {previous} ({trouble or 'the steps had no effect'}): it now has "
        f"{found}; the next run puts it straight"
    )
    return _result(job, EndState.BETWEEN, told, runner, done)


def _result(
    job: GpuJob, end: EndState, message: str, runner: StepRunner, done: Sequence[Step] | None = None
) -> GpuResult:
    steps = tuple(runner.done if done is None else done)
    return GpuResult(job.pci_address, end, message, steps, changed=bool(runner.done))
