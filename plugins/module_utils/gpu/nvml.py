# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The way to the NVIDIA driver: the only file that touches pynvml. No pynvml type or exception leaves it.

pynvml (Debian ``python3-pynvml``) is imported when a session starts and not before: a machine without it is described
all the same. Every failure, also a call that this pynvml or this libnvidia-ml lacks, is an :class:`NvmlError`.
"""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import IntEnum
from typing import Any

#: Gives the pynvml module; a test gives another.
Loader = Callable[[], Any]

# Room for the instances of one profile. A GPU has at most 15 GPU instance ids and 8 compute instances in each.
_MOST_INSTANCES = 32


class NvmlCode(IntEnum):
    """The return codes of NVML that mean something to us (``nvmlReturn_t`` in nvml.h)."""

    INVALID_ARGUMENT = 2
    NOT_SUPPORTED = 3
    NO_PERMISSION = 4
    NOT_FOUND = 6
    DRIVER_NOT_LOADED = 9
    LIBRARY_NOT_FOUND = 12
    FUNCTION_NOT_FOUND = 13
    GPU_IS_LOST = 15
    RESET_REQUIRED = 16
    LIB_RM_VERSION_MISMATCH = 18
    UNKNOWN = 999


class PynvmlMissing(Exception):  # noqa: N818  # it is an answer more than an error
    """pynvml can't be imported; the message is the import's."""


class NvmlError(Exception):
    """A call of NVML failed: *call* its name in pynvml, *code* NVML's return code, *text* NVML's words for it."""

    def __init__(self, call: str, code: int, text: str) -> None:
        super().__init__(f"{call} failed with NVML error {code} ({text})")
        self.call = call
        self.code = code
        self.text = text


def load_pynvml() -> Any:
    """Import pynvml.

    :raises PynvmlMissing: it can't be imported.
    """
    try:
        return importlib.import_module("pynvml")
    except ImportError as error:
        raise PynvmlMissing(str(error)) from error


class Library:
    """An initialised NVML. Handles that calls return are opaque and valid until the session ends."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def call(self, name: str, *arguments: object) -> Any:
        """Call pynvml's function *name*; text comes back as ``str`` whatever this pynvml makes of it.

        :raises NvmlError: it failed, or pynvml or the library lacks it (code ``FUNCTION_NOT_FOUND``).
        """
        function = getattr(self._module, name, None)
        if function is None:
            raise NvmlError(name, NvmlCode.FUNCTION_NOT_FOUND, "this python3-pynvml is too old to know the function")
        try:
            result = function(*arguments)
        except self._module.NVMLError as error:
            raise NvmlError(name, int(error.value), str(error)) from error
        except self._module.NVMLLibraryMismatchError as error:
            # pynvml's other way of saying that the library lacks a function; not a subclass of NVMLError
            raise NvmlError(name, NvmlCode.FUNCTION_NOT_FOUND, str(error)) from error
        except UnicodeDecodeError as error:
            raise NvmlError(name, NvmlCode.UNKNOWN, f"the driver returned bytes that are no text: {error}") from error
        return as_text(result) if isinstance(result, bytes) else result

    def gpu_instances(self, device: object, profile_id: int) -> list[object]:
        """Handles of the GPU instances of one profile; needs root.

        :raises NvmlError: see :meth:`call`.
        """
        return self._handles("nvmlDeviceGetGpuInstances", device, profile_id, "c_nvmlGpuInstance_t")

    def compute_instances(self, gpu_instance: object, profile_id: int) -> list[object]:
        """Handles of the compute instances of one compute instance profile.

        :raises NvmlError: see :meth:`call`.
        """
        return self._handles("nvmlGpuInstanceGetComputeInstances", gpu_instance, profile_id, "c_nvmlComputeInstance_t")

    def _handles(self, call: str, parent: object, profile_id: int, pointer_type: str) -> list[object]:
        # pynvml passes these two arguments to the C function as they are.
        handle_type = getattr(self._module, pointer_type, None)
        if handle_type is None:
            raise NvmlError(call, NvmlCode.FUNCTION_NOT_FOUND, f"this python3-pynvml is too old to know {pointer_type}")
        handles = (handle_type * _MOST_INSTANCES)()
        count = ctypes.c_uint(_MOST_INSTANCES)
        self.call(call, parent, profile_id, handles, ctypes.byref(count))
        return [handles[position] for position in range(min(count.value, _MOST_INSTANCES))]


def as_text(value: object) -> str:
    """A string field of an NVML structure: ctypes gives bytes there, and an odd byte must not hide the rest."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


@contextmanager
def session(load: Loader = load_pynvml) -> Iterator[Library]:
    """NVML between ``nvmlInit`` and ``nvmlShutdown``; the latter is called whatever happens in between.

    :raises PynvmlMissing: pynvml can't be imported.
    :raises NvmlError: NVML can't be initialised or, after the body, not shut down.
    """
    library = Library(load())
    library.call("nvmlInit")
    try:
        yield library
    except BaseException:
        # What went wrong in the body is what the caller must hear of, not that the way out is barred too.
        with suppress(NvmlError):
            library.call("nvmlShutdown")
        raise
    library.call("nvmlShutdown")
