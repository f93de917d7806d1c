# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""``slurmctld`` as the judge of a configuration, before the running one hears of it.

Slurm 24.11 has no command that checks one. So a second ``slurmctld`` is started on a copy of the folder, by systemd: in
a network of its own, where it reaches no node, no database and no other controller; without leave to write anywhere but
in its own folder; and without what acts on the world (programs, accounts, power saving). It passes when it answers and
has the nodes that it should have.
"""

from __future__ import annotations

import re
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .control import Runner
from .fleet import LOCAL_GRES_CONF
from .fleet_change import read_nodes
from .gres import GresSyntaxError
from .publish import PublishError, conf_files
from .states import same_gres

#: An address for documentation, that no machine has. Slurm uses no network that has only the loopback's.
_ADDRESS = "192.0.2.1"
#: Its network must be empty but for the loopback. Else it isn't its own, and this is the last moment to stop.
_ALONE = f"""sh -c 'test "$(ip -o link show | wc -l)" = 1 && exec ip address add {_ADDRESS}/32 dev lo'"""
_PAUSE_S = 0.2
_OWN = (
    *("StateSaveLocation", "SlurmctldPidFile", "SlurmctldLogFile", "SlurmctldDebug", "SlurmctldSyslogDebug"),
    *("SlurmctldHost", "SlurmctldAddr", "ControlMachine", "ControlAddr", "BackupController", "BackupAddr"),
    *("SlurmctldPrimaryOnProg", "SlurmctldPrimaryOffProg", "PrologSlurmctld", "EpilogSlurmctld", "BurstBufferType"),
    *("SuspendProgram", "ResumeProgram", "ResumeFailProgram", "SuspendTime", "RebootProgram", "HealthCheckProgram"),
    *("JobCompType", "JobCompLoc", "JobCompHost", "JobCompPass", "JobCompUser", "JobCompPort"),
    *("AccountingStorageType", "AccountingStorageHost", "AccountingStorageBackupHost", "AccountingStorageExternalHost"),
    *("AccountingStorageEnforce", "AccountingStorageTRES", "AccountingStoragePass", "AccountingStoragePort"),
    *("AccountingStorageUser", "FederationParameters"),
)
_OWN_WORD = re.compile(rf"(?i)(?<![A-Za-z])(?:{'|'.join(_OWN)})\s*=\s*(?:\"[^\"]*\"|\S+)")
_NUMERIC = re.compile(r"[0-9.]+|[0-9a-fA-F:]*:[0-9a-fA-F:.]*")
_ERROR = re.compile(r"(?:fatal|error): .+")


class TrialError(Exception):
    """``slurmctld`` did not accept the configuration, or could not be asked; the text says which."""


@dataclass(frozen=True)
class Trial:
    """*slurmctld* and *user*: the daemon and who runs it. The last two are for tests."""

    run: Runner
    slurmctld: str
    user: str
    timeout_s: float = 60
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    folder: Path = Path("/run")

    def try_files(self, conf: Path, files: Mapping[Path, str]) -> None:
        """Start on the folder of *conf* with *files* in it, and stop again.

        :raises TrialError: see there. Nothing has changed in any case.
        """
        work = Path(tempfile.mkdtemp(prefix="hpc-compute-trial-", dir=self.folder))
        unit = f"{work.name}.service"
        try:
            copy = _prepare(work, conf, files, self._host())
            self._own(work)
            self._start(unit, work, conf, copy.outside)
            self._wait(unit, work, copy.expected)
        except (OSError, PublishError, ValueError) as error:
            raise TrialError(f"expected to copy {conf.parent} for a trial: {error}") from error
        finally:
            self.run(["systemctl", "kill", "--signal=KILL", unit])
            self.run(["systemctl", "stop", unit])
            self.run(["systemctl", "reset-failed", unit])
            shutil.rmtree(work, ignore_errors=True)  # what is left of it is in /run, and goes with the next boot

    def _host(self) -> str:
        done = self.run(["hostname", "-s"])
        if done.rc != 0 or not done.stdout.strip():
            raise TrialError(f"expected this machine's name from hostname -s, found {done.stderr.strip()!r}")
        return done.stdout.strip()

    def _own(self, work: Path) -> None:
        done = self.run(["chown", "-R", f"{self.user}:", str(work)])
        if done.rc != 0:
            raise TrialError(f"expected the user {self.user}, as whom slurmctld runs: {done.stderr.strip()}")

    def _start(self, unit: str, work: Path, conf: Path, outside: Mapping[Path, Path]) -> None:
        properties = [
            *(f"User={self.user}", "PrivateNetwork=yes", "ProtectSystem=strict", f"ReadWritePaths={work}"),
            *(f"BindPaths={work}/etc:{conf.parent}", f"BindReadOnlyPaths={work}/hosts:/etc/hosts"),
            *(f"BindReadOnlyPaths={copy}:{path}" for path, copy in outside.items()),
            f"BindReadOnlyPaths=-{work}/nsswitch.conf:/etc/nsswitch.conf",
            *("StandardOutput=null", f"StandardError=file:{work}/stderr", f"RuntimeMaxSec={self.timeout_s:.0f}"),
            f"ExecStartPre=!{_ALONE}",
        ]
        options = [f"--property={one}" for one in properties]
        command = ["systemd-run", "--quiet", "--collect", f"--unit={unit}", *options]
        done = self.run([*command, "--", self.slurmctld, "-D", "-c", "-f", str(conf)])
        if done.rc != 0:
            raise TrialError(
                f"systemd could not start slurmctld on a copy of {conf.parent}: {done.stderr.strip() or 'no message'}"
                f"{_last(work)}. Where a machine can't have a network namespace, do without a trial "
                "(slurm_controller_nodes_trial: false); scontrol reconfigure is the judge then"
            )

    def _wait(self, unit: str, work: Path, expected: Mapping[str, str]) -> None:
        end = self.clock() + self.timeout_s
        while True:
            words = dict(
                line.partition("=")[::2]
                for line in self.run(["systemctl", "show", "--property=ActiveState,MainPID", unit]).stdout.splitlines()
            )
            if words.get("ActiveState") not in ("active", "activating"):
                raise TrialError(f"slurmctld does not start with these files{_last(work)}")
            if words.get("ActiveState") == "active" and words.get("MainPID", "0") != "0":
                inside = ["nsenter", "--net", "--mount", f"--target={words['MainPID']}", "--"]
                done = self.run([*inside, "scontrol", "--all", "--future", "--oneliner", "show", "nodes"])
                if done.rc == 0:
                    _compare(done.stdout, expected)
                    return
            if self.clock() >= end:
                raise TrialError(f"slurmctld does not answer {self.timeout_s:.0f} s after its start{_last(work)}")
            self.sleep(_PAUSE_S)  # it tells systemd that it is ready before it has read anything


@dataclass(frozen=True)
class _Copy:
    """*expected*: ``Gres=`` of each node by name. *outside*: copies by what they stand for outside of the folder."""

    expected: Mapping[str, str]
    outside: Mapping[Path, Path]


def _prepare(work: Path, conf: Path, files: Mapping[Path, str], host: str) -> _Copy:
    folder, etc = conf.parent, work / "etc"
    shutil.copytree(folder, etc, symlinks=True)
    for path, text in files.items():
        (etc / path.relative_to(folder)).write_text(_without_absent(text), encoding="utf-8")
    expected: dict[str, str] = {}
    outside: dict[Path, Path] = {}
    names = {host}
    for path, text in list(conf_files(conf, instead=files)):
        nodes, _ = read_nodes(text)
        for name, words in nodes.items():
            expected[name] = words.get("gres", "")
            names.add(words.get("nodeaddr") or words.get("nodehostname") or name)
        if path.is_relative_to(folder):
            copy = etc / path.relative_to(folder)
        else:
            copy = outside[path] = work / f"outside-{len(outside)}"
        copy.unlink(missing_ok=True)  # a link in the copy may lead out of it
        copy.write_text(_without_own(text), encoding="utf-8")
    own = {
        "SlurmctldHost": f"{host}({_ADDRESS})",
        "StateSaveLocation": work / "state",
        "SlurmctldPidFile": work / "pid",
        "SlurmctldLogFile": work / "log",
        "SlurmctldDebug": "info",
    }
    with (etc / conf.name).open("a", encoding="utf-8") as file:
        file.write("".join(f"{key}={value}\n" for key, value in own.items()))
    (work / "state").mkdir()
    # Slurm asks ten times for a name that isn't known, a second apart
    hosts = [f"{_ADDRESS} {name}\n" for name in sorted(names) if not _NUMERIC.fullmatch(name)]
    (work / "hosts").write_text("127.0.0.1 localhost\n" + "".join(hosts), encoding="utf-8")
    with suppress(FileNotFoundError):
        switch = Path("/etc/nsswitch.conf").read_text(encoding="utf-8")
        (work / "nsswitch.conf").write_text(re.sub(r"(?m)^hosts:.*", "hosts: files", switch), encoding="utf-8")
    return _Copy(expected, outside)


def _without_own(text: str) -> str:
    plain = (line if line.lstrip().startswith("#") else _OWN_WORD.sub("", line) for line in text.splitlines())
    return "\n".join([*plain, ""])


def _without_absent(text: str) -> str:
    """Without the nodes' own file where it is not here yet: it is to be empty, and slurmctld would wait for it."""
    if Path(LOCAL_GRES_CONF).exists():
        return text
    return re.sub(rf"(?m)^Include {re.escape(LOCAL_GRES_CONF)}$", "", text)


