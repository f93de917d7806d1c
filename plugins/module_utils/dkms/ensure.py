# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A DKMS module is built and installed for every kernel that is installed, not only for the one that runs.

Commands enter as a callable, so that a recorded output is as good as a running one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .kernels import Kernel, installed_kernels, sort_key
from .status import Entry, first_error, parse_status, signing_error
from .tree import ARCHITECTURES, STATE, installed_version, was_installed

#: dkms says with this exit code that the module's own dkms.conf (BUILD_EXCLUSIVE_...) rules the kernel out.
EXCLUDED = 77
#: The key pair that dkms makes for itself with the first build.
_SIGNING_KEY = ("mok.key", "mok.pub")


class DkmsError(Exception):
    """A module can't be had for a kernel, or can't even be looked for; the message says what to do."""


class DkmsMissingError(DkmsError):
    """dkms, or the source of a module, is not installed."""


@dataclass(frozen=True)
class Completed:
    """How a command ended."""

    rc: int
    stdout: str
    stderr: str


Runner = Callable[[Sequence[str]], Completed]


@dataclass(frozen=True)
class Wanted:
    """A module by its DKMS name; without *version* the one whose source is installed."""

    name: str
    version: str | None = None


@dataclass(frozen=True)
class Step:
    """What has to be done for a module and a kernel; *reason* says why, in words."""

    name: str
    version: str
    kernel: str
    reason: str
    force: bool = False

    def __str__(self) -> str:
        return f"{self.name}/{self.version} for {self.kernel}: {self.reason}"


@dataclass(frozen=True)
class Plan:
    """All modules, kernels and what is to be done; empty *steps*: every module is there for every kernel."""

    modules: tuple[Wanted, ...]
    kernels: tuple[Kernel, ...]
    steps: tuple[Step, ...]
    entries: tuple[Entry, ...] = field(default=(), repr=False)

    @property
    def state(self) -> dict[str, dict[str, str]]:
        """``{"beegfs/8.3.1": {"6.12.1-amd64": "installed"}}`` as it is before the steps."""
        states = {(entry.name, entry.version, entry.kernel): entry.state for entry in self.entries}
        return {
            f"{module.name}/{module.version}": {
                kernel.release: states.get((module.name, str(module.version), kernel.release), "missing")
                for kernel in self.kernels
            }
            for module in self.modules
        }


