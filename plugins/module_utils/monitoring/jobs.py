# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The notes about jobs on GPUs, kept true: a job whose epilog never ran must not be shown for ever."""

from __future__ import annotations

from ..mig.lock import LockError
from .job_map import JobMap
from .metrics import Metric, gauge
from .probe import CollectError, Probe
from .slurm_node import running_jobs


def collect(probe: Probe) -> list[Metric]:
    """Forget jobs that Slurm no longer has on this node, and count the rest.

    :raises CollectError: Slurm does not answer, or the notes can't be had.
    """
    job_map = JobMap(probe.root)
    try:
        # In this order: a job that begins after the first line is not looked at.
        noted = job_map.jobs()
        if not noted:
            return _counts(0)
        gone = noted - running_jobs(probe)
        if gone:
            job_map.end(gone)
        return _counts(len(job_map.devices()))
    except LockError as error:
        raise CollectError(str(error)) from error
    except OSError as error:
        raise CollectError(f"expected the notes about jobs in {job_map.folder}: {error.strerror or error}") from error


def _counts(devices: int) -> list[Metric]:
    return [gauge("hpc_gpu_devices_with_job", "GPUs and MIG devices that a job is noted for.", devices)]
