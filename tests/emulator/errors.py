# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""NVML's return codes (``nvmlReturn_t``) and the exception that carries one out of the emulated driver."""

from __future__ import annotations

from enum import IntEnum


class Code(IntEnum):
    """``nvmlReturn_t``; the member's name is what follows ``NVML_ERROR_`` in nvml.h."""

    SUCCESS = 0
    UNINITIALIZED = 1
    INVALID_ARGUMENT = 2
    NOT_SUPPORTED = 3
    NO_PERMISSION = 4
    ALREADY_INITIALIZED = 5
    NOT_FOUND = 6
    INSUFFICIENT_SIZE = 7
    INSUFFICIENT_POWER = 8
    DRIVER_NOT_LOADED = 9
    TIMEOUT = 10
    IRQ_ISSUE = 11
    LIBRARY_NOT_FOUND = 12
    FUNCTION_NOT_FOUND = 13
    CORRUPTED_INFOROM = 14
    GPU_IS_LOST = 15
    RESET_REQUIRED = 16
    OPERATING_SYSTEM = 17
    LIB_RM_VERSION_MISMATCH = 18
    IN_USE = 19
    MEMORY = 20
    NO_DATA = 21
    VGPU_ECC_NOT_SUPPORTED = 22
    INSUFFICIENT_RESOURCES = 23
    FREQ_NOT_SUPPORTED = 24
    ARGUMENT_VERSION_MISMATCH = 25
    DEPRECATED = 26
    NOT_READY = 27
    GPU_NOT_FOUND = 28
    INVALID_STATE = 29
    UNKNOWN = 999


class NvmlError(Exception):
    """A call ends with *code*; *outs* are the output values that are returned all the same (a needed buffer size)."""

    def __init__(self, code: Code, outs: tuple[bytes, ...] = ()) -> None:
        super().__init__(f"{code.name} ({code.value})")
        self.code = code
        self.outs = outs


def parse_code(text: str | int) -> Code:
    """``IN_USE``, ``NVML_ERROR_IN_USE`` or ``19`` as a code.

    :raises ValueError: there is no such code, or it is SUCCESS, which is no fault.
    """
    name = str(text).strip().upper().removeprefix("NVML_ERROR_")
    try:
        code = Code(int(name)) if name.isdigit() else Code[name]
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"expected an NVML error code or name, found {text!r}: use one of {', '.join(c.name for c in Code if c)}"
        ) from error
    if code is Code.SUCCESS:
        raise ValueError("a fault needs an error code, found SUCCESS: clear the faults to have a call succeed")
    return code
