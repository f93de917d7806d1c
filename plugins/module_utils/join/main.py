# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command ``node-join``: at the boot of a machine made from an image, and whenever it is told something new.

It says on the console and in the journal what is missing, and does its work as soon as that is there: a unit watches
the file.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from ..command.slurm_conf import SLURM_CONF
from ..gpu.inventory import read_inventory
from ..slurm.control import Completed, Runner
from ..slurm.cpus import read_topology
from ..slurm.plan import GresRefusedError, plan_gres
from . import apply
from .sources import FILE, SourceError, Told, read

EXIT_JOINED = 0
EXIT_WRONG = 2
EXIT_WAITING = 3

_UNITS = ("munge.service", "slurmd.service")
_TIMEOUT = 60


def run_command(command: Sequence[str]) -> Completed:
    """Run a command; one that takes too long is ended, with the exit code that timeout(1) has for it."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        return Completed(124, "", f"no answer in {_TIMEOUT} s")
    return Completed(done.returncode, done.stdout, done.stderr)


@dataclass(frozen=True)
class Outside:
    """The ways out of this program, which tests replace. *gres*: what the machine offers."""

    root: Path = Path("/")
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    chown: apply.Chown = shutil.chown
    run: Runner = run_command
    gres: Callable[[Path], str] = lambda root: offered(root)
    out: TextIO = field(default_factory=lambda: sys.stdout)
    err: TextIO = field(default_factory=lambda: sys.stderr)


def offered(root: Path) -> str:
    """``Gres=`` of this machine as Slurm will detect it; empty without GPUs."""
    return plan_gres(read_inventory(root), read_topology(root)).gres


def main(arguments: Sequence[str] | None = None, outside: Outside | None = None) -> int:
    """Run the command; its exit code."""
    parser = argparse.ArgumentParser(prog="node-join", description="Join the cluster that this machine was told of.")
    parser.add_argument("--restart", action="store_true", help="restart munge and slurmd where something was written")
    options = parser.parse_args(arguments)
    outside = outside or Outside()
    try:
        return _join(outside, options.restart)
    except GresRefusedError as error:
        print(f"node-join: {error}", file=outside.err)
        return EXIT_WRONG
    except SourceError as error:
        print(f"node-join: {error}. Correct it in /{FILE}; this machine joins as soon as it can", file=outside.err)
        return EXIT_WRONG


def _join(outside: Outside, restart: bool) -> int:
    if apply.is_ansibles(outside.root):
        print(
            f"node-join: this machine is configured by Ansible, as /{apply.OPTIONS} says: nothing to do. "
            "Remove that file to have it join as it was told instead",
            file=outside.out,
        )
        return EXIT_JOINED
    folder = outside.environ.get("CREDENTIALS_DIRECTORY")
    told = read(outside.root, Path(folder) if folder else None)
    if told == Told() and (outside.root / SLURM_CONF).exists():
        print("node-join: this machine has a slurm.conf and was told nothing else: nothing to do", file=outside.out)
        return EXIT_JOINED
    if told.missing:
        print(
            f"node-join: this machine can't join a cluster yet, it was not told: {', '.join(told.missing)}. Put them "
            f"into /{FILE} (cloud-init: write_files), as lines 'key = value'; it joins as soon as they are there",
            file=outside.err,
        )
        return EXIT_WAITING
    if told.public:
        print(
            "node-join: the munge key stands among the kernel's arguments, where every user can read it: "
            f"use /{FILE} or a systemd credential",
            file=outside.err,
        )
    gres = outside.gres(outside.root) if told.dynamic else ""
    changed = apply.apply(told, outside.root, outside.chown, gres)
    where = ", ".join(told.controllers)
    print(f"node-join: told of {where}: {'written' if changed else 'nothing new'}", file=outside.out)
    if changed and restart:
        done = outside.run(["systemctl", "--no-block", "restart", *_UNITS])
        if done.rc:
            print(f"node-join: {' and '.join(_UNITS)} were not restarted: {done.stderr.strip()}", file=outside.err)
            return EXIT_WRONG
    return EXIT_JOINED


if __name__ == "__main__":
    sys.exit(main())
