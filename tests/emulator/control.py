# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The emulator's own requests: what a test or a person at the console does to the machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from .faults import Fault
from .gpu import ComputeInstance, Gpu, GpuInstance
from .machine import Machine
from .staging import Stage


class ControlError(Exception):
    """The request can't be done; the message says why and what would be."""


class Controls:
    """Carries out requests of the form ``{"command": NAME, ...}``."""

    def __init__(self, machine: Machine, stage: Stage | None = None) -> None:
        self._machine = machine
        self._stage = stage
        self._commands: dict[str, Callable[[dict[str, Any]], Any]] = {
            "show": lambda _: machine.to_dict(),
            "fault": self._fault,
            "faults-clear": lambda _: machine.faults.clear(),
            "busy": self._busy,
            "idle": self._idle,
            "reboot": lambda _: machine.reboot(),
            "reset": self._reset,
            "lose": self._lose,
            "leak": self._leak,
            "memory-errors": self._memory_errors,
            "stage": self._restage,
        }

    def run(self, request: dict[str, Any]) -> Any:
        """Do it and return what there is to tell (JSON-ready).

        :raises ControlError: there is no such command or target.
        :raises NvmlError: the driver refuses, a reset of a GPU in use for example.
        """
        name = request.get("command")
        command = self._commands.get(str(name))
        if command is None:
            raise ControlError(f"expected a command of {', '.join(self._commands)}, found {name!r}")
        return command(request)

    def _fault(self, request: dict[str, Any]) -> None:
        fields = {key: value for key, value in request.items() if key != "command"}
        if fields.get("gpu") is not None:
            fields["gpu"] = self._machine.find(fields["gpu"]).index
        self._machine.faults.add(Fault(**fields))

    def _busy(self, request: dict[str, Any]) -> None:
        pid = int(request["pid"])
        if not Path(f"/proc/{pid}").exists():
            raise ControlError(f"no process {pid}: a GPU is held by a process that lives, give the id of one")
        self._target(str(request["target"])).processes.add(pid)

    def _idle(self, request: dict[str, Any]) -> None:
        self._target(str(request["target"])).processes.clear()

    def _target(self, text: str) -> Gpu | GpuInstance | ComputeInstance:
        """What ``GPU``, ``GPU/GI`` or ``GPU/GI/CI`` names."""
        name, *ids = text.split("/")
        gpu = self._machine.find(name)
        if not ids:
            return gpu
        try:
            numbers = [int(part) for part in ids]
            instance = gpu.instances[numbers[0]]
            if len(numbers) == 1:
                return instance
            if len(numbers) == 2:
                return instance.compute_instances[numbers[1]]
        except (KeyError, ValueError):
            pass  # said below, with what there is
        known = [f"{name}/{device.gpu_instance.id}/{device.id}" for device in gpu.mig_devices()]
        raise ControlError(f"expected GPU, GPU/GI or GPU/GI/CI, found {text!r}: there are {', '.join(known) or 'none'}")

    def _reset(self, request: dict[str, Any]) -> None:
        self._machine.find(request["gpu"]).reset()
        self._machine.revision += 1

    def _lose(self, request: dict[str, Any]) -> None:
        self._machine.find(request["gpu"]).lost = True

    def _leak(self, request: dict[str, Any]) -> None:
        target = self._target(str(request["target"]))
        mib = int(request["mib"])
        if mib < 0:
            raise ControlError(f"expected MiB of memory that leak, found {mib}")
        match target:
            case Gpu():
                if target.mig_current:
                    raise ControlError("the GPU is cut: name the GPU instance that leaks, GPU/GI")
                target.leaked_mib[None] = mib
            case GpuInstance():
                target.gpu.leaked_mib[target.id] = mib
            case ComputeInstance():
                raise ControlError("a compute instance has no memory of its own: name its GPU instance, GPU/GI")

    def _memory_errors(self, request: dict[str, Any]) -> None:
        gpu = self._machine.find(request["gpu"])
        gpu.uncorrected_errors = int(request.get("uncorrected", gpu.uncorrected_errors))
        gpu.remap_pending = bool(request.get("pending", gpu.remap_pending))
        gpu.remap_failed = bool(request.get("failed", gpu.remap_failed))

    def _restage(self, request: dict[str, Any]) -> None:
        root = Path(str(request["root"]))
        stage = self._stage if self._stage is not None and self._stage.root == root else Stage(self._machine, root)
        stage.write()
