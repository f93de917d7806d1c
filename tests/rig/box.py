# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The Vagrant box of the virtual machine tests: a Debian 13 made from Debian's packages, in place of a download.

Most packages that the roles install are in it: without hardware virtualisation apt takes ten times as long in a
machine, and that the roles install them is shown by the nodes that are no virtual machines. Its kernel is not the
newest, so that there is one to upgrade to. It is built once and kept in the cache with its checksum. A box of one's own
is used when ``HPC_COMPUTE_BOX`` names it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tarfile
import tempfile
from pathlib import Path

from image import disk

from . import archive, base, mounts
from .nspawn import in_root
from .paths import CACHE, locked
from .process import RigError, log_for, run

#: Vagrant's own folder for boxes and machines, apart from the user's.
HOME = CACHE / "vagrant"
_DISK_GB = 12
_USER = "vagrant"
_KEYS = "usr/share/rubygems-integration/all/gems/vagrant-*/keys/vagrant.pub"
_PACKAGES = (*base.PACKAGES, "initramfs-tools", "systemd-resolved", "zstd", *disk.PACKAGES)
#: What the roles install, Slurm's controller, what Debian unstable's Apptainer needs, and what builds kernel modules.
_MORE = (
    *base.COMPUTE_PACKAGES,
    *base.CONTROLLER_PACKAGES,
    *("containernetworking-plugins", "squashfs-tools", "uidmap", "busybox-static"),
    *("dkms", "gcc"),
)
#: The cloud kernel (small, and all that a virtual machine without real devices needs) before the newest; its headers.
#: Of the newest only the many small files that all flavours share, which are no kernel and take minutes to unpack.
_KERNEL = """
apt-get -q update
kernels=$(apt-cache search --names-only '^linux-image-[0-9.]+[+]deb[0-9.]+-cloud-amd64$' |
    cut -d ' ' -f 1 | sort -V | tail -n 2)
kernel=$(echo "$kernels" | head -n 1)
apt-get -q -y --no-install-recommends install "$kernel" "$(echo "$kernel" | sed s/image/headers/)" \
    "$(echo "$kernels" | tail -n 1 | sed 's/image/headers/; s/-cloud-amd64$/-common/')"
"""
_FILES = {
    **{path: text for path, text in base.FILES.items() if not path.startswith("etc/sudoers.d")},
    f"etc/sudoers.d/{_USER}": f"{_USER} ALL=(ALL) NOPASSWD: ALL\n",
    # by address of the interface: machines made from one box are told apart before they have an identity
    "etc/systemd/network/80-dhcp.network": (
        "[Match]\nType=ether\n\n[Network]\nDHCP=ipv4\nIPv6AcceptRA=no\nLinkLocalAddressing=no\n\n"
        "[DHCPv4]\nClientIdentifier=mac\n"
    ),
    # a small initial file system, which is made and unpacked faster
    "etc/initramfs-tools/conf.d/box": "MODULES=list\n",
    "etc/initramfs-tools/modules": "virtio_pci\nvirtio_blk\nvirtio_scsi\nsd_mod\nahci\nata_piix\next4\n",
    "etc/hostname": "debian13\n",
    "etc/hosts": "127.0.0.1 localhost\n127.0.1.1 debian13\n",
}
#: No protection is needed from what runs in a test, and an emulated processor pays much for it.
_OPTIONS = "mitigations=off net.ifnames=0 quiet"


def ensure() -> str:
    """The name under which Vagrant knows the box; built (about a minute) and added when it doesn't yet.

    :raises RigError: it can't be built, or the file in the cache isn't the one that was built.
    """
    if own := os.environ.get("HPC_COMPUTE_BOX"):
        return own
    source = archive.of_this_machine()
    things = (_PACKAGES, _MORE, _KERNEL, base.nvml_provider(), sorted(_FILES.items(), key=str))
    recipe = repr((things, _OPTIONS, _DISK_GB, source, "2"))
    identity = hashlib.sha256(recipe.encode()).hexdigest()[:16]
    name = f"hpc-compute/trixie-{identity}"
    file = CACHE / "boxes" / f"trixie-{identity}.box"
    with locked("box"):
        if not file.exists():
            _build(file, recipe)
        _check(file)
        if not (HOME / "boxes" / name.replace("/", "-VAGRANTSLASH-")).exists():
            env = {**os.environ, **variables()}
            run(["vagrant", "box", "add", "--name", name, "--provider", "libvirt", file], env=env)
    return name


