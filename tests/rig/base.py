# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Root file systems for nodes: built once, kept in the cache, never changed afterwards.

A node is an overlay on one of these. Each has a name that contains a hash of its recipe, so that a changed recipe gives
a new one; it is built beside its place and renamed when complete, so that what has the name is whole.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from . import archive, debs, mounts
from .archive import Archive
from .nspawn import in_root
from .paths import CACHE, REPO, locked
from .process import RigError, log_for, run

#: A bare Debian plus what every cloud image has and Ansible needs. Leaner than a cloud image on purpose: what a role
#: needs it has to install itself. Nothing of Slurm, munge or a compiler.
PACKAGES = (
    "ca-certificates",
    "dbus",
    "iproute2",
    "kmod",
    "openssh-server",
    "python3",
    "python3-apt",
    "sudo",
    "systemd-sysv",
    "udev",
)
#: Two kernels that are installed and never booted, for what is built for each of them.
KERNEL_PACKAGES = ("linux-image-amd64", "linux-image-cloud-amd64")
CONTROLLER_PACKAGES = ("munge", "slurm-client", "slurmctld")
#: What keeps a controller's accounts.
ACCOUNTING_PACKAGES = ("--no-install-recommends", "mariadb-server", "slurmdbd")
#: Most of what the roles install on a compute node, with what tests run there. What is missing here they install.
COMPUTE_PACKAGES = (
    "--no-install-recommends",
    *("acl", "bc", "bind9-dnsutils", "bzip2", "curl", "ethtool", "file", "git", "htop", "hwloc-nox", "iputils-ping"),
    *("jq", "less", "logrotate", "lsof", "numactl", "pciutils", "procps", "psmisc", "rsync", "strace", "tmux"),
    *("unzip", "vim-tiny", "wget", "xz-utils", "zstd", "openmpi-bin"),
    *("munge", "slurm-client", "slurmd", "slurm-wlm-nvml-plugin", "python3-pynvml", "python3-mpi4py"),
)
USER = "debian"
#: The date in files that have one: of Debian 13's release, so that the same packages give the same files.
DATE = 1754697600
#: Masked where there is no text.
FILES: Mapping[str, str | None] = {
    # apt runs when a playbook says so, not when a timer fires in the middle of a test
    "etc/systemd/system/apt-daily.timer": None,
    "etc/systemd/system/apt-daily-upgrade.timer": None,
    "etc/systemd/system/dpkg-db-backup.timer": None,
    # every test logs in many times from one address, which sshd would otherwise take for an attack; and the rig's
    # network has no reverse name service to wait for
    "etc/ssh/sshd_config.d/rig.conf": "PerSourcePenalties no\nUseDNS no\n",
    f"etc/sudoers.d/{USER}": f"{USER} ALL=(ALL) NOPASSWD: ALL\n",
    "etc/fstab": "",
    # written for each node when it is made
    "etc/machine-id": "",
    "etc/hostname": "",
}


def ensure() -> Path:
    """The Debian 13 root file system; built when the cache has none of this recipe (about 20 s).

    :raises RigError: it cannot be built; the message carries the end of the log.
    """
    source = archive.of_this_machine()
    recipe = repr((PACKAGES, sorted(FILES.items(), key=str), source, "1"))
    return cached("debian", recipe, lambda root, log: _build(root, source, log))


def layers(image: str) -> tuple[Path, ...]:
    """Overlay layers, upper first, of a node of this *image*."""
    return (ensure(),) if image == "debian" else _LAYERS[image]()


def ensure_controller() -> tuple[Path, ...]:
    """Overlay layers, upper first, of a node with Slurm's controller installed but not configured.

    It is a fixture: nothing of the collection is shown by installing it anew each time.
    """
    below = ensure()
    recipe = repr((CONTROLLER_PACKAGES, below.name, "1"))
    return cached("controller", recipe, lambda root, log: build_layer(root, (below,), CONTROLLER_PACKAGES, log)), below


