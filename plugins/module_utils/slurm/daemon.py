# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Starts slurmd with the configuration that is there, or goes back to the one it ran with.

``slurmd -G`` accepts much that slurmd refuses when it starts (a ProctrackType that does not exist, an option it does
not know), so the start itself is the last judge of a configuration. What only jobs would miss is looked at before.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .control import Completed, Runner
from .kept import Kept
from .plugins import missing_plugins
from .publish import PublishError

UNIT = "slurmd.service"
#: Seconds for which it must run to have started. It is ready for systemd before it has loaded everything.
_SETTLES = 1.0
#: Seconds after which a slurmd that waits for its controller is left to itself.
_WAITS = 6.0
_PROPERTIES = (
    "ActiveState",
    "MainPID",
    "UnitFileState",
    "KillMode",
    "NeedDaemonReload",
    "NRestarts",
    "ExecMainStartTimestampMonotonic",
    "LoadState",
)
_SAID = 6


class DaemonError(Exception):
    """slurmd does not run as it should; the text says what it said, what was done about it and what to do."""


@dataclass(frozen=True)
class Host:
    """The machine: *run* for commands, its *root*, and its clocks."""

    run: Runner
    root: Path = Path("/")
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], float] = time.time


@dataclass(frozen=True)
class Slurmd:
    """slurmd's unit on *host*.

    *configuration*: files and folders that it reads. *programs*: files whose change means a restart, too.
    *started*: a folder that systemd makes at each of its starts. *waits*: whether it needs a controller to start, for
    which nobody waits here.
    """

    host: Host
    configuration: Sequence[Path]
    programs: Sequence[Path] = ()
    started: Path = Path("/run/slurm")
    waits: bool = False

    def keep(self) -> bool:
        """Keep the configuration if slurmd runs with it; whether that was something new."""
        state = self._state()
        if state["ActiveState"] != "active" or self.stale():
            return False
        return self._kept().save()

    def stale(self) -> list[str]:
        """The files that changed since slurmd started; none where it does not run.

        By the time of the change, which the kernel sets: a copied file may claim any time of its own. A time that is
        yet to come says nothing.
        """
        marker = self.host.root / str(self.started).lstrip("/")
        if not marker.exists():
            return []
        since, now = marker.stat().st_mtime_ns, self.host.now() * 1e9
        files = list(self._kept().present().values())
        files += [path for path in (self.host.root / str(one).lstrip("/") for one in self.programs) if path.is_file()]
        return [f"/{path.relative_to(self.host.root)}" for path in files if since < path.stat().st_ctime_ns <= now]

    def due(self, restart: bool = False) -> list[str]:
        """Why something has to be done, in words; empty where slurmd runs with what is there, now and at boot."""
        state = self._state()
        reasons = []
        if state["ActiveState"] != "active":
            reasons.append(f"slurmd is {state['ActiveState']}")
        elif restart:
            reasons.append("a restart was asked for")
        elif stale := self.stale():
            reasons.append(f"changed since slurmd started: {', '.join(stale)}")
        if state["UnitFileState"] == "disabled":
            reasons.append("slurmd is not started at boot")
        return reasons

    def run(self, restart: bool = False) -> bool:
        """Have it run with the configuration that is there, now and at boot; whether anything had to be done.

        :raises DaemonError: it does not start. What it ran with before is then back in place, and runs.
        """
        reasons = self.due(restart)
        if not reasons:
            return False
        state = self._state()
        if state["LoadState"] == "not-found":
            raise DaemonError(f"expected the unit {UNIT}, found none: install slurmd")
        if state["UnitFileState"] == "disabled":
            self._systemctl("enable", UNIT)
        if reasons != ["slurmd is not started at boot"]:
            if self.waits and state["ActiveState"] == "activating" and not (restart or self.stale()):
                return len(reasons) > 1  # it waits for its controller already
            self._start()
        return True

    def _start(self) -> None:
        trouble = self._try()
        if trouble is None:
            if not self.waits:
                self._kept().save()
            return
        if not trouble.own:
            raise DaemonError(f"{trouble.text}. Its configuration was left as it is: slurmd has not read it")
        kept = self._kept()
        changed = kept.restore()
        if not changed:
            known = "is as it was" if kept.kept.is_dir() else "is the first: there is no earlier one to go back to"
            raise DaemonError(f"{trouble.text}. The configuration {known}. Correct the variables and run this again")
        told = (
            f"{trouble.text}. The files that it ran with before are back ({', '.join(f'/{name}' for name in changed)})"
        )
        again = self._try()
        outcome = "and it runs with them" if again is None else f"but it does not start with them either: {again.text}"
        raise DaemonError(
            f"{told}, {outcome}. What it refused is in {kept.refused}. Correct the variables and run this again"
        )

    def _try(self) -> _Trouble | None:
        if missing := self._missing():
            return _Trouble(f"slurmd was not started, as jobs would fail: {'; '.join(missing)}", True)
        before = self._state()
        if before["NeedDaemonReload"] == "yes":
            self._systemctl("daemon-reload")
            before = self._state()
        if before["ActiveState"] == "active" and before["KillMode"] not in ("process", "none"):
            raise DaemonError(
                f"expected KillMode=process of {UNIT}, found {before['KillMode']}: a restart would end running jobs. "
                f"Take it out of the unit's drop-ins (systemctl cat {UNIT})"
            )
        since = self.host.now()
        done = self._systemctl(*(["--no-block"] if self.waits else []), "restart", UNIT)
        started = self._started(done, before)
        if started:
            return None
        after = self._state()
        own = after["ExecMainStartTimestampMonotonic"] != before["ExecMainStartTimestampMonotonic"]
        return _Trouble(f"slurmd did not start. {self._said(since)}", own)

    def _missing(self) -> list[str]:
        conf = self.host.root / "etc/slurm/slurm.conf"
        if not conf.is_file():
            return []
        try:
            return missing_plugins(conf, self.host.root)
        except PublishError as error:
            return [str(error)]

    def _started(self, done: Completed, before: dict[str, str]) -> bool:
        if done.rc != 0:
            return False
        if not self.waits:
            pid = self._state()["MainPID"]
            self.host.sleep(_SETTLES)
            state = self._state()
            return state["ActiveState"] == "active" and state["MainPID"] == pid
        end = self.host.clock() + _WAITS
        while self.host.clock() < end:
            self.host.sleep(0.5)
            state = self._state()
            if state["ActiveState"] == "failed" or state["NRestarts"] not in ("0", before["NRestarts"]):
                return False
            if state["ActiveState"] == "activating" and state["MainPID"] == "0":
                return False  # it ended, and systemd will try again
        return True

    def _said(self, since: float) -> str:
        command = [
            "journalctl",
            "--unit",
            UNIT,
            "--since",
            f"@{int(since)}",
            "--output=cat",
            "--no-pager",
            "--lines=40",
        ]
        lines = [line.strip() for line in self.host.run(command).stdout.splitlines() if line.strip()]
        telling = [
            line for line in lines if re.search(r"error|fatal|invalid|unrecognized|depend|condition", line, re.I)
        ]
        own = [line for line in telling if not line.startswith(f"{UNIT}:")] or telling or lines
        return (
            f"It said: {' / '.join(dict.fromkeys(own[-_SAID:])).rstrip('.')}"
            if own
            else f"See journalctl --unit {UNIT}"
        )

    def _state(self) -> dict[str, str]:
        done = self._systemctl("show", f"--property={','.join(_PROPERTIES)}", UNIT)
        state = dict(line.partition("=")[::2] for line in done.stdout.splitlines())
        missing = [name for name in _PROPERTIES if name not in state]
        if missing:
            raise DaemonError(
                f"expected systemctl to tell {', '.join(missing)} of {UNIT}, found: {done.stderr.strip()}"
            )
        return state

    def _systemctl(self, *words: str) -> Completed:
        return self.host.run(["systemctl", *words])

    def _kept(self) -> Kept:
        return Kept(self.configuration, self.host.root)


@dataclass(frozen=True)
class _Trouble:
    """*own*: whether it is slurmd's configuration, rather than something that kept it from being started."""

    text: str
    own: bool