def _compare(shown: str, expected: Mapping[str, str]) -> None:
    found = dict(re.findall(r"(?m)^NodeName=(\S+) .*? Gres=(\S+)", shown))
    lacking = sorted(set(expected) - set(found))
    if lacking:
        raise TrialError(f"slurmctld starts with these files, but has no node {', '.join(lacking[:10])}")
    try:
        other = [name for name, gres in expected.items() if not same_gres(gres, found[name].replace("(null)", ""))]
    except GresSyntaxError as error:
        raise TrialError(f"slurmctld starts with these files, and has a Gres that can't be read: {error}") from error
    if other:
        name = other[0]
        raise TrialError(
            f"slurmctld starts with these files, but reads Gres={expected[name]} of node {name} as {found[name]}"
            + (f", and that of {len(other) - 1} other nodes as something else, too" if len(other) > 1 else "")
        )


def _last(work: Path) -> str:
    """What it said last: the first fatal error with what led to it, or the last errors."""
    lines: list[str] = []
    for name in ("stderr", "log"):
        with suppress(OSError):
            lines += _ERROR.findall((work / name).read_text(encoding="utf-8", errors="replace"))
    lines = list(dict.fromkeys(lines))
    fatal = next((place for place, line in enumerate(lines) if line.startswith("fatal")), len(lines) - 1)
    told = lines[max(fatal - 2, 0) : fatal + 1]
    return f": {'; '.join(told)}" if told else ""
