# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""How nodes are reached: plain ssh, with keys that this machine made for itself once."""

from __future__ import annotations

import os
from pathlib import Path

from .paths import CACHE, locked
from .process import run

_FOLDER = CACHE / "ssh"
KEY = _FOLDER / "id_ed25519"
HOST_KEY = _FOLDER / "host_ed25519"
KNOWN_HOSTS = _FOLDER / "known_hosts"


def ensure_keys() -> None:
    """Make the login key, the host key that all nodes have, and the list that makes ssh trust only that."""
    with locked("ssh"):
        _FOLDER.mkdir(parents=True, exist_ok=True, mode=0o700)
        for key in (KEY, HOST_KEY):
            if not key.exists():
                run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "hpc-compute-rig", "-f", key])
        kind, key_text = HOST_KEY.with_suffix(".pub").read_text(encoding="ascii").split()[:2]
        KNOWN_HOSTS.write_text(f"10.213.97.* {kind} {key_text}\n", encoding="ascii")


def options(persist: Path | None = None) -> list[str]:
    """Options for ssh; with *persist*, a folder, one connection per node is kept and used again."""
    words = [
        *("-i", str(KEY), "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes", "-o", "LogLevel=ERROR"),
        *(
            "-o",
            f"UserKnownHostsFile={KNOWN_HOSTS}",
            "-o",
            "GlobalKnownHostsFile=none",
            "-o",
            "StrictHostKeyChecking=yes",
        ),
        *("-o", "ConnectTimeout=5"),
        # the user's own settings (a jump host, an agent) must not change how a node is reached
        *("-F", "none"),
    ]
    if persist:
        words += ["-o", "ControlMaster=auto", "-o", "ControlPersist=300", "-o", f"ControlPath={persist}/%r"]
    return words


def close(persist: Path) -> None:
    """End the connections kept in *persist*: one to a node that is gone would be used, in vain, for its successor."""
    for socket in persist.glob("*"):
        run(
            ["ssh", "-o", f"ControlPath={socket}", "-O", "exit", "node"], check=False
        )  # fails when it just ended by itself


def install_keys(root: Path, user: str) -> None:
    """Put the keys into the root file system of a node, for root and, where there is such a one, *user*."""
    ensure_keys()
    public = KEY.with_suffix(".pub").read_text(encoding="ascii")
    for home in filter(Path.is_dir, (root / "root", root / "home" / user)):
        owner = home.stat()
        folder = home / ".ssh"
        folder.mkdir(mode=0o700, exist_ok=True)
        keys = folder / "authorized_keys"
        keys.write_text(public, encoding="ascii")
        for path in (folder, keys):
            os.chown(path, owner.st_uid, owner.st_gid)
    host_key = root / "etc/ssh/ssh_host_ed25519_key"
    host_key.touch(mode=0o600)
    host_key.write_text(HOST_KEY.read_text(encoding="ascii"), encoding="ascii")
    host_key.with_suffix(".pub").write_text(HOST_KEY.with_suffix(".pub").read_text(encoding="ascii"), encoding="ascii")
