# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bring a machine's BeeGFS mounts to what is wanted, and prove that they work.

All is looked at before anything is touched. A file system is mounted anew only when nobody uses it; where it can't be
mounted with the new settings, the old ones are put back and it is mounted as before.
"""

from __future__ import annotations

import re
import stat
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from .files import HELPERD, HELPERD_CONF, MARK, UNITS, File
from .machine import TIMED_OUT, Completed, Machine
from .mounts import AUTH, FOLDER, Mount

_WANTS = UNITS / "remote-fs.target.wants"
_MODULE = "beegfs"
#: root
_OWNER = (0, 0)
#: systemd itself gives up on a mount after 90 s.
_SYSTEMCTL = 120
_HINTS = (
    (
        r"(?i)auth",
        "the secret of the connection authentication is missing or another than the servers'",
    ),
    (
        r"unknown filesystem type|No such device|Module beegfs not found|module.*not found",
        "the running kernel has no module beegfs: if it is not one of the installed kernels, reboot",
    ),
    (
        r"[Cc]an ?not resolve|[Rr]esolv",
        "the name of the management host can't be resolved: check mgmtd_host and the name service",
    ),
    (
        r"[Mm]anagement|mgmtd|[Tt]imed? ?out|refused|unreachable",
        "the management daemon does not answer: check mgmtd_host, mgmtd_port and the network between",
    ),
)
_SYSTEMD = re.compile(r"(Mount(ing|ed)|Unmount|Failed to mount|\S+\.mount: )")


class ClientError(Exception):
    """The mounts can't be had as wanted; the message says what is wrong, what was done about it, and what to do."""


@dataclass(frozen=True)
class Change:
    """A file that is to be written, or removed (*after* is ``None``)."""

    path: PurePosixPath
    before: bytes | None
    after: File | None
    mode_before: int | None = None

    @property
    def secret(self) -> bool:
        return self.after.secret if self.after else self.path.suffix == ".auth"


@dataclass(frozen=True)
class Plan:
    """What differs from what is wanted. *pending*: mounted with older settings, and left so."""

    mounts: tuple[Mount, ...]
    changes: tuple[Change, ...] = ()
    gone: tuple[str, ...] = ()
    enable: tuple[str, ...] = ()
    start: tuple[Mount, ...] = ()
    remount: tuple[Mount, ...] = ()
    pending: tuple[str, ...] = ()
    helperd: str = ""
    reload_module: bool = False
    reload_units: bool = False

    @property
    def changed(self) -> bool:
        return bool(self.actions)

    @property
    def actions(self) -> list[str]:
        """In words."""
        told = [f"{'remove' if change.after is None else 'write'} {change.path}" for change in self.changes]
        told += [f"unmount {unit}, which is not wanted any more" for unit in self.gone]
        told += ["have systemd read its units"] if self.reload_units else []
        told += [f"{self.helperd} {HELPERD}"] if self.helperd else []
        told += [f"enable {unit}" for unit in self.enable]
        told += [f"mount {mount.path}" for mount in self.start]
        told += [f"mount {mount.path} again, with other settings" for mount in self.remount]
        return told


