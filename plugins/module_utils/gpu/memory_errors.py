# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Errors of GPU memory that do not go away by themselves, as the driver counts them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .nvml import Library, NvmlCode, NvmlError

_UNCORRECTED = 1  # nvmlMemoryErrorType_t
_VOLATILE = 0  # nvmlEccCounterType_t: since the driver was loaded
_CANNOT_TELL = (NvmlCode.NOT_SUPPORTED, NvmlCode.FUNCTION_NOT_FOUND)


@dataclass(frozen=True)
class MemoryErrors:
    """*uncorrected* since the driver was loaded or the GPU was reset; ``None`` without ECC.

    *remap_pending*: rows (before Ampere pages) are to be replaced, which a reset does. *remap_failed*: there is none
    left to replace them with.
    """

    uncorrected: int | None = None
    remap_pending: bool = False
    remap_failed: bool = False


def memory_errors(library: Library, pci_address: str) -> MemoryErrors:
    """What the driver tells of one GPU; what a board does not have is no error.

    :raises NvmlError: a call failed.
    """
    device = library.call("nvmlDeviceGetHandleByPciBusId", pci_address)
    uncorrected = _ask(library, "nvmlDeviceGetTotalEccErrors", device, _UNCORRECTED, _VOLATILE)
    rows = _ask(library, "nvmlDeviceGetRemappedRows", device)
    if rows is None:
        pages = _ask(library, "nvmlDeviceGetRetiredPagesPendingStatus", device)
        return MemoryErrors(uncorrected, remap_pending=bool(pages))
    _, _, pending, failed = rows
    return MemoryErrors(uncorrected, bool(pending), bool(failed))


def _ask(library: Library, call: str, *arguments: object) -> Any:
    try:
        return library.call(call, *arguments)
    except NvmlError as error:
        if error.code in _CANNOT_TELL:
            return None
        raise
