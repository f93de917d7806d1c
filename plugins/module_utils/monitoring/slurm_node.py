# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""How ``slurmctld`` has this node: its states, and whether it is drained and by whom."""

from __future__ import annotations

import socket

from ..command.slurm_conf import SlurmConfError, name_option
from ..slurm.scontrol import Scontrol, ScontrolError
from ..slurm.states import HOLDING
from .metrics import Metric, Sample, gauge
from .probe import CollectError, Probe

#: Each is always told, with 0 or 1, so that an alert on it resolves by a value and not by silence.
STATES = (
    "allocated",
    "completing",
    "down",
    "drain",
    "fail",
    "idle",
    "invalid_reg",
    "maintenance",
    "mixed",
    "not_responding",
    "planned",
    "reboot_requested",
    "reserved",
    "unknown",
)
_SLURMD = ("usr/sbin/slurmd", "usr/sbin/slurmd-wlm")


def collect(probe: Probe) -> list[Metric]:
    """Nothing on a machine without slurmd.

    :raises CollectError: no controller answers, or it knows no such node.
    """
    if not any(probe.has(path) for path in _SLURMD):
        return []
    try:
        # No patience: the next run asks again, and a silent controller is something to be told now.
        node = Scontrol(probe.run, patience_s=0.0).node(_name(probe))
    except ScontrolError as error:
        raise CollectError(str(error)) from error
    states = {state.lower() for state in node.states}
    owner = "none" if not node.drained else "hpc.compute" if node.ours else "other"
    metrics = [
        Metric(
            "hpc_slurm_node_state",
            "States of this node in Slurm: 1 for each that it is in.",
            tuple(Sample(float(state in states), {"state": state}) for state in sorted({*STATES, *states})),
        ),
        Metric(
            "hpc_slurm_node_drained",
            "Whether this node is drained, by whose reason: one of hpc.compute's own or another's.",
            tuple(Sample(float(by == owner), {"by": by}) for by in ("hpc.compute", "other")),
        ),
        gauge("hpc_slurm_node_registered", "Whether the controller has this node registered.", float(node.registered)),
    ]
    if node.reason and (node.drained or not node.registered):
        metrics.append(
            gauge(
                "hpc_slurm_node_reason_info",
                "Why this node is out of service, in Slurm's words.",
                1,
                reason=node.reason,
            )
        )
    return metrics


def running_jobs(probe: Probe) -> frozenset[str]:
    """Numbers of the jobs that hold a part of this node, as ``SLURM_JOB_ID`` has them.

    :raises CollectError: no controller answers.
    """
    command = ["squeue", "--noheader", f"--nodelist={_name(probe)}", f"--states={','.join(HOLDING)}", "--format=%A"]
    return frozenset(probe.ask(*command).split())


def _name(probe: Probe) -> str:
    try:
        return name_option(probe.root) or socket.gethostname().partition(".")[0]
    except SlurmConfError as error:
        raise CollectError(str(error)) from error
