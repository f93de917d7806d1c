# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a layout means for this machine now: read, planned, and turned into one job per GPU. Changes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ..gpu import nvml
from ..gpu.control import MigControl
from ..gpu.inventory import read_inventory
from ..gpu.model import Gpu, Inventory
from ..gpu.nvml import Loader, NvmlError, PynvmlMissing
from ..gpu.processes import GpuProcess, processes_on
from .apply_gpu import GpuJob
from .apply_reset import Reset, nvidia_smi_reset
from .apply_services import STOPPED, Systemctl, systemctl, unit_name
from .apply_state import ExactState, exact, exact_gpu, steps_to, wanted_by
from .apply_steps import Driver
from .catalog import Board, ModeSemantics
from .checkpoint import CHECKPOINT, Change, Checkpoint
from .explain import Infeasible
from .holders import service_of
from .layout import Entry
from .live import LiveBoard, LiveProfile, overlay
from .live_profiles import read_profiles
from .lock import LOCK
from .machine import GpuOutcome, MachinePlan, board_of, plan_machine
from .plan import Conditions, GpuPlan
from .slurm_jobs import running_jobs
from .steps import DestroyComputeInstance, DestroyGpuInstance, ResetGpu, SetMode, Step

# What makes a GPU's state unfit to be planned from, beside there being no answer at all.
_UNREADABLE = frozenset({"gpu_lost", "gpu_unreadable", "driver_missing", "wrong_kernel_driver"})


@dataclass(frozen=True)
class Options:
    """How careful a change is.

    *on_busy*: ``fail`` refuses to plan against instances with processes, and to change anything while Slurm jobs run
    here; ``destroy`` leaves it to the driver to refuse.
    *reset*: whether a GPU may be reset where its mode needs it. *stop_services*: units to be stopped meanwhile where a
    mode changes. *partial*: what to do about GPUs that the layout names and that can't be read. *lock_wait_s*: how long
    to wait for another change to end.
    """

    on_busy: Literal["fail", "destroy"] = "fail"
    reset: Literal["never", "when_needed"] = "when_needed"
    stop_services: tuple[str, ...] = ()
    partial: Literal["skip", "fail"] = "fail"
    lock_wait_s: float = 60.0


@dataclass(frozen=True)
class Host:
    """The machine to work on, and the ways to it that tests replace.

    *root*: below it lie ``/sys``, ``/dev``, ``/proc/driver`` and the files of this engine. *proc* is where processes
    are found. *wait_for_services*: whether to wait until services have started again; a unit at boot must not.
    """

    root: Path = Path("/")
    proc: Path = Path("/proc")
    load: Loader = nvml.load_pynvml
    reset: Reset = nvidia_smi_reset
    systemctl: Systemctl = systemctl
    wait_for_services: bool = True

    @property
    def lock(self) -> Path:
        return self.root / LOCK

    @property
    def stopped_services(self) -> Path:
        return self.root / STOPPED

    @property
    def checkpoint(self) -> Checkpoint:
        return Checkpoint(self.root / CHECKPOINT)


@dataclass(frozen=True)
class Prepared:
    """A machine and what is to be done to it.

    *jobs* are in the order in which they run; while there are *refusals*, only those that put an interrupted change
    straight. *over*: GPUs whose interrupted change needs nothing more. *notes* are worth telling and no failure.
    *stops_services*: whether services are to be stopped. *differences*: of driver and catalogue, by GPU.
    """

    inventory: Inventory
    plan: MachinePlan
    options: Options
    jobs: tuple[GpuJob, ...] = ()
    refusals: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    over: tuple[str, ...] = ()
    stops_services: bool = False
    differences: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def steps_now(self, job: GpuJob) -> tuple[Step, ...]:
        """The steps of *job* that are carried out before any reboot."""
        return before_reset(job.steps) if self.options.reset == "never" else job.steps

    def predicted(self, job: GpuJob) -> ExactState:
        """What the GPU of *job* is afterwards when nothing goes wrong."""
        steps = self.steps_now(job)
        if steps == job.steps:
            return job.wanted
        return ExactState(not job.wanted.enabled, job.wanted.enabled)


def before_reset(steps: Sequence[Step]) -> tuple[Step, ...]:
    """The steps up to the first reset."""
    number = next((n for n, step in enumerate(steps) if isinstance(step, ResetGpu)), len(steps))
    return tuple(steps[:number])


