# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A DKMS package is built for all kernels before it is installed, so that one that does not build changes nothing.

Debian's packages build while dpkg configures them: a failure leaves them half-configured, and an upgrade has removed
the old module by then. Here the package is downloaded and its source built in a tree of its own first. Once the package
is installed (with :data:`NO_AUTOINSTALL` there, so that it builds nothing itself) dkms is given what was built.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from .ensure import EXCLUDED, Completed, DkmsError
from .kernels import installed_kernels
from .status import first_error, signing_error
from .tree import ARCHITECTURES

#: With this file DKMS packages are installed without being built. Ours carries the mark, and only for a moment.
NO_AUTOINSTALL = Path("etc/dkms/no-autoinstall")
INTERRUPTED_MARK = "hpc.compute"

WORK = Path("/var/cache/hpc-compute/dkms-proof")
_LOGS = Path("/var/log/hpc-compute")
_STATE = Path("/var/lib/dkms")
_RECORD = "proof.json"
#: Seconds; a driver builds in minutes.
_PATIENCE = 3600
#: Kernels to build for at a time. A build uses every processor, but not all the time: its modules are linked, signed
#: and compressed one by one.
_AT_ONCE = 2

#: Runs a command in a directory (``None``: any).
Runner = Callable[[Sequence[str], Path | None], Completed]


@dataclass(frozen=True)
class Proof:
    """A package whose module was built. *version* is the package's, *module* and *module_version* are DKMS's."""

    package: str
    version: str
    module: str
    module_version: str
    kernels: tuple[str, ...]


