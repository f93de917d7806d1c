# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Carrying out steps on one GPU, one after the other, and saying in words why one could not be."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from ..gpu import nvml
from ..gpu.control import IN_USE, INSUFFICIENT_RESOURCES, LiveState, MigControl
from ..gpu.model import Placement
from ..gpu.nvml import Library, Loader, NvmlCode, NvmlError, PynvmlMissing
from ..gpu.processes import processes_on
from ..gpu.troubles import advice as driver_advice
from . import holders
from .apply_reset import Reset, ResetError
from .steps import (
    CreateComputeInstance,
    CreateGpuInstance,
    DestroyComputeInstance,
    DestroyGpuInstance,
    ResetGpu,
    SetMode,
    Step,
)


class StepError(Exception):
    """A step was not done; the text says which, why, and what to do. *lost*: the GPU no longer answers at all."""

    def __init__(self, message: str, lost: bool = False) -> None:
        super().__init__(message)
        self.lost = lost


class RebootNeededError(Exception):
    """A mode change is pending and the GPU was not reset; the text is the reason. Nothing more can be done now."""


class Driver:
    """A session with NVML that can be left, as it must be around a reset, and is taken up again when needed.

    :raises NvmlError, PynvmlMissing: by :meth:`library`; there is no driver to speak to.
    """

    def __init__(self, load: Loader = nvml.load_pynvml) -> None:
        self._load = load
        self._session: AbstractContextManager[Library] | None = None
        self._library: Library | None = None

    def library(self) -> Library:
        """NVML, initialised."""
        if self._library is None:
            self._session = nvml.session(self._load)
            self._library = self._session.__enter__()
        return self._library

    def leave(self) -> None:
        """End the session; without one nothing happens."""
        session, self._session, self._library = self._session, None, None
        if session is not None:
            session.__exit__(None, None, None)


@dataclass(frozen=True)
class Place:
    """Where the GPU to be changed is found: its PCI address, its device minor, and the trees with its files."""

    pci_address: str
    minor: int | None = None
    proc: Path = Path("/proc")
    dev: Path = Path("/dev")


class StepRunner:
    """Carries out steps on the GPU at *place*. *reset* is ``None`` where no GPU may be reset."""

    def __init__(self, driver: Driver, place: Place, reset: Reset | None) -> None:
        self._driver = driver
        self._place = place
        self._reset = reset
        #: Steps that were begun and ended well.
        self.done: list[Step] = []

    def state(self) -> LiveState:
        """The GPU as it is.

        :raises StepError: it can't be read.
        """
        try:
            return self._control().state()
        except (NvmlError, PynvmlMissing) as error:
            raise self._unreadable(error) from error

    def run(self, steps: Sequence[Step], before: Callable[[int], None]) -> None:
        """Do *steps*, calling *before* with the number of each.

        :raises StepError: one failed; the GPU is somewhere in between.
        :raises RebootNeededError: the GPU is not to be reset, or can't be; the steps before it are done.
        """
        made: dict[Placement, int] = {}
        starts = _Starts(steps)
        for number, step in enumerate(steps):
            before(number)
            try:
                self._do(step, made, starts)
            except (NvmlError, PynvmlMissing) as error:
                raise self._failed(step, error) from error
            self.done.append(step)

    def _do(self, step: Step, made: dict[Placement, int], starts: _Starts) -> None:
        if isinstance(step, ResetGpu):
            self._bring_into_force(step.enabled)
            return
        control = self._control()
        if isinstance(step, SetMode):
            control.set_mode(step.enabled)
        elif isinstance(step, DestroyComputeInstance):
            control.destroy_compute_instance(step.gi_id, step.ci_id)
        elif isinstance(step, DestroyGpuInstance):
            control.destroy_gpu_instance(step.gi_id)
        elif isinstance(step, CreateGpuInstance):
            made[step.placement] = control.create_gpu_instance(step.profile_id, step.placement)
        else:
            self._create_compute_instance(control, step, made, starts)

    def _create_compute_instance(
        self, control: MigControl, step: CreateComputeInstance, made: dict[Placement, int], starts: _Starts
    ) -> None:
        gi_id = made[step.placement] if step.gi_id is None else step.gi_id
        control.create_compute_instance(gi_id, step.slices, starts.next(control, gi_id, step))

    def _bring_into_force(self, enabled: bool) -> None:
        if self._control().mode().current == enabled:
            return  # the driver did not want a reset after all
        if self._reset is None:
            raise RebootNeededError("a GPU reset is needed and not allowed here")
        self._driver.leave()  # our own session would be in the way
        try:
            self._reset(self._place.pci_address)
        except ResetError as error:
            held = self._holders()
            why = f"; {holders.advice(held)}" if held else ""
            raise RebootNeededError(f"the GPU could not be reset: {error}{why}") from error
        if self._control().mode().current != enabled:
            raise RebootNeededError("the GPU was reset, but its MIG mode is still the old one")

    def _control(self) -> MigControl:
        return MigControl(self._driver.library(), self._place.pci_address)

    def _holders(self) -> list[holders.Holder]:
        return holders.holders(self._place.minor, self._place.proc, self._place.dev, but=[os.getpid()])

    def _failed(self, step: Step, error: NvmlError | PynvmlMissing) -> StepError:
        what = step.describe()
        if isinstance(error, PynvmlMissing):
            return StepError(f"{what} failed: {error}")
        return StepError(f"{what} failed: {error}; {self._advice(step, error.code)}", _is_lost(error))

    def _advice(self, step: Step, code: int) -> str:
        if code == IN_USE:
            if isinstance(step, SetMode):
                return holders.advice(self._holders())
            return self._users()
        if code == INSUFFICIENT_RESOURCES:
            return (
                "the driver has no room where the plan has: something else changes this GPU at the same time, or the "
                "board is not what its PCI id says; run it again, and see 'nvidia-smi mig -lgipp'"
            )
        return driver_advice(code)

    def _users(self) -> str:
        try:
            using = processes_on(self._driver.library(), self._place.pci_address, self._place.proc)
        except (NvmlError, PynvmlMissing) as error:
            return f"who uses it could not be read ({error})"
        if not using:
            return holders.advice(self._holders())
        return f"it is used by {', '.join(map(str, using))}: wait until they have ended"

    def _unreadable(self, error: NvmlError | PynvmlMissing) -> StepError:
        code = error.code if isinstance(error, NvmlError) else int(NvmlCode.UNKNOWN)
        return StepError(
            f"the MIG state of GPU {self._place.pci_address} could not be read: {error}; {driver_advice(code)}",
            isinstance(error, NvmlError) and _is_lost(error),
        )


class _Starts:
    """Where the compute instances of one GPU instance go, where it matters: when they are not all of one size."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self._sizes: dict[Placement, list[int]] = {}
        self._arranged: dict[Placement, list[int] | None] = {}
        for step in steps:
            if isinstance(step, CreateComputeInstance):
                self._sizes.setdefault(step.placement, []).append(step.slices)

    def next(self, control: MigControl, gi_id: int, step: CreateComputeInstance) -> int | None:
        if len(set(self._sizes[step.placement])) == 1:
            return None  # equal ones can't be in each other's way
        if step.placement not in self._arranged:
            self._arranged[step.placement] = control.arrange(gi_id, self._sizes[step.placement])
        starts = self._arranged[step.placement]
        return starts.pop(0) if starts else None


def _is_lost(error: NvmlError) -> bool:
    return error.code == NvmlCode.GPU_IS_LOST
