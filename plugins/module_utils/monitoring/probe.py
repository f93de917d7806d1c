# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The machine as the collectors see it: its files below a root, its driver, and commands that end in time."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..gpu import nvml
from ..gpu.nvml import Loader
from ..slurm.control import Completed, Runner

#: Seconds for a command. What hangs (a controller that is away, a dead file system) must not outlive the next run.
TIMEOUT = 20


class CollectError(Exception):
    """A collector can't tell what it is asked for; the text says what was expected and found."""


def run_command(command: Sequence[str]) -> Completed:
    """Run *command* with plain messages. One that is not there ends with 127, one that takes too long with 124."""
    try:
        done = subprocess.run(
            list(command),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT,
            check=False,
            env={**os.environ, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
        )
    except FileNotFoundError:
        return Completed(127, "", f"{command[0]}: command not found")
    except subprocess.TimeoutExpired:
        return Completed(124, "", f"did not end within {TIMEOUT} s")
    return Completed(done.returncode, done.stdout, done.stderr)


@dataclass(frozen=True)
class Probe:
    """What tests replace: *root* of the files, *run* for commands, *load* for pynvml, *kernel*: the one that runs."""

    root: Path = Path("/")
    run: Runner = run_command
    load: Loader = nvml.load_pynvml
    kernel: Callable[[], str] = platform.release

    def ask(self, *command: str) -> str:
        """The output of a command that must succeed.

        :raises CollectError: it did not; the text has its exit code and last line.
        """
        done = self.run(command)
        if done.rc != 0:
            lines = [line.strip() for line in f"{done.stdout}\n{done.stderr}".splitlines() if line.strip()]
            raise CollectError(
                f"expected '{' '.join(command)}' to succeed, it failed with exit code {done.rc}: "
                f"{lines[-1] if lines else 'no message'}"
            )
        return done.stdout

    def has(self, path: str) -> bool:
        """Whether a file is there, below the root."""
        return (self.root / path).exists()
