# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Services that hold GPUs open: stopped for a change of mode and started again afterwards, also when it failed."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence

#: Runs systemctl with these arguments; its exit code and its last line of output.
Systemctl = Callable[[Sequence[str]], tuple[int, str]]

_TIMEOUT_S = 180


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
    """Services that were running and are stopped; :meth:`start` brings exactly these back, last stopped first."""

    def __init__(self, run: Systemctl, wait: bool = True) -> None:
        self._run = run
        self._wait = wait
        self.stopped: list[str] = []

    def stop(self, services: Sequence[str]) -> None:
        """Stop those of *services* that run.

        :raises ServiceError: one would not stop; those before it stay stopped until :meth:`start`.
        """
        for service in map(unit_name, services):
            if service in self.stopped or self._run(["is-active", "--quiet", service])[0] != 0:
                continue
            self.stopped.append(service)
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
        return failures
