# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Faults on demand: a call fails, its caller dies, or it never comes back."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any

from .errors import Code, parse_code

#: What can happen. ``kill-before`` and ``kill-after`` end the calling process before or after the call took effect.
KINDS = ("error", "kill-before", "kill-after", "hang")


@dataclass
class Fault:
    """One fault. *function* is an NVML function's name or a shell pattern; *gpu* an NVML index or ``None`` for all.

    *skip* matching calls pass first, then it strikes *times* times (``None``: until cleared).
    """

    function: str
    kind: str
    code: int = Code.UNKNOWN
    gpu: int | None = None
    times: int | None = None
    skip: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"expected a fault of kind {', '.join(KINDS)}, found {self.kind!r}: choose one of them")
        if (self.times is not None and self.times < 1) or self.skip < 0:
            raise ValueError(f"expected times >= 1 and skip >= 0, found times={self.times} skip={self.skip}")
        self.code = parse_code(self.code)

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "code": Code(self.code).name}


class Faults:
    """The faults in force, in the order they were set."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []

    def add(self, fault: Fault) -> None:
        self._faults.append(fault)

    def clear(self) -> None:
        self._faults.clear()

    def to_list(self) -> list[dict[str, Any]]:
        return [fault.to_dict() for fault in self._faults]

    def strike(self, function: str, gpu: int | None) -> Fault | None:
        """The fault that meets this call, counted down; *gpu* is the index of the GPU the call is about."""
        for fault in self._faults:
            if not fnmatchcase(function, fault.function) or (fault.gpu is not None and fault.gpu != gpu):
                continue
            if fault.skip:
                fault.skip -= 1
                continue
            if fault.times is not None:
                fault.times -= 1
                if not fault.times:
                    self._faults.remove(fault)
            return fault
        return None
