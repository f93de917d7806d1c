# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Installing package files in one transaction of apt, tried before anything is changed.

Each file is fetched and its checksum compared (both by apt, so that the machine's proxies count), asked what it is, and
given to apt for a trial; only then does dpkg unpack something. What fails before that leaves the machine as it was.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .machine import Run

_HELPER = "/usr/lib/apt/apt-helper"
_APT = (
    *("apt-get", "--yes", "--no-install-recommends", "--allow-downgrades", "--allow-change-held-packages"),
    *("--option=DPkg::Lock::Timeout=300", "--option=Dpkg::Options::=--force-confdef"),
    *("--option=Dpkg::Options::=--force-confold", "install"),
)
_UPDATE = ("apt-get", "--quiet", "--option=DPkg::Lock::Timeout=300", "update")
#: What apt says where it got as far as unpacking.
_DPKG_FAILED = "Sub-process /usr/bin/dpkg"
#: At once where there is nothing to do.
_FINISH = ("dpkg", "--configure", "--pending")
#: Where Debian comes from, for packages of its archive; its security archive has another label.
_ARCHIVE = (
    *("apt-get", "indextargets", "--format", "$(REPO_URI)"),
    *("Created-By: Packages", "Component: main", "Origin: Debian", "Label: Debian"),
)
_LISTS_AGE = 3600
#: Another apt or dpkg is at work, as after each boot. Neither ``dpkg --configure`` nor ``apt-get update`` waits for it.
_LOCKED = re.compile(r"(?m)^.*(?:locked by another process|Could not get lock).*$")
_PATIENCE = 300
_PAUSE = 2
_NOTHING = "Nothing was changed."


class InstallError(Exception):
    """What was expected, what was found, what to do."""


@dataclass(frozen=True)
class Source:
    """A package by *name*: from *url*, from Debian's archive at *pool*, or a file that is here at *path*."""

    name: str
    url: str = ""
    pool: str = ""
    path: str = ""
    sha256: str = ""


@dataclass(frozen=True)
class Identity:
    """What a package file says of itself."""

    name: str
    version: str
    architecture: str


def identify(path: str, run: Run) -> Identity:
    """Ask dpkg-deb.

    :raises InstallError: it is no package.
    """
    code, stdout, stderr = run(("dpkg-deb", "--show", "--showformat", "${Package} ${Version} ${Architecture}", path))
    words = stdout.split()
    if code != 0 or len(words) != 3:
        raise InstallError(
            f"Expected a Debian package in {path}; dpkg-deb: exit code {code}, {_last(stderr)}. {_NOTHING}"
        )
    return Identity(*words)


def check_identity(found: Identity, name: str, version: str, architecture: str, where: str) -> None:
    """A *version* without a Debian revision stands for all revisions; an empty one for every version.

    :raises InstallError: it is another package than the one expected.
    """
    same = not version or found.version == version or found.version.startswith(f"{version}-")
    if found.name == name and same and found.architecture in (architecture, "all"):
        return
    raise InstallError(
        f"Expected {name} {version or 'of any version'} for {architecture} in {where}, found {found.name} "
        f"{found.version} for {found.architecture}. {_NOTHING} Give the right file, or the version that it has."
    )


def fetch(source: Source, target: Path, run: Run, root: Path = Path("/")) -> None:
    """Download it to *target* by apt's own helper.

    :raises InstallError: there is nothing, or something with another checksum; then there is no file at *target*.
    """
    url = source.url or f"{archive(run, root)}/{source.pool}"
    code, stdout, stderr = run((_HELPER, "download-file", url, str(target), f"SHA256:{source.sha256.lower()}"))
    if code == 0:
        return
    target.unlink(missing_ok=True)
    target.with_name(f"{target.name}.FAILED").unlink(missing_ok=True)
    said = stderr + stdout
    reason = re.search(r"(?m)^E: Failed to fetch \S+\s+(.*)$", said)
    received = re.search(r"(?s)Hashes of received file:.*?SHA256:([0-9a-f]{64})", said)
    told = (reason[1] if reason else _last(said)) + (f", received {received[1]}" if received else "")
    raise InstallError(
        f"Expected {url} with the SHA-256 {source.sha256}, and apt could not have it (exit code {code}): {told}. "
        f"{_NOTHING} Check the URL from this machine, and the checksum on the page that it comes from."
    )


def archive(run: Run, root: Path = Path("/")) -> str:
    """Where this machine gets Debian from, by apt's own account; of a list of mirrors the first.

    :raises InstallError: nowhere, as far as apt knows.
    """
    _, stdout, _ = run(_ARCHIVE)
    found = stdout.split()
    if found and found[0].startswith("mirror+file:"):
        text = (root / found[0].removeprefix("mirror+file:").strip("/")).read_text(encoding="utf-8")
        found = [line.split()[0] for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if not found:
        raise InstallError(
            f"Expected a Debian archive among this machine's apt sources, found none. {_NOTHING} Use another source."
        )
    return found[0].rstrip("/")


def lists_are_fresh(now: float, root: Path = Path("/")) -> bool:
    """Whether apt has lists of packages, fetched within the last hour."""
    lists = root / "var/lib/apt/lists"
    if not any(lists.glob("*_Packages*")):
        return False
    # the lists themselves keep the server's time; the folders have that of the last visit
    places = (lists, lists / "partial", root / "var/lib/apt/periodic/update-success-stamp")
    return now - max(path.stat().st_mtime for path in places if path.exists()) < _LISTS_AGE


def install(words: Sequence[str], absent: Sequence[str], run: Run, update: Callable[[], None]) -> None:
    """Have apt install *words*, names and files, and remove the packages *absent*: a trial first, then in earnest.

    Where nothing is to be removed apt is not tried but forbidden to remove anything, which is one look at all packages
    instead of two; the trial comes only where apt refuses.
    What an earlier run left unfinished, killed, is finished first: apt refuses to work until then. A trial that
    fails is repeated after *update*.

    :raises InstallError: apt can't, or would remove another package. Then the machine is as it was, unless it was in
        earnest that apt failed.
    """
    command = (*words, *(f"{name}-" for name in absent))
    trial = (*_APT, "--simulate", *command)
    code, _, stderr = _patient(_FINISH, run)
    if code != 0:
        locked = _LOCKED.search(stderr)
        raise InstallError(
            f"Expected dpkg to finish what was left half-installed; '{' '.join(_FINISH)}' failed with exit code "
            f"{code}: {locked[0] if locked else _last(stderr)}. See 'dpkg --audit'."
        )
    if not absent:
        code, _, stderr = run((*_APT, "--no-remove", *command))
        if code == 0:
            return
        if _DPKG_FAILED in stderr:
            raise _failed(" ".join(words), code, stderr)
    code, stdout, stderr = run(trial)
    if code != 0:
        update()
        code, stdout, stderr = run(trial)
    called = " ".join(words)
    if code != 0:
        lines = [line.strip() for line in stdout.splitlines() if re.search(r"Depends|Conflicts|Breaks", line)]
        told = "; ".join([*lines, *(line for line in stderr.splitlines() if line.startswith("E: "))])
        raise InstallError(
            f"Expected apt to be able to install {called}; it answers with exit code {code}: {told or _last(stderr)}. "
            f"{_NOTHING} Use a package that was made for Debian 13 (those of Apptainer's releases have 'trixie' in "
            "their names)."
        )
    removed = sorted(set(re.findall(r"(?m)^Remv (\S+)", stdout)) - set(absent))
    if removed:
        raise InstallError(
            f"Expected apt to install {called} without removing a package; it would remove {', '.join(removed)}. "
            f"{_NOTHING} Remove them yourself if they are not needed."
        )
    code, stdout, stderr = run((*_APT, *command))
    if code != 0:
        raise _failed(called, code, stderr)


def _failed(called: str, code: int, stderr: str) -> InstallError:
    errors = [line for line in stderr.splitlines() if line.startswith(("E: ", "dpkg: error"))]
    return InstallError(
        f"apt tried to install {called} and failed with exit code {code}: {'; '.join(errors) or _last(stderr)}. "
        "See /var/log/apt/term.log; 'apt-get --fix-broken install' finishes or undoes it."
    )


def refresh(run: Run) -> None:
    """Fetch the lists of packages.

    :raises InstallError: apt can't.
    """
    code, stdout, stderr = _patient(_UPDATE, run)
    if code != 0:
        errors = [line for line in (stdout + stderr).splitlines() if line.startswith(("E: ", "Err:"))]
        raise InstallError(
            f"apt-get update failed with exit code {code}: {'; '.join(errors) or _last(stderr)}. {_NOTHING}"
        )


def _patient(command: Sequence[str], run: Run) -> tuple[int, str, str]:
    """Run *command*, again while another process has the lock."""
    for _ in range(_PATIENCE // _PAUSE):
        code, stdout, stderr = run(command)
        if code == 0 or not _LOCKED.search(stderr):
            return code, stdout, stderr
        time.sleep(_PAUSE)
    return run(command)


def _last(text: str) -> str:
    return (text.strip().splitlines() or ["no message"])[-1]
