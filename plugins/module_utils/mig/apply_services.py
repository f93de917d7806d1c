# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Services that hold GPUs open: stopped for a change of mode and started again afterwards, also when it failed.

A run that is killed can start nothing. So what it stops stands in a file in /run, and the next run, which finds it
there, starts it. After a reboot systemd has started what is enabled, and the file is gone.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

#: Runs systemctl with these arguments; its exit code and its last line of output.
Systemctl = Callable[[Sequence[str]], tuple[int, str]]

_TIMEOUT_S = 180
STOPPED = Path("run/hpc-compute/stopped-services")


class ServiceError(Exception):
    """A service could not be stopped or started; the text says which and why."""


def systemctl(arguments: Sequence[str]) -> tuple[int, str]:
    """The real one."""
    command = ["systemctl", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except FileNotFoundError:
        return 127, "there is no systemctl on this machine"
    except subprocess.TimeoutExpired:
        return 124, f"'{' '.join(command)}' did not end in {_TIMEOUT_S} s"
    lines = [line.strip() for line in f"{done.stdout}\n{done.stderr}".splitlines() if line.strip()]
    return done.returncode, lines[-1] if lines else ""


def unit_name(service: str) -> str:
    """``nvidia-dcgm`` and ``nvidia-dcgm.service`` are the same."""
    return service if "." in service.rsplit("/", 1)[-1] else f"{service}.service"


class StoppedServices:
    """Services that were running and are stopped; :meth:`start` brings exactly these back, last stopped first.

    They stand in *file* meanwhile. :meth:`recover` takes over what a run that was killed left there.
    """

    def __init__(self, run: Systemctl, file: Path, wait: bool = True) -> None:
        self._run = run
        self._file = file
        self._wait = wait
        self.stopped: list[str] = []

    def recover(self) -> list[str]:
        """Take over what a run that was killed stopped, to be started with the rest; these services. Under the lock."""
        try:
            left = self._file.read_text(encoding="utf-8").split()
        except FileNotFoundError:
            return []
        self.stopped += [service for service in left if service not in self.stopped]
        return left

    def stop(self, services: Sequence[str]) -> None:
        """Stop those of *services* that run.

        :raises ServiceError: one would not stop; those before it stay stopped until :meth:`start`.
        """
        for service in map(unit_name, services):
            if self._run(["is-active", "--quiet", service])[0] != 0:
                continue
            if service not in self.stopped:
                self.stopped.append(service)
            self._note()
            code, told = self._run(["stop", service])
            if code != 0:
                raise ServiceError(f"{service} could not be stopped (systemctl stop: exit code {code}): {told}")

    def start(self) -> list[str]:
        """Start what was stopped. Returns a sentence for each that would not start, so that all are tried."""
        failures = []
        while self.stopped:
            service = self.stopped.pop()
            # A unit that waits for the one we run in must not be waited for.
            code, told = self._run(["start", *([] if self._wait else ["--no-block"]), service])
            if code != 0:
                failures.append(
                    f"{service} was stopped for the change and could not be started again (exit code {code}): {told}; "
                    f"see 'systemctl status {service}'"
                )
        self._file.unlink(missing_ok=True)
        return failures

    def _note(self) -> None:
        """Before it happens, so that nothing is ever stopped that nobody knows of."""
        try:
            self._file.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            part = self._file.with_name(f".{self._file.name}.new")
            part.write_text("".join(f"{service}\n" for service in self.stopped), encoding="utf-8")
            part.replace(self._file)
        except OSError as error:
            service = self.stopped.pop()
            raise ServiceError(f"{service} was not stopped: {self._file} could not be written: {error}") from error