class Client:
    """The BeeGFS client on *machine*.

    :param fstypes: what a mount of BeeGFS may call itself.
    :param remount_later: leave what is mounted with older settings as it is, until somebody mounts it again.
    """

    def __init__(self, machine: Machine, fstypes: Sequence[str] = (_MODULE,), *, remount_later: bool = False) -> None:
        self._machine = machine
        self._fstypes = tuple(fstypes)
        self._later = remount_later

    def plan(self, mounts: Sequence[Mount], wanted: Sequence[File]) -> Plan:
        """Look at everything; changes nothing.

        :raises ClientError: something else is at a mount's place, or a mount that has to be renewed is in use.
        """
        seen = {mount.path: self._there(mount) for mount in mounts}
        changes = [change for file in wanted if (change := self._change(file))]
        keep = {file.path for file in wanted}
        stale = [path for path in self._own_files() if path not in keep]
        # secrets first: the configuration that tells whose they are goes, or changes, after them
        removals = [
            Change(path, self._machine.read(path), None, stat.S_IMODE(self._machine.at(path).stat().st_mode))
            for path in sorted(stale, key=lambda path: path.suffix != ".auth")
        ]
        gone = tuple(path.name for path in stale if path.suffix == ".mount")
        written = [change.after for change in changes if change.after]
        replaced = self._module_replaced() and any(seen.values())
        since, unread = self._units(mounts)
        old = [
            mount
            for mount in mounts
            if seen[mount.path] and (replaced or _of(mount, written) or self._newer(mount, wanted, since))
        ]
        if not self._later:
            self._refuse_in_use([*(mount.path for mount in old), *(self._where(unit) for unit in gone)])
        return Plan(
            mounts=tuple(mounts),
            changes=(*removals, *changes),
            gone=gone,
            enable=tuple(mount.unit for mount in mounts if not self._machine.at(_WANTS / mount.unit).is_symlink()),
            start=tuple(mount for mount in mounts if not seen[mount.path]),
            remount=() if self._later else tuple(old),
            pending=tuple(mount.path for mount in old) if self._later else (),
            helperd=self._helperd(mounts, wanted, [*removals, *changes]),
            reload_module=replaced and not self._later,
            reload_units=unread or any(change.path.is_relative_to(UNITS) for change in (*removals, *changes)),
        )

    def carry_out(self, plan: Plan) -> None:
        """Do what *plan* says.

        :raises ClientError: a mount could not be had. What worked before works again then.
        """
        slurmd = self._is_active("slurmd.service") if plan.remount or plan.gone else False
        for unit in plan.gone:
            self._must(["systemctl", "disable", "--now", unit], f"unmount {self._where(unit)}")
        stopped: list[Mount] = []
        try:
            for mount in plan.remount:
                self._stop(mount)
                stopped.append(mount)
            if plan.reload_module:
                self._must(["modprobe", "--remove", _MODULE], "unload the module of the release before")
        except ClientError:
            self._start_again(stopped, slurmd)
            raise
        for change in plan.changes:
            self._put(change)
        if plan.reload_units:
            self._read_units()
        if plan.helperd == "stop":
            self._must(["systemctl", "disable", "--now", HELPERD], f"stop {HELPERD}")
        elif plan.helperd:
            self._must(["systemctl", "enable", HELPERD], f"enable {HELPERD}")
            self._must(["systemctl", plan.helperd, HELPERD], f"{plan.helperd} {HELPERD}")
        if plan.enable:
            self._must(["systemctl", "enable", *plan.enable], "have BeeGFS mounted at boot")
        for mount in (*plan.remount, *plan.start):
            self._start(mount, plan, slurmd)
        self._start_slurmd(slurmd)

    def verify(
        self, mounts: Sequence[Mount], timeout: float, *, write: bool, name: str = "hpc-compute"
    ) -> list[dict[str, object]]:
        """Prove that each mount is BeeGFS, answers, and takes a file; what was found.

        :param write: whether to write a file, read it and remove it; never done on a mount that is read-only.
        :param name: of the machine, in the name of that file.
        :raises ClientError: one of them does not.
        """
        told: list[dict[str, object]] = []
        for mount in mounts:
            seen = self._there(mount)
            if seen is None:
                raise ClientError(
                    f"expected BeeGFS to be mounted at {mount.path}, found nothing: {self._why(mount.unit)}"
                )
            space = self._machine.space(mount.path, timeout)
            self._expect(space, mount, "to tell its size", timeout)
            total, free = (int(number) for number in space.stdout.split())
            if write and not mount.read_only:
                done = self._machine.write_test(f"{mount.path}/.hpc-compute-write-test-{name}", timeout)
                self._expect(done, mount, "to take and return a file", timeout)
            told.append(
                {
                    "path": mount.path,
                    "fstype": seen,
                    "total_bytes": total,
                    "free_bytes": free,
                    "written": write and not mount.read_only,
                }
            )
        return told

    def _expect(self, done: Completed, mount: Mount, what: str, timeout: float) -> None:
        if done.rc == TIMED_OUT:
            raise ClientError(
                f"expected the BeeGFS at {mount.path} {what} within {timeout:g} s, found no answer: its servers do "
                "not respond. See 'beegfs health check' (8) or beegfs-check-servers (7.4), and the kernel's log "
                "(journalctl --dmesg --grep=beegfs)"
            )
        if done.rc != 0:
            raise ClientError(f"expected the BeeGFS at {mount.path} {what}, found: {done.last_line}")

    def _there(self, mount: Mount) -> str | None:
        """The type of the file system at a mount's place.

        :raises ClientError: it is none of BeeGFS's, or /etc/fstab claims the place.
        """
        if line := self._machine.fstab_line(mount.path):
            raise ClientError(
                f"expected no line for {mount.path} in /etc/fstab, as the unit {mount.unit} mounts it, found: {line}. "
                "Take it out"
            )
        seen = self._machine.mounted(mount.path)
        if seen and seen.fstype not in self._fstypes:
            raise ClientError(
                f"expected nothing or {' or '.join(self._fstypes)} at {mount.path}, found {seen.fstype} "
                f"({seen.source}): unmount it, or mount BeeGFS elsewhere"
            )
        return seen.fstype if seen else None

    def _change(self, file: File) -> Change | None:
        before = self._machine.read(file.path)
        if before is None:
            return Change(file.path, None, file)
        entry = self._machine.at(file.path).stat()
        mode = stat.S_IMODE(entry.st_mode)
        if before == file.content and mode == file.mode and (entry.st_uid, entry.st_gid) == _OWNER:
            return None
        return Change(file.path, before, file, mode)

    def _own_files(self) -> list[PurePosixPath]:
        """Files that an earlier run made: by their first line, secrets of single mounts by their name, and the common
        secret by our configuration that names it."""
        found = []
        names_secret = False
        for folder in (FOLDER, UNITS, UNITS / "slurmd.service.d"):
            place = self._machine.at(folder)
            for path in sorted(place.iterdir()) if place.is_dir() else ():
                if path.is_symlink() or not path.is_file():
                    continue
                lines = path.read_bytes().split(b"\n")
                marked = lines[0] == MARK.encode()
                names_secret |= marked and f"connAuthFile = {AUTH}".encode() in lines
                own_secret = path.suffix == ".auth" and path.name.startswith("beegfs-client")
                if (marked or own_secret) and path.name != "beegfs-client-build.mk":
                    found.append(folder / path.name)
        return [*found, AUTH] if names_secret and self._machine.at(AUTH).is_file() else found

    def _module_replaced(self) -> bool:
        """Whether the loaded module is another than the one installed now for this kernel."""
        loaded = self._machine.read(PurePosixPath("/sys/module", _MODULE, "srcversion"))
        if not loaded:
            return False
        installed = self._machine.run(["modinfo", "--field", "srcversion", _MODULE])
        return bool(installed.stdout.strip()) and installed.stdout.strip() != loaded.decode().strip()

    def _units(self, mounts: Sequence[Mount]) -> tuple[Mapping[str, float], bool]:
        """When each was mounted, in seconds of the wall clock, and whether a run that was cut off wrote a unit that
        systemd has not read."""
        units = [*(mount.unit for mount in mounts), "slurmd.service"]
        properties = "--property=Id,ActiveEnterTimestampMonotonic,NeedDaemonReload"
        shown = self._machine.run(["systemctl", "show", properties, *units])
        booted = time.time() - self._machine.seconds_since_boot()
        found = {}
        for block in shown.stdout.split("\n\n"):
            values = dict(line.partition("=")[::2] for line in block.splitlines())
            if (stamp := values.get("ActiveEnterTimestampMonotonic", "")).isdigit():
                found[values.get("Id", "")] = booted + int(stamp) / 1e6
        return found, "NeedDaemonReload=yes" in shown.stdout.splitlines()

    def _newer(self, mount: Mount, wanted: Sequence[File], since: Mapping[str, float]) -> bool:
        """Whether an earlier run, cut off or told to remount later, wrote settings that the mount has not seen."""
        mounted = since.get(mount.unit)
        paths = [self._machine.at(file.path) for file in _of(mount, wanted)]
        return mounted is not None and any(path.exists() and path.stat().st_mtime > mounted for path in paths)

    def in_use(self) -> dict[str, list[str]]:
        """Who uses the file systems that an earlier run mounted, by path; those that nobody uses are left out."""
        units = [path.name for path in self._own_files() if path.suffix == ".mount"]
        return self._users([path for path in map(self._where, units) if self._machine.mounted(path)])

    def _users(self, paths: Sequence[str]) -> dict[str, list[str]]:
        return {path: users for path in paths if (users := self._machine.users(path))}

    def _refuse_in_use(self, paths: Sequence[str]) -> None:
        if users := self._users(paths):
            raise ClientError(in_use_sentence(users))

    def _helperd(self, mounts: Sequence[Mount], wanted: Sequence[File], changes: Sequence[Change]) -> str:
        """What to do with beegfs-helperd: nothing where it is not wanted (8), or runs with what it should."""
        if not any(file.path == HELPERD_CONF for file in wanted):
            # with another release its package goes; with no mount it stays, without a configuration
            return "stop" if not mounts and any(change.path == HELPERD_CONF for change in changes) else ""
        if any(change.path in (HELPERD_CONF, AUTH) for change in changes):
            return "restart"
        return "" if self._is_active(HELPERD) else "start"

    def _is_active(self, unit: str) -> bool:
        return self._machine.run(["systemctl", "is-active", "--quiet", unit]).rc == 0

    def _put(self, change: Change) -> None:
        if change.after is None:
            self._machine.at(change.path).unlink(missing_ok=True)
        else:
            self._machine.write(change.path, change.after.content, change.after.mode)

    def _read_units(self) -> None:
        self._must(["systemctl", "daemon-reload"], "have systemd read its units")

    def _must(self, command: Sequence[str], what: str) -> None:
        done = self._machine.run(command, _SYSTEMCTL)
        if done.rc != 0:
            raise ClientError(
                f"expected to {what}, found exit code {done.rc} of '{' '.join(command)}': {done.last_line}"
            )

    def _stop(self, mount: Mount) -> None:
        done = self._machine.run(["systemctl", "stop", mount.unit], _SYSTEMCTL)
        if done.rc != 0 or self._machine.mounted(mount.path):
            users = ", ".join(self._machine.users(mount.path)) or "nobody that /proc knows of"
            raise ClientError(
                f"expected to unmount {mount.path}, whose settings change, found exit code {done.rc} of systemctl stop "
                f"{mount.unit}: {self._why(mount.unit)} (in use by {users}). Nothing was changed"
            )

    def _start(self, mount: Mount, plan: Plan, slurmd: bool) -> None:
        done = self._machine.run(["systemctl", "start", mount.unit], _SYSTEMCTL)
        if done.rc == 0 and self._machine.mounted(mount.path):
            return
        why = self._why(mount.unit)
        kept = "Its files are written and it is tried again at the next boot and in the next run"
        if plan.remount:
            kept = self._put_back(plan, slurmd)
        raise ClientError(
            f"expected BeeGFS of {mount.mgmtd_host} to be mounted at {mount.path}, found exit code {done.rc} of "
            f"systemctl start {mount.unit}: {why}. {kept}"
        )

    def _put_back(self, plan: Plan, slurmd: bool) -> str:
        """After a mount that worked failed with its new settings: as it was."""
        for change in plan.changes:
            if change.before is None:
                self._machine.at(change.path).unlink(missing_ok=True)
            else:
                self._machine.write(change.path, change.before, change.mode_before or 0o644)
        if plan.reload_units:
            self._read_units()
        if plan.helperd == "restart":
            self._machine.run(["systemctl", "restart", HELPERD], _SYSTEMCTL)
        for mount in plan.remount:
            self._machine.run(["systemctl", "stop", mount.unit], _SYSTEMCTL)
        left = self._start_again(plan.remount, slurmd)
        return (
            f"The settings before are back, but {left} could not be mounted with them either"
            if left
            else ("The settings before are back, and what was mounted is mounted again with them")
        )

    def _start_again(self, mounts: Sequence[Mount], slurmd: bool) -> str:
        """Mount what was mounted; the paths of those that could not be."""
        failed = [
            mount.path for mount in mounts if self._machine.run(["systemctl", "start", mount.unit], _SYSTEMCTL).rc != 0
        ]
        if not failed:
            self._start_slurmd(slurmd)
        return ", ".join(failed)

    def _start_slurmd(self, was_active: bool) -> None:
        """A slurmd that requires the mounts was stopped together with them."""
        if was_active and not self._is_active("slurmd.service"):
            self._must(["systemctl", "start", "slurmd.service"], "start slurmd again, which requires the mounts")

    def _where(self, unit: str) -> str:
        """The path of a unit of ours that is on the machine."""
        text = (self._machine.read(UNITS / unit) or b"").decode()
        match = re.search(r"(?m)^Where=(.+)$", text)
        return match[1] if match else unit

    def _why(self, unit: str) -> str:
        """What the journal says about a mount that failed, and what that usually means."""
        common = ["journalctl", "--no-pager", "--quiet", "--boot", "--output=cat"]
        unit_log = self._machine.run([*common, "--lines=6", f"--unit={unit}"], 20).stdout
        kernel_log = self._machine.run([*common, "--dmesg", "--grep=beegfs", "--lines=4"], 20).stdout
        said = [line.strip() for line in (*kernel_log.splitlines(), *unit_log.splitlines())]
        # systemd's own lines tell that it failed, not why
        said = [
            line
            for line in said
            if line and not re.match(r"(Mount(ing|ed)|Unmount|Failed to mount|\S+\.mount: )", line)
        ]
        told = " | ".join(dict.fromkeys(said[-4:])) or "the journal has no reason"
        hint = next((text for pattern, text in _HINTS if re.search(pattern, told)), "")
        return f"{told} ({hint})" if hint else told


def in_use_sentence(users: Mapping[str, Sequence[str]]) -> str:
    """That file systems can't be mounted anew, as they have *users*."""
    told = [
        f"{path} by {', '.join(names[:5])}" + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        for path, names in users.items()
    ]
    return (
        f"expected file systems that change to be unused, found {'; '.join(told)}. Nothing was changed. Drain "
        "the node and wait for its jobs, or set beegfs_client_remount: later, which leaves what is mounted as "
        "it is until the next boot"
    )


def _of(mount: Mount, files: Sequence[File]) -> list[File]:
    """Those of *files* that *mount* is mounted with; one secret may serve several mounts."""
    return [file for file in files if file.mount == mount.path or file.path == mount.auth]
