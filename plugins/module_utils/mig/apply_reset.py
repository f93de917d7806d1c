# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Resetting one GPU: the only way, short of a reboot, to have Ampere boards change their MIG mode."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

#: Resets the GPU at a PCI address, and no other. Nothing of this process may hold the driver meanwhile.
Reset = Callable[[str], None]

# A reset takes a few seconds; with an NVSwitch fabric, well under a minute.
_TIMEOUT_S = 120


class ResetError(Exception):
    """The GPU was not reset; the text is the reason."""


def nvidia_smi_reset(pci_address: str) -> None:
    """Reset with ``nvidia-smi``, since NVML has no call for it.

    :raises ResetError: there is no ``nvidia-smi``, or it refused (in use, not supported, passed through to a machine).
    """
    command = ["nvidia-smi", "--gpu-reset", "-i", pci_address]
    words = " ".join(command)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except FileNotFoundError as error:
        raise ResetError(
            "expected the command nvidia-smi, found none: install it (Debian package nvidia-smi)"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise ResetError(f"'{words}' did not end in {_TIMEOUT_S} s") from error
    if done.returncode != 0:
        told = [line.strip() for line in f"{done.stdout}\n{done.stderr}".splitlines() if line.strip()]
        raise ResetError(f"'{words}' failed with exit code {done.returncode}: {told[-1] if told else 'no message'}")