class Prover:
    """Builds in *work*, which survives a killed run: what was built there for the same package counts."""

    def __init__(
        self, run: Runner, work: Path = WORK, logs: Path = _LOGS, state: Path = _STATE, root: Path = Path("/")
    ):
        self._run = run
        self._work = work
        self._logs = logs
        self._state = state
        self._root = root

    def candidate(self, package: str, glob: str) -> str | None:
        """The version that would be installed: apt's choice, or the newest that matches *glob* where there is one.

        ``None``: apt does not know the package.

        :raises DkmsError: no version matches.
        """
        done = self._run(["apt-cache", "policy", package], None)
        chosen = re.search(r"^  Candidate: (\S+)$", done.stdout, re.MULTILINE)
        offered = re.findall(r"^ (?:   |\*\*\*) (\S+) -?\d+$", done.stdout, re.MULTILINE)
        if chosen is None or not offered:
            return None
        pattern = re.compile(re.escape(glob).replace(r"\*", ".*"))
        if not glob or pattern.fullmatch(chosen[1]):
            if chosen[1] == "(none)":
                raise DkmsError(
                    f"expected apt to be allowed to install {package}, found every version ({', '.join(offered)}) "
                    f"forbidden by a pin: see 'apt-cache policy {package}' and /etc/apt/preferences.d"
                )
            return str(chosen[1])
        for version in map(str, offered):
            if pattern.fullmatch(version):
                return version
        raise DkmsError(
            f"expected a version {glob} of {package}, found {', '.join(offered)}: ask for one of these, or for a "
            "source that has it"
        )

    def prove(self, package: str, version: str, kernels: Sequence[str]) -> Proof:
        """Build *package* for *kernels* (none: all that are installed), in our own tree.

        :raises DkmsError: it can't be had or does not build. Nothing was installed or changed then.
        """
        chosen = self._kernels(kernels)
        self._wait()
        source = self._unpacked(package, version)
        module, module_version = _names(source)
        missing = [kernel for kernel in chosen if not self._built(module, module_version, kernel)]
        if len(missing) > 1:
            # Each build would make itself a key where there is none. Without openssl there will be none, of which
            # builds only warn as well.
            self._run(["dkms", "generate_mok"], None)
        with ThreadPoolExecutor(max_workers=_AT_ONCE) as pool:
            problems = list(pool.map(lambda kernel: self._build(module, module_version, kernel), missing))
        failures = [f"kernel {kernel}: {problem}" for kernel, problem in zip(missing, problems, strict=True) if problem]
        if failures:
            raise DkmsError(
                f"expected {package} {version} (module {module}/{module_version}) to build for every installed kernel, "
                "found " + "; ".join(failures)
            )
        proof = Proof(package, version, module, module_version, tuple(chosen))
        (self._work / _RECORD).write_text(json.dumps(proof.__dict__), encoding="utf-8")
        return proof

    def adopt(self, installed: str) -> Proof | None:
        """Give dkms what was proven, if version *installed* of the package is that; our tree is removed either way.

        ``None``: there was nothing to give. :raises DkmsError: dkms refuses the source.
        """
        proof = self.proof()
        if proof is not None and proof.version == installed:
            place = self._state / proof.module / proof.module_version
            if not (place / "source").exists():
                done = self._run(["dkms", "add", f"{proof.module}/{proof.module_version}"], None)
                if done.rc != 0:
                    raise DkmsError(
                        f"expected dkms to accept the source of {proof.module}/{proof.module_version}, found exit code "
                        f"{done.rc}: {_last(done)}"
                    )
            for kernel in proof.kernels:
                built = self._tree(kernel) / proof.module / proof.module_version / kernel
                for ours in sorted(built.glob(ARCHITECTURES)):
                    if not (place / kernel / ours.name).exists():
                        _copy(ours, place / kernel / ours.name)
        else:
            proof = None
        shutil.rmtree(self._work, ignore_errors=True)  # a cache
        self._lock.unlink(missing_ok=True)
        return proof

    def proof(self) -> Proof | None:
        """What an earlier call proved and nobody adopted."""
        try:
            found = json.loads((self._work / _RECORD).read_text(encoding="utf-8"))
            return Proof(**{**found, "kernels": tuple(found["kernels"])})
        except (OSError, ValueError, TypeError, KeyError):  # none, or one of a run that was killed while it wrote
            return None

    def _tree(self, kernel: str) -> Path:
        """dkms's state for one kernel: builds of a module share a folder of it."""
        return self._work / "dkms" / kernel

    def _kernels(self, kernels: Sequence[str]) -> list[str]:
        here = {kernel.release: kernel for kernel in installed_kernels(self._root)}
        chosen = [kernel for kernel in here if not kernels or kernel in kernels]
        if not chosen:
            raise DkmsError("expected an installed kernel to build for, found none: install one (linux-image-amd64)")
        if without := [here[release] for release in chosen if not here[release].headers]:
            raise DkmsError(
                f"expected headers for every installed kernel, found none for "
                f"{', '.join(kernel.release for kernel in without)}: install "
                f"{' '.join(kernel.headers_package for kernel in without)}; where the archive no longer has them, "
                f"upgrade the kernel, reboot, and remove the old one (apt-get purge linux-image-{without[0].release})"
            )
        return chosen

    @property
    def _lock(self) -> Path:
        return self._work.with_name(f"{self._work.name}.lock")

    def _wait(self) -> None:
        """For a build that goes on although who started it was killed: it holds the lock to its end."""
        self._lock.parent.mkdir(parents=True, exist_ok=True)
        done = self._run(["flock", "--timeout", str(_PATIENCE), str(self._lock), "true"], None)
        if done.rc != 0:
            raise DkmsError(
                f"expected an earlier build to end within {_PATIENCE} s, found that something still holds "
                f"{self._lock}: see 'lslocks', end it, and try again"
            )

    def _unpacked(self, package: str, version: str) -> Path:
        """The folder with the package's dkms.conf, in our tree."""
        stamp = self._work / "package"
        wanted = f"{package} {version}\n"
        if not stamp.exists() or stamp.read_text(encoding="utf-8") != wanted:
            shutil.rmtree(self._work, ignore_errors=True)
            for folder in ("dkms", "tmp", "tree"):
                (self._work / folder).mkdir(parents=True)
            self._command(
                ["apt-get", "--quiet", "download", f"{package}={version}"], f"{package} {version} to be downloaded"
            )
            files = sorted(self._work.glob("*.deb"))
            if len(files) != 1:
                raise DkmsError(
                    f"expected one package in {self._work}, found {', '.join(f.name for f in files) or 'none'}"
                )
            self._command(["dpkg-deb", "--extract", str(files[0]), "tree"], f"{files[0].name} to unpack")
            files[0].unlink()
            stamp.write_text(wanted, encoding="utf-8")
        found = sorted((self._work / "tree/usr/src").glob("*/dkms.conf"))
        if len(found) != 1:
            raise DkmsError(
                f"expected one usr/src/NAME-VERSION/dkms.conf in the package {package} {version}, found {len(found)}: "
                "it is no DKMS package"
            )
        return found[0].parent

    def _command(self, command: Sequence[str], what: str) -> None:
        done = self._run(command, self._work)
        if done.rc != 0:
            raise DkmsError(f"expected {what}, found exit code {done.rc}: {_last(done)}")

    def _built(self, module: str, version: str, kernel: str) -> bool:
        return any((self._tree(kernel) / module / version / kernel).glob(f"{ARCHITECTURES}/module/*.ko*"))

    def _build(self, module: str, version: str, kernel: str) -> str | None:
        """Build; what went wrong, or ``None``."""
        tree = self._tree(kernel)
        tree.mkdir(exist_ok=True)
        # /tmp may be small: it is half of the memory where it is a tmpfs.
        words = [
            "env",
            f"TMPDIR={self._work / 'tmp'}",
            "LC_ALL=C",
            "flock",
            "--shared",
            str(self._lock),
            "dkms",
            "build",
        ]
        words += ["--dkmstree", str(tree), "--sourcetree", str(self._work / "tree/usr/src")]
        done = self._run([*words, "-m", module, "-v", version, "-k", kernel], None)
        if done.rc == 0:
            if unsigned := signing_error(done.stderr):
                shutil.rmtree(tree / module / version / kernel)  # or it would count next time
            return unsigned
        if self._built(module, version, kernel):  # by an earlier run that was still at it
            return None
        if done.rc == EXCLUDED:
            return "the package's own dkms.conf rules this kernel out (BUILD_EXCLUSIVE)"
        log = tree / module / version / "build/make.log"
        if not log.exists():
            return f"{_last(done)} (exit code {done.rc})"
        self._logs.mkdir(parents=True, exist_ok=True)
        kept = self._logs / f"dkms-{module}-{version}-{kernel}.log"
        shutil.copyfile(log, kept)
        text = log.read_text(encoding="utf-8", errors="replace")
        error = first_error(text).replace(f"{tree / module / version / 'build'}/", "")
        return f"{error} (exit code {done.rc}, all of it in {kept})"


def _copy(ours: Path, target: Path) -> None:
    """All of it or nothing: dkms would install what a killed run had copied by then."""
    part = target.with_name(f".tmp_{target.name}_hpc-compute")  # so named, dkms removes it with the module
    shutil.rmtree(part, ignore_errors=True)  # of a killed run; usually there is none
    shutil.copytree(ours, part, symlinks=True)
    part.rename(target)


def _names(source: Path) -> tuple[str, str]:
    """Name and version by which dkms knows the source in this folder."""
    text = (source / "dkms.conf").read_text(encoding="utf-8", errors="replace")
    found = [
        re.search(rf'^\s*PACKAGE_{key}\s*=\s*["\']?([^"\'\s$]+)["\']?\s*(?:#.*)?$', text, re.MULTILINE)
        for key in ("NAME", "VERSION")
    ]
    name, version = (match[1] if match else "" for match in found)
    if f"{name}-{version}" != source.name:
        raise DkmsError(
            f"expected PACKAGE_NAME and PACKAGE_VERSION in {source / 'dkms.conf'} to be those of the folder "
            f"{source.name}, found {name or 'none'} and {version or 'none'}"
        )
    return name, version


def _last(done: Completed) -> str:
    said = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    return said[-1] if said else "it said nothing"