def ensure_kernels() -> tuple[Path, ...]:
    """Overlay layers, upper first, of a node on which two of Debian's kernels are installed, without headers.

    A fixture, too: a real machine has a kernel, and installing two of them takes longer than most tests.
    """
    below = ensure()
    recipe = repr((KERNEL_PACKAGES, below.name, "1"))
    return cached("kernels", recipe, lambda root, log: build_layer(root, (below,), KERNEL_PACKAGES, log)), below


def ensure_accounting() -> tuple[Path, ...]:
    """Overlay layers, upper first, of a controller with slurmdbd and its database installed, but not configured."""
    controller = ensure_controller()
    recipe = repr((ACCOUNTING_PACKAGES, controller[0].name, "1"))
    done = cached("accounting", recipe, lambda root, log: build_layer(root, controller, ACCOUNTING_PACKAGES, log))
    return done, *controller


def ensure_compute() -> tuple[Path, ...]:
    """Overlay layers, upper first, of a node that already has most of the packages that the roles install.

    For tests of what they do with several nodes. That they install is shown by those that start from a bare Debian.
    """
    below = ensure()
    control = nvml_provider()
    recipe = repr((COMPUTE_PACKAGES, control, below.name, "2"))
    return cached("compute", recipe, lambda root, log: _build_compute(root, below, control, log)), below


_LAYERS: Mapping[str, Callable[[], tuple[Path, ...]]] = {
    "controller": ensure_controller,
    "accounting": ensure_accounting,
    "compute": ensure_compute,
    "kernels": ensure_kernels,
}
IMAGES = ("debian", *_LAYERS)


def cached(name: str, recipe: str, build: Callable[[Path, Path], None]) -> Path:
    """The cached root file system *name* of this *recipe*, built by *build(root, log)* when there is none."""
    done = CACHE / "roots" / f"{name}-{hashlib.sha256(recipe.encode()).hexdigest()[:16]}"
    with locked(f"root-{name}"):
        if done.is_dir():
            return done
        done.parent.mkdir(parents=True, exist_ok=True)
        for leftover in done.parent.glob(f".{name}-*"):
            mounts.remove_tree(leftover)  # of a build that was killed
        log = log_for(f"root-{name}")
        work = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=done.parent))
        work.chmod(0o755)
        build(work / "root", log)
        (work / "root").rename(done)
        mounts.remove_tree(work)
        return done


def bootstrap(root: Path, packages: Sequence[str], source: Archive, log: Path) -> None:
    """A minimal Debian 13 with *packages* in the new folder *root*, with Debian's own settings of apt and dpkg."""
    # in a mount namespace of its own, so that a killed build leaves no mounts of mmdebstrap behind
    command = ["unshare", "--mount", "mmdebstrap", "--mode=root", "--variant=minbase", "--dpkgopt=force-unsafe-io"]
    command += [f"--aptopt={setting}" for setting in source.proxies]
    command += [f"--include={','.join(packages)}", archive.SUITE, str(root), *source.one_line_sources()]
    run(command, log=log, env={**os.environ, "SOURCE_DATE_EPOCH": str(DATE)})
    # the options above are for the build
    for path in ("etc/dpkg/dpkg.cfg.d/99mmdebstrap", "etc/apt/apt.conf.d/99mmdebstrap", "etc/apt/sources.list"):
        (root / path).unlink(missing_ok=True)
    if source.proxies:
        _write(root, "etc/apt/apt.conf.d/proxy", "".join(f"{line}\n" for line in source.proxies))
    _write(root, "etc/apt/sources.list.d/debian.sources", source.deb822())
    # empty lists that look new make Ansible's apt believe that they were just fetched (cache_valid_time)
    os.utime(root / "var/lib/apt/lists", (0, 0))


def write_files(root: Path, files: Mapping[str, str | None]) -> None:
    """Write *files*, texts by path; a unit without text is masked."""
    for path, text in files.items():
        if text is None:
            (root / path).symlink_to("/dev/null")
        else:
            _write(root, path, text)


