# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Failures of the NVIDIA driver in words for a person: what was asked, what came back, what to do."""

from __future__ import annotations

from .model import Problem
from .nvml import NvmlCode, NvmlError

_KERNEL_LOG = "look for NVRM and Xid lines in the kernel log (journalctl -k)"

_ADVICE = {
    NvmlCode.NO_PERMISSION: "run this as root (become: true)",
    NvmlCode.GPU_IS_LOST: (
        f"{_KERNEL_LOG}; a GPU that fell off the bus comes back with a power cycle, and a board or riser that does it "
        "again needs service"
    ),
    NvmlCode.RESET_REQUIRED: "reset the GPU (nvidia-smi --gpu-reset -i ADDRESS) or reboot the machine",
}


def advice(code: int) -> str:
    """What to do about an NVML return code."""
    return next((text for known, text in _ADVICE.items() if known == code), _KERNEL_LOG)


def gpu_trouble(error: NvmlError, what: str, address: str) -> Problem:
    """A call about one GPU failed; *what* could not be read."""
    if error.code == NvmlCode.GPU_IS_LOST:
        return Problem(
            "gpu_lost",
            f"GPU {address} is lost: the driver knew it, but it no longer answers ({error}); {advice(error.code)}",
            address,
        )
    return Problem(
        "gpu_unreadable",
        f"the {what} of GPU {address} could not be read: {error}; {advice(error.code)}",
        address,
    )


def function_missing(error: NvmlError, what: str, library_version: str | None) -> Problem:
    """NVML or pynvml is older than a call; *what* is therefore unknown for every GPU."""
    return Problem(
        "nvml_function_missing",
        f"{error.call} is missing, so the {what} of GPUs could not be read: found libnvidia-ml "
        f"{library_version or 'of unknown version'} ({error.text}); install a driver and a python3-pynvml that have it",
    )


def session_trouble(error: NvmlError) -> Problem:
    """NVML as a whole failed: at its start, its end, or when asked how many GPUs there are."""
    if error.code == NvmlCode.LIBRARY_NOT_FOUND:
        return Problem(
            "nvml_library_missing",
            "expected NVIDIA's library libnvidia-ml.so.1, found none that loads: install it in the version of the "
            "kernel driver (Debian package libnvidia-ml1)",
        )
    if error.code == NvmlCode.DRIVER_NOT_LOADED:
        return Problem(
            "driver_not_responding",
            f"libnvidia-ml is installed, but no kernel driver answers it: {error}; check that the nvidia module is "
            "loaded (lsmod), that it was built for the running kernel (dkms status), and that /dev/nvidiactl exists",
        )
    if error.code == NvmlCode.LIB_RM_VERSION_MISMATCH:
        return Problem(
            "version_mismatch",
            f"the loaded nvidia kernel module and libnvidia-ml are of different versions: {error}",
        )
    if error.code == NvmlCode.FUNCTION_NOT_FOUND:
        return Problem(
            "nvml_function_missing",
            f"{error.call} is missing, so no GPU can be read through the driver: {error.text}; install a driver and a "
            "python3-pynvml that have it",
        )
    return Problem("driver_not_responding", f"the NVIDIA driver does not answer: {error}; {advice(error.code)}")