def prepare(entries: Sequence[Entry], options: Options, host: Host, driver: Driver) -> Prepared:
    """Read the machine and plan.

    :raises LayoutError: two entries name one GPU.
    :raises CheckpointError: there is a checkpoint that can't be used.
    """
    interrupted = {one.pci_address: one for one in host.checkpoint.load()}
    inventory = read_inventory(host.root, host.load)
    if not inventory.gpus:
        bare = MachinePlan(())
        notes = ("no NVIDIA GPU was found on this machine: nothing to do", *_gone(interrupted, inventory))
        return Prepared(inventory, bare, options, notes=notes, over=tuple(interrupted))
    eye = _Eye(inventory, options, host, driver)
    plan = plan_machine(inventory, entries, eye.conditions, eye.boards, allow_missing=options.partial == "skip")
    slurm_jobs = running_jobs(host.proc) if options.on_busy == "fail" else []
    return _Preparation(inventory, plan, options, eye, interrupted, slurm_jobs).prepared()


def _listed(jobs: Sequence[int]) -> str:
    return f"job{'' if len(jobs) == 1 else 's'} {', '.join(map(str, jobs))}"


def _gone(interrupted: Mapping[str, Change], inventory: Inventory) -> list[str]:
    present = {gpu.pci_address for gpu in inventory.gpus}
    return [
        f"a change of GPU {address} was interrupted, and the GPU is no longer there: nothing is left to put straight"
        for address in interrupted
        if address not in present
    ]


class _Eye:
    """What the driver tells beyond the inventory: live profiles, and who uses what."""

    def __init__(self, inventory: Inventory, options: Options, host: Host, driver: Driver) -> None:
        self._host = host
        self._driver = driver
        self._services = {unit_name(service) for service in options.stop_services}
        self._allow_busy = options.on_busy == "destroy"
        self.boards: dict[str, Board] = {}
        self.differences: dict[str, tuple[str, ...]] = {}
        self.conditions: dict[str, Conditions] = {}
        self.users: dict[str, list[GpuProcess]] = {}
        self.of_services: dict[str, list[GpuProcess]] = {}
        self.troubles: dict[str, list[str]] = {}
        told = {problem.message for problem in inventory.problems if problem.pci_address is None}
        for problem in inventory.problems:
            if problem.pci_address is not None and problem.code in _UNREADABLE:
                self.troubles.setdefault(problem.pci_address, []).append(problem.message)
        for gpu in inventory.gpus:
            if gpu.index is None or (gpu.mig.capable and gpu.mig.current is None):
                silent = f"the driver does not answer for GPU {gpu.pci_address}"
                self.troubles.setdefault(gpu.pci_address, sorted(told) or [silent])
            elif gpu.mig.capable:
                self._look(gpu)

    def _look(self, gpu: Gpu) -> None:
        address = gpu.pci_address
        try:
            library = self._driver.library()
            live = _overlay(gpu, read_profiles(library, address))
            found = processes_on(library, address, self._host.proc)
        except (NvmlError, PynvmlMissing) as error:
            self.troubles.setdefault(address, []).append(f"GPU {address} could not be looked at: {error}")
            return
        if live is not None:
            self.boards[address] = live.board
            self.differences[address] = live.differences
        ours = [one for one in found if service_of(one.pid, self._host.proc) in self._services]
        self.of_services[address] = ours
        self.users[address] = [one for one in found if one not in ours]
        self.conditions[address] = Conditions(
            busy_instances=frozenset(one.gi_id for one in self.users[address] if one.gi_id is not None),
            busy=any(one.gi_id is None for one in self.users[address]),
            allow_busy=self._allow_busy,
        )

    def state(self, address: str) -> ExactState | str:
        """The GPU as it is; a text where it can't be read."""
        try:
            return exact(MigControl(self._driver.library(), address).state())
        except (NvmlError, PynvmlMissing) as error:
            return str(error)

    def way_back(self, address: str, target: ExactState, at_once: bool) -> tuple[Step, ...] | str:
        """The steps from now to *target*; a text where the GPU can't be read."""
        try:
            return steps_to(MigControl(self._driver.library(), address).state(), target, at_once)
        except (NvmlError, PynvmlMissing) as error:
            return str(error)


