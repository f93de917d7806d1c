# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which Xids of the NVIDIA driver mean that a GPU must not get another job.

Source: NVIDIA, "Analyzing Xid Errors with the Xid Catalog", column "Resolution Bucket (Immediate Action)",
https://docs.nvidia.com/deploy/xid-errors/analyzing-xid-catalog.html. An Xid drains where that action is to reset the
GPU, to restart the machine or to look at the hardware; it is a note where the action is to restart the application or
to do nothing. Deliberate differences are marked.
"""

from __future__ import annotations

from typing import Literal

Action = Literal["drain", "warn", "ignore"]

_DRAIN = (
    48,  # uncorrectable memory error
    54,  # auxiliary power not connected
    62,  # internal micro-controller halt
    64,  # row remapping or page retirement failed
    74,  # NVLink error
    79,  # fallen off the bus
    95,  # uncontained memory error
    109,  # context switch timeout
    110,  # security fault
    119,  # GSP does not answer
    120,  # GSP error
    136,  # link training failed
    140,  # unrecovered ECC error
    143,  # GPU initialisation failed
    151,  # key rotation (confidential computing)
    156,  # resource retirement
    158,  # fatal timeout
)
_IGNORE = (106, 107)  # test messages

#: Says in its text what recovery other Xids need, see :func:`action`.
RECOVERY = 154

# 144 to 150 (NVLink of Blackwell) need their details decoded; the driver sums them up in a 154.
# 155 (catalogue: reset) also comes for links that are taken down on purpose: a note.


def action(xid: int, text: str, overrides: dict[int, Action]) -> Action:
    """What an Xid with this text means; *overrides* are the site's."""
    if xid in overrides:
        return overrides[xid]
    if xid == RECOVERY:
        # "... changed from 0x0 (None) to 0x2 (Node Reboot Required)". Draining peers ends with the job.
        wanted = text.rpartition(" to ")[2]
        return "warn" if "(None)" in wanted or "(Drain P2P)" in wanted else "drain"
    if xid in _IGNORE:
        return "ignore"
    return "drain" if xid in _DRAIN else "warn"