def variables() -> dict[str, str]:
    """What Vagrant needs in its environment beside what is there."""
    return {"VAGRANT_HOME": str(HOME), "LIBVIRT_DEFAULT_URI": "qemu:///system"}


def _build(file: Path, recipe: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    source = archive.of_this_machine()
    bare = repr((_PACKAGES, sorted(_FILES.items(), key=str), source, "2"))
    below = base.cached("vm", bare, lambda root, log: _build_root(root, source, log))
    root = base.cached("vm-slurm", recipe, lambda root, log: _build_more(root, below, log))
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        work = Path(folder)
        with mounts.overlay((root, below), work / "upper", work / "overlay") as merged:
            disk.prepare_root(merged, _OPTIONS)
            wanted = disk.Disk(_DISK_GB * 1024, compressed=False)
            disk.write(merged, work / "box.img", wanted, log_for("box"))
        (work / "metadata.json").write_text(
            json.dumps({"provider": "libvirt", "format": "qcow2", "virtual_size": _DISK_GB}), encoding="ascii"
        )
        (work / "Vagrantfile").write_text('Vagrant.configure("2") { |config| }\n', encoding="ascii")
        made = work / file.name
        with tarfile.open(made, "w:gz", compresslevel=1) as box:
            for name in ("metadata.json", "Vagrantfile", "box.img"):
                box.add(work / name, name)
        with made.open("rb") as handle:
            digest = hashlib.file_digest(handle, "sha256").hexdigest()
        _sum(file).write_text(f"{digest}  {file.name}\n", encoding="ascii")
        made.rename(file)


def _build_root(root: Path, source: archive.Archive, log: Path) -> None:
    base.bootstrap(root, _PACKAGES, source, log)
    base.write_files(root, _FILES)
    run(["chroot", root, "useradd", "--create-home", "--shell", "/bin/bash", _USER])
    public = sorted(Path("/").glob(_KEYS))
    if not public:
        raise RigError(f"expected the public key that Vagrant logs in with at /{_KEYS}, found none: install vagrant")
    folder = root / "home" / _USER / ".ssh"
    folder.mkdir(mode=0o700)
    shutil.copyfile(public[-1], folder / "authorized_keys")
    run(["chroot", root, "chown", "-R", f"{_USER}:{_USER}", f"/home/{_USER}"])
    # the host keys are nobody's: the box is for tests on this machine
    units = ("systemd-networkd.service", "systemd-resolved.service", "ssh.service")
    run(["chroot", root, "systemctl", "--quiet", "enable", *units])
    run(["chroot", root, "systemctl", "--quiet", "mask", "systemd-networkd-wait-online.service", "man-db.timer"])
    resolv = root / "etc/resolv.conf"
    resolv.unlink(missing_ok=True)
    resolv.symlink_to("../run/systemd/resolve/stub-resolv.conf")


def _build_more(root: Path, below: Path, log: Path) -> None:
    def prepare(merged: Path) -> None:
        base.allow_compute_packages(merged, base.nvml_provider(), log)
        in_root(merged, ["sh", "-ec", _KERNEL], log)

    base.build_layer(root, (below,), _MORE, log, prepare)
    base.forget_cluster(root)


def _check(file: Path) -> None:
    wanted = _sum(file).read_text(encoding="ascii").split()[0]
    with file.open("rb") as handle:
        found = hashlib.file_digest(handle, "sha256").hexdigest()
    if found != wanted:
        raise RigError(f"expected sha256 {wanted} for {file}, found {found}: delete it, a new one is built then")


def _sum(file: Path) -> Path:
    return file.with_name(f"{file.name}.sha256")