class Dkms:
    """dkms on the machine below *root*."""

    def __init__(self, run: Runner, root: Path = Path("/")) -> None:
        self._run = run
        self._root = root

    def plan(self, modules: Sequence[Wanted], kernels: Sequence[str] = (), newer_than: Sequence[Path] = ()) -> Plan:
        """Look at what is there and at what is missing; changes nothing.

        :param kernels: releases; none means every kernel that is installed.
        :param newer_than: files that a build reads: what was built before one of them was changed is built again.
        :raises DkmsMissingError: dkms or a module's source is not installed.
        :raises DkmsError: no kernel, an unknown one, or one without headers.
        """
        chosen = self._kernels(kernels)
        entries = tuple(self._entries(modules, chosen))
        exact = tuple(self._exact(module, entries) for module in modules)
        steps = [
            step for module in exact for kernel in chosen if (step := self._step(module, kernel, entries, newer_than))
        ]
        self._check_headers(chosen, steps)
        return Plan(exact, tuple(chosen), tuple(steps), entries)

    def carry_out(self, plan: Plan) -> None:
        """Build and install what *plan* says. Every kernel is tried, also after a failure.

        :raises DkmsError: at least one build failed; the message has each with its first error.
        """
        failures = []
        added = {(entry.name, entry.version) for entry in plan.entries}
        for step in plan.steps:
            if (step.name, step.version) not in added:
                self._add(step)
                added.add((step.name, step.version))
            if problem := self._build(step):
                failures.append((step, problem))
        if failures:
            raise DkmsError(_explained(plan, failures))

    def signing_key(self) -> list[Path]:
        """The files of the key pair that dkms made for itself on this machine."""
        return [path for name in _SIGNING_KEY if (path := self._root / STATE / name).exists()]

    def _kernels(self, releases: Sequence[str]) -> list[Kernel]:
        installed = installed_kernels(self._root)
        if not installed:
            raise DkmsError(
                f"expected an installed kernel, found none in {self._root / 'lib/modules'}: install one first "
                "(linux-image-amd64), as a module is built for a kernel"
            )
        if unknown := [release for release in releases if release not in {kernel.release for kernel in installed}]:
            raise DkmsError(
                f"expected kernels that are installed ({', '.join(kernel.release for kernel in installed)}), found "
                f"{', '.join(unknown)}: take them out, or install linux-image-{unknown[0]}"
            )
        return [kernel for kernel in installed if not releases or kernel.release in releases]

    def _entries(self, modules: Sequence[Wanted], kernels: Sequence[Kernel]) -> list[Entry]:
        """What dkms says; where its files tell that everything is installed, it is not asked, as it takes seconds."""
        try:
            exact = [self._exact(module, ()) for module in modules]
        except DkmsError:  # dkms may know more than /usr/src; if it does not, this is raised again
            return self._status()
        entries = [
            Entry(module.name, str(module.version), kernel.release, "installed", "")
            for module in exact
            for kernel in kernels
            if installed_version(self._root, module.name, kernel.release) == module.version
        ]
        return entries if len(entries) == len(exact) * len(kernels) else self._status()

    def _status(self) -> list[Entry]:
        done = self._run(["dkms", "status"])
        if done.rc == 127:
            raise DkmsMissingError("dkms is not installed: install the package dkms")
        if done.rc != 0:
            raise DkmsError(f"expected 'dkms status' to succeed, found exit code {done.rc}: {_last(done)}")
        return parse_status(done.stdout)

    def _exact(self, module: Wanted, entries: Sequence[Entry]) -> Wanted:
        """*module* with a version of which the source is here."""
        here = [
            path.parent.name.removeprefix(f"{module.name}-")
            for path in (self._root / "usr/src").glob(f"{module.name}-*/dkms.conf")
            # nvidia-current-550 is no version of the module nvidia
            if path.parent.name[len(module.name) + 1 : len(module.name) + 2].isdigit()
        ]
        known = sorted({*here, *(entry.version for entry in entries if entry.name == module.name)}, key=sort_key)
        if module.version:
            if module.version not in known:
                raise DkmsMissingError(
                    f"expected the source of the module {module.name}/{module.version} in /usr/src/"
                    f"{module.name}-{module.version}, found {', '.join(known) or 'no version of it'}: "
                    "install its package"
                )
            return module
        if not known:
            raise DkmsMissingError(
                f"expected the source of the module {module.name} in /usr/src/{module.name}-VERSION, found none: "
                "install its package"
            )
        sources = here or known
        if len(sources) > 1:
            raise DkmsError(
                f"expected one version of the module {module.name}, found {', '.join(sorted(sources, key=sort_key))}: "
                f"name the one that is meant, or remove the others (dkms remove {module.name}/VERSION --all)"
            )
        return Wanted(module.name, sources[0])

    def _step(
        self, module: Wanted, kernel: Kernel, entries: Sequence[Entry], newer_than: Sequence[Path]
    ) -> Step | None:
        version = str(module.version)
        left = was_installed(self._root, module.name, version, kernel.release)
        for entry in entries:
            if (entry.name, entry.version, entry.kernel) != (module.name, version, kernel.release):
                continue
            if entry.warning:
                return Step(module.name, version, kernel.release, f"dkms says {entry.warning}", force=True)
            if entry.state != "installed":
                return Step(module.name, version, kernel.release, f"is {entry.state}, not installed", force=left)
            if changed := self._changed_since(module, kernel, newer_than):
                return Step(module.name, version, kernel.release, f"built before {changed} was changed", force=True)
            return None
        return Step(module.name, version, kernel.release, "is not built", force=left)

    def _changed_since(self, module: Wanted, kernel: Kernel, paths: Sequence[Path]) -> Path | None:
        folder = self._root / STATE / module.name / str(module.version) / kernel.release
        built = [path.stat().st_mtime for path in folder.glob(f"{ARCHITECTURES}/module/*")]
        for path in paths:
            if path.exists() and built and path.stat().st_mtime > min(built):
                return path
        return None

    def _check_headers(self, kernels: Sequence[Kernel], steps: Sequence[Step]) -> None:
        needed = {step.kernel for step in steps}
        if without := [kernel for kernel in kernels if kernel.release in needed and not kernel.headers]:
            raise DkmsError(
                f"expected headers for every installed kernel, found none for {', '.join(k.release for k in without)}: "
                f"install {' '.join(k.headers_package for k in without)}. If the archive no longer has them, upgrade "
                f"the kernel, reboot, and remove the old one (apt-get purge linux-image-{without[0].release})"
            )

    def _add(self, step: Step) -> None:
        done = self._run(["dkms", "add", f"{step.name}/{step.version}"])
        if done.rc != 0:
            raise DkmsError(
                f"expected dkms to accept the source of {step.name}/{step.version}, found exit code {done.rc}: "
                f"{_last(done)}"
            )

    def _build(self, step: Step) -> str | None:
        """Build and install; what went wrong, or ``None``."""
        words = [f"{step.name}/{step.version}", "-k", step.kernel]
        if step.force:
            built = self._run(["dkms", "build", "--force", *words])
            if built.rc != 0:
                return self._problem(step, built)
            if unsigned := signing_error(built.stderr):
                # What is installed stays; what was built is dated so that it counts for nothing the next time.
                folder = self._root / STATE / step.name / step.version / step.kernel
                for path in folder.glob(f"{ARCHITECTURES}/module/*"):
                    os.utime(path, (0, 0))
                return unsigned
            words.append("--force")
        done = self._run(["dkms", "install", *words])
        if done.rc != 0:
            return self._problem(step, done)
        if unsigned := signing_error(done.stderr):
            self._run(["dkms", "unbuild", *words])
        return unsigned

    def _problem(self, step: Step, done: Completed) -> str:
        if done.rc == EXCLUDED:
            return "its own dkms.conf rules this kernel out (BUILD_EXCLUSIVE)"
        log = Path("/", STATE, step.name, step.version, "build/make.log")
        here = self._root / log.relative_to("/")
        if not here.exists():
            return f"{_last(done)} (exit code {done.rc})"
        text = here.read_text(encoding="utf-8", errors="replace")
        return f"{first_error(text)} (exit code {done.rc}, all of it in {log})"


def _explained(plan: Plan, failures: Sequence[tuple[Step, str]]) -> str:
    lines = [
        f"expected the module {step.name}/{step.version} to build for kernel {step.kernel}, found: {problem}."
        for step, problem in failures
    ]
    failed = {step.kernel for step, _ in failures}
    good = [kernel.release for kernel in plan.kernels if kernel.release not in failed]
    first = failures[0][0]
    lines.append(
        f"Ways out: install a version of {first.name} that supports the kernel; or remove a kernel that nothing needs "
        f"(apt-get purge linux-image-{first.kernel})"
        + (f", as {', '.join(good)} would remain, for which it is there; " if good else "; ")
        + f"or look into the build yourself: dkms build {first.name}/{first.version} -k {first.kernel}"
    )
    return "\n".join(lines)


def _last(done: Completed) -> str:
    said = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    return said[-1] if said else "it said nothing"