class _Preparation:
    def __init__(
        self,
        inventory: Inventory,
        plan: MachinePlan,
        options: Options,
        eye: _Eye,
        interrupted: Mapping[str, Change],
        slurm_jobs: Sequence[int],
    ) -> None:
        self._slurm_jobs = slurm_jobs
        self._inventory = inventory
        self._plan = plan
        self._options = options
        self._eye = eye
        self._interrupted = interrupted
        self._refusals = [problem.message for problem in plan.missing]
        self._notes = _gone(interrupted, inventory)
        self._over = [address for address in interrupted if address not in {gpu.pci_address for gpu in inventory.gpus}]

    def prepared(self) -> Prepared:
        planned = [one for one in self._plan.outcomes if self._judge(one)]
        if self._slurm_jobs and any(isinstance(one.result, GpuPlan) and one.result.changed for one in planned):
            self._refusals.append(
                f"expected no Slurm job on this machine while its GPUs change, found {_listed(self._slurm_jobs)}: a "
                "job keeps what it was given only if that stays. Drain the node and wait until its jobs have ended, or "
                "allow busy instances to be destroyed (on_busy: destroy)"
            )
        jobs = []
        for outcome in self._plan.outcomes:
            straight = self._refusals or outcome not in planned
            job = self._restore(outcome) if straight else self._change(outcome)
            if job is not None:
                jobs.append(job)
        return Prepared(
            self._inventory,
            self._plan,
            self._options,
            jobs=tuple(jobs),
            refusals=tuple(dict.fromkeys(self._refusals)),
            notes=tuple(dict.fromkeys(self._notes)),
            over=tuple(self._over),
            stops_services=bool(self._options.stop_services) and any(map(self._needs_services, jobs)),
            differences=self._eye.differences,
        )

    def _judge(self, outcome: GpuOutcome) -> bool:
        """Whether the outcome is a plan to be carried out; else say why not, where the layout asked for something."""
        address = outcome.gpu.pci_address
        if outcome.entry is None:
            return False
        troubles = self._eye.troubles.get(address)
        if troubles:
            where = self._notes if self._options.partial == "skip" else self._refusals
            left = "; it is left alone (partial: skip)" if self._options.partial == "skip" else ""
            where += (f"{trouble}{left}" for trouble in troubles)
            return False
        if isinstance(outcome.result, Infeasible):
            self._refusals.append(f"GPU {address}: {outcome.result.describe()}{self._who(address, outcome.result)}")
            return False
        return outcome.result is not None

    def _who(self, address: str, result: Infeasible) -> str:
        if result.code != "busy":
            return ""
        users = self._eye.users.get(address, [])
        listed = (f"{one} on {'the GPU' if one.gi_id is None else f'GPU instance {one.gi_id}'}" for one in users)
        return f"; in use by {', '.join(listed)}"

    def _change(self, outcome: GpuOutcome) -> GpuJob | None:
        plan, address = outcome.result, outcome.gpu.pci_address
        assert isinstance(plan, GpuPlan)  # noqa: S101  # what _judge has let through
        change = self._interrupted.get(address)
        if not plan.changed:
            if change is not None:
                self._over.append(address)
                self._notes.append(f"an interrupted change of GPU {address} had got as far as this layout")
            return None
        if change is not None:
            self._notes.append(
                f"a change of GPU {address} was interrupted in step {change.cursor + 1}; this goes on from there"
            )
        return GpuJob(
            address,
            plan.steps,
            wanted_by(plan),
            expected=exact_gpu(outcome.gpu),
            previous=None if change is None else change.previous,
            at_once=_at_once(outcome.board),
        )

    def _restore(self, outcome: GpuOutcome) -> GpuJob | None:
        """Put an interrupted change straight that this layout, or this run, does not."""
        address = outcome.gpu.pci_address
        change = self._interrupted.get(address)
        if change is None:
            return None
        found = self._eye.state(address)
        if isinstance(found, str):
            self._notes.append(f"a change of GPU {address} was interrupted, and the GPU can't be read: {found}")
            return None
        if found in (change.previous, change.wanted):
            self._over.append(address)
            which = "the previous" if found == change.previous else "the wanted"
            self._notes.append(f"a change of GPU {address} was interrupted; it is in {which} state: {found}")
            return None
        steps = self._eye.way_back(address, change.previous, _at_once(outcome.board))
        if isinstance(steps, str):
            self._notes.append(f"a change of GPU {address} was interrupted, and the GPU can't be read: {steps}")
            return None
        self._notes.append(
            f"a change of GPU {address} was interrupted in step {change.cursor + 1}; it goes back to {change.previous}"
        )
        return GpuJob(address, steps, change.previous, found, change.previous, _at_once(outcome.board))

    def _needs_services(self, job: GpuJob) -> bool:
        if any(isinstance(step, SetMode | ResetGpu) for step in job.steps):
            return True
        used = {one.gi_id for one in self._eye.of_services.get(job.pci_address, [])}
        gone = (step.gi_id for step in job.steps if isinstance(step, DestroyComputeInstance | DestroyGpuInstance))
        return not used.isdisjoint(gone)


def _overlay(gpu: Gpu, profiles: Sequence[LiveProfile]) -> LiveBoard | None:
    board = board_of(gpu)
    return overlay(board, profiles, gpu.name or (board.model if board else gpu.device_id), gpu.device_id)


def _at_once(board: Board | None) -> bool:
    return board is not None and board.mode_semantics is ModeSemantics.HOPPER
