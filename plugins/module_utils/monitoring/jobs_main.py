# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command ``hpc-gpu-jobs``, which Slurm's prolog and epilog run so that GPU metrics carry the number of their job.

It never keeps a job from starting: what goes wrong is told on the standard error output, and the exit code is 0.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TextIO

from ..gpu.nvml import Loader, load_pynvml
from ..mig.lock import LockError
from .job_map import JobMap, JobMapError, device_names


def main(
    arguments: Sequence[str] | None = None,
    environment: Mapping[str, str] | None = None,
    load: Loader = load_pynvml,
    err: TextIO | None = None,
) -> int:
    """Run the command; its exit code."""
    options = parser().parse_args(arguments)
    variables = os.environ if environment is None else environment
    run: Callable[[Path, Mapping[str, str], Loader], None] = options.run
    try:
        run(options.root, variables, load)
    except (JobMapError, LockError) as error:
        _tell(str(error), err)
    except OSError as error:
        _tell(f"{error.filename or 'a file'}: {error.strerror or error}", err)
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="hpc-gpu-jobs",
        description="Note which job uses which GPU, for the DCGM exporter (run by Slurm's prolog and epilog).",
        epilog="Slurm's variables SLURM_JOB_ID and CUDA_VISIBLE_DEVICES say which. The exit code is 0 whatever "
        "happens, as a prolog that fails would drain the node; messages go to the standard error output.",
    )
    top.add_argument("--root", type=Path, default=Path("/"), help=argparse.SUPPRESS)
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    for name, run, text in (
        ("begin", _begin, "the job starts on this node"),
        ("end", _end, "the job has ended on this node"),
        ("show", _show, "print the devices in use and their jobs"),
    ):
        command = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        command.set_defaults(run=run)
    return top


def _begin(root: Path, variables: Mapping[str, str], load: Loader) -> None:
    visible = variables.get("CUDA_VISIBLE_DEVICES", "")
    if not visible or visible == "NoDevFiles":
        return  # most jobs: no GPU, and no driver is asked
    from ..gpu.inventory import read_inventory  # not needed at the end of a job, which should not wait for it either

    JobMap(root).begin(_job(variables), device_names(visible, read_inventory(root, load), root))


def _end(root: Path, variables: Mapping[str, str], load: Loader) -> None:
    JobMap(root).end([_job(variables)])


def _show(root: Path, variables: Mapping[str, str], load: Loader) -> None:
    for device, jobs in JobMap(root).devices().items():
        print(device, *jobs)


def _job(variables: Mapping[str, str]) -> str:
    job = variables.get("SLURM_JOB_ID", "")
    if not job.isdecimal():
        raise JobMapError(
            f"expected a job's number in SLURM_JOB_ID, found {job!r}; this is for Slurm's prolog and epilog"
        )
    return job


def _tell(text: str, err: TextIO | None) -> None:
    print(f"hpc-gpu-jobs: {' '.join(text.split())}", file=err or sys.stderr, flush=True)
