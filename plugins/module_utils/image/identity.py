# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What makes a machine this one and no other, or only one build's: it must not be in an image.

The rules are data. ``leftovers`` finds what is there, ``remove`` removes exactly that; so whoever checks an image and
whoever seals it can't disagree. What belongs to everybody (licences, time zones, locales) is touched by no rule.
"""

from __future__ import annotations

import shutil
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

#: What is done to a path: it is deleted, or a file keeps its place with this text.
DELETE = None


@dataclass(frozen=True)
class Rule:
    """Paths (globs below the root directory) of one subject. *text* is what is left in the file, if it stays."""

    subject: str
    globs: tuple[str, ...]
    text: str | None = DELETE
    #: Names that stay although a glob finds them.
    keep: tuple[str, ...] = ()
    #: Only files that begin with one of these.
    begins: tuple[str, ...] = ()


#: Homes are those of people; systemd's and Debian's own users have theirs elsewhere.
RULES = (
    Rule("munge key", ("etc/munge/munge.key",)),
    Rule("Slurm configuration", ("etc/slurm/slurm.conf", "etc/slurm/gres.conf", "etc/slurm/cgroup.conf")),
    Rule("what node-join was told", ("etc/hpc-compute/join.conf",)),
    # both write a node's name and its controllers there; what the image build itself writes begins otherwise
    Rule(
        "slurmd's options",
        ("etc/default/slurmd",),
        begins=("# Written by node-join ", "# Written by the role hpc.compute.slurm_compute;"),
    ),
    Rule("BeeGFS secret", ("etc/beegfs/*.auth",)),
    Rule(
        "monitoring secrets", tuple(f"etc/hpc-compute/monitoring/{name}" for name in ("tls.key", "tls.crt", "web.yml"))
    ),
    Rule("ssh host keys", ("etc/ssh/ssh_host_*_key", "etc/ssh/ssh_host_*_key.pub")),
    Rule("authorized keys", ("root/.ssh", "home/*/.ssh")),
    # "uninitialized" or no file would make the next boot a "first boot", in which systemd enables every unit anew
    Rule("machine id", ("etc/machine-id",), text=""),
    Rule("machine id of D-Bus", ("var/lib/dbus/machine-id",)),
    Rule(
        "random seed",
        ("var/lib/systemd/random-seed", "var/lib/systemd/credential.secret", "boot/efi/loader/random-seed"),
    ),
    Rule("storage identity", ("etc/nvme/hostid", "etc/nvme/hostnqn", "etc/iscsi/initiatorname.iscsi")),
    # whoever has it can sign modules for every machine that trusts its certificate
    Rule(
        "DKMS signing key",
        (
            "var/lib/dkms/mok.key",
            "var/lib/dkms/mok.pub",
            "var/lib/shim-signed/mok/*",
            "etc/dkms/hpc-compute/signing.key",
        ),
    ),
    Rule("cloud-init state", ("var/lib/cloud/*", "etc/netplan/50-cloud-init.yaml", "etc/sudoers.d/90-cloud-init-*")),
    Rule("network leases", ("var/lib/dhcp/*.leases", "var/lib/dhcpcd/*.lease", "var/lib/NetworkManager/*.lease")),
    Rule("network names", ("etc/udev/rules.d/70-persistent-net.rules",)),
    Rule("host name", ("etc/hostname",), text="localhost\n"),
    # named after the machine id
    Rule("journal", ("var/log/journal/*",)),
    Rule("logs", ("var/log/*", "var/log/**/*"), keep=("README", "journal/*", "journal/*/*")),
    Rule("history", ("root/.*_history", "home/*/.*_history", "root/.lesshst", "root/.wget-hsts", "home/*/.lesshst")),
    Rule("caches of people", ("root/.ansible", "root/.cache", "home/*/.ansible", "home/*/.cache")),
    Rule("apt lists", ("var/lib/apt/lists/*_*",)),
    Rule(
        "packages",
        (
            *("var/cache/apt/archives/*.deb", "var/cache/apt/archives/partial/*", "var/cache/apt/*.bin"),
            "var/cache/hpc-compute-*.deb",
        ),
    ),
    # what they were before a package changed them, where files lay on the disk of the build, how long a compiler took
    Rule(
        "traces of the build",
        (
            *("var/lib/dpkg/*-old", "var/cache/debconf/*-old", "var/lib/ucf/*.[0-9]"),
            *("var/cache/ldconfig/aux-cache", "var/lib/dkms/*/*/*/*/log/make.log"),
        ),
    ),
    # kept: those of services that run, gone with them, and of the module that runs this, which removes its own
    Rule("temporary files", ("tmp/*", "var/tmp/*"), keep=("systemd-private-*", "ansible_*")),
)


@dataclass(frozen=True)
class Leftover:
    """A path, with its leading slash as seen in the image, that *rule* forbids."""

    path: str
    rule: Rule

    def to_dict(self) -> dict[str, str]:
        return {"path": self.path, "subject": self.rule.subject}


def leftovers(root: Path, rules: Sequence[Rule] = RULES) -> list[Leftover]:
    """All that is in the system below *root* and should not be, by rule and path. Nothing is changed.

    A directory of logs stays, since services expect it: only its files are found.

    :raises OSError: a directory can't be read.
    """
    return [Leftover(f"/{path.relative_to(root)}", rule) for rule in rules for path in _found(root, rule)]


def remove(root: Path, found: Sequence[Leftover]) -> None:
    """Remove, or empty, what ``leftovers`` found. One that is gone meanwhile is no failure.

    :raises OSError: something can't be removed; what came before it is.
    """
    for one in found:
        path = root / one.path.lstrip("/")
        if one.rule.text is not DELETE:
            _rewrite(path, one.rule.text)
        elif path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=False)
        else:
            path.unlink(missing_ok=True)


def _found(root: Path, rule: Rule) -> Iterator[Path]:
    paths = {path for pattern in rule.globs for path in root.glob(pattern) if not _kept(path, rule)}
    for path in sorted(paths):
        if rule.text is not DELETE:
            if path.is_symlink() or path.read_text(encoding="utf-8", errors="replace") != rule.text:
                yield path
        elif rule.subject == "logs" and path.is_dir() and not path.is_symlink():
            continue
        elif stat.S_ISSOCK(path.lstat().st_mode):
            continue  # of a service that runs: gone with it
        else:
            yield path


def _kept(path: Path, rule: Rule) -> bool:
    if rule.begins and not path.read_text(encoding="utf-8", errors="replace").startswith(rule.begins):
        return True
    return any(path.match(name) for name in rule.keep)


def _rewrite(path: Path, text: str) -> None:
    """In place: the file keeps its owner and mode. A link is replaced, as what it points to may be outside."""
    if path.is_symlink():
        path.unlink()
    path.write_text(text, encoding="utf-8")