def _build(root: Path, source: Archive, log: Path) -> None:
    bootstrap(root, PACKAGES, source, log)
    write_files(root, FILES)
    for key in (root / "etc/ssh").glob("ssh_host_*"):
        key.unlink()  # each node gets the one the rig knows
    run(["chroot", root, "useradd", "--create-home", "--shell", "/bin/bash", USER])
    run(["chroot", root, "systemctl", "--quiet", "enable", "systemd-networkd.service", "ssh.service"])
    # else each node would rebuild its caches at boot
    for stamp in ("etc/.updated", "var/.updated"):
        (root / stamp).touch()


def _build_compute(root: Path, below: Path, control: str, log: Path) -> None:
    build_layer(root, (below,), COMPUTE_PACKAGES, log, lambda merged: allow_compute_packages(merged, control, log))
    forget_cluster(root)


def nvml_provider() -> str:
    """What the role's package that stands for a driver's library says of itself."""
    return (REPO / "roles/apt_packages/files/nvml-library.control").read_text(encoding="utf-8")


def allow_compute_packages(merged: Path, control: str, log: Path) -> None:
    """Have apt know all of :data:`COMPUTE_PACKAGES`, and want no driver for pynvml's sake."""
    provider = "usr/local/share/hpc-compute/nvml-library"
    sources = merged / "etc/apt/sources.list.d/debian.sources"
    sources.write_text(sources.read_text().replace("Components: main\n", "Components: main contrib\n"))
    # the emulated driver's library comes without a package, and pynvml wants one
    _write(merged, f"{provider}/DEBIAN/control", control)
    in_root(merged, ["dpkg-deb", "--root-owner-group", "--build", f"/{provider}", f"/{provider}.deb"], log)
    in_root(merged, ["dpkg", "-i", f"/{provider}.deb"], log)


def forget_cluster(root: Path) -> None:
    """Remove the munge key that the package made, which is no cluster's, and let nothing of Slurm start without one."""
    (root / "etc/munge/munge.key").unlink()
    for unit in ("munge.service", "slurmd.service", "slurmctld.service"):
        (root / "etc/systemd/system/multi-user.target.wants" / unit).unlink(missing_ok=True)


def build_layer(
    root: Path,
    below: Sequence[Path],
    packages: Sequence[str],
    log: Path,
    prepare: Callable[[Path], None] = lambda _: None,
) -> None:
    """An overlay layer *root* over *below* with *packages* installed; *prepare* may change the merged folder before.

    :raises RigError: apt or dpkg failed.
    """
    work = root.parent / "overlay"
    with mounts.overlay(below, root, work) as merged:
        # started services would be those of this machine's kernel, in nobody's cgroup
        policy = merged / "usr/sbin/policy-rc.d"
        _write(merged, "usr/sbin/policy-rc.d", "#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
        debs.put_into(merged)
        prepare(merged)
        in_root(merged, ["apt-get", "-q", "update"], log)
        # no boot loader will look for an initial file system, whose making takes longest
        in_root(merged, ["env", "INITRD=No", "apt-get", "-q", "-y", "install", *packages], log)
        policy.unlink()
        debs.take_from(merged)
        in_root(merged, ["apt-get", "clean"], log)
        for path in (merged / "var/lib/apt/lists").glob("*_*"):
            path.unlink()


def _write(root: Path, path: str, text: str) -> None:
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")


def drop_all() -> None:
    """Forget every cached root file system and downloaded package, for a run as on a machine that never had one.

    :raises RigError: a node is up that stands on one of them.
    """
    if mounts.below(CACHE) or mounts.overlays_on(CACHE / "roots"):
        raise RigError("expected no node to be up when the cache is dropped; take them down first: ./run demo down")
    for name in ("roots", "debs"):
        if (CACHE / name).exists():
            shutil.rmtree(CACHE / name)
