# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The project's virtual environment: Ansible, Molecule and the checks, each at the version the project names."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

from . import progress
from .paths import CACHE, REPO, VENV, locked
from .process import log_for, run

_REQUIREMENTS = REPO / "tests/requirements.txt"
_STAMP = VENV / "installed"
COLLECTIONS = VENV / "collections"


def ensure() -> None:
    """Make it, or bring it to what ``tests/requirements.txt`` says; returns at once when it is that already.

    :raises RigError: packages could not be installed; the message carries the end of pip's log.
    """
    wanted = f"{sys.version} {hashlib.sha256(_REQUIREMENTS.read_bytes()).hexdigest()}\n"
    with locked("environment"):
        _link_collection()
        if _STAMP.exists() and _STAMP.read_text(encoding="utf-8") == wanted:
            return
        log = log_for("pip")
        with progress.step("Install Ansible and the test tools into .venv"):
            clear = ["--clear"] if not _usable() else []
            run([sys.executable, "-m", "venv", *clear, VENV], log=log)
            run([VENV / "bin/python", "-m", "pip", "install", "--quiet", "--requirement", _REQUIREMENTS], log=log)
        _link_collection()
        _STAMP.write_text(wanted, encoding="utf-8")


def variables(collections: Path = COLLECTIONS) -> dict[str, str]:
    """Environment variables for a tool of the virtual environment: nothing of the user's Ansible settings applies.

    :param collections: where Ansible looks for the collection; the work tree unless told otherwise.
    """
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")},
        "PATH": f"{VENV / 'bin'}:{os.environ.get('PATH', '/usr/sbin:/usr/bin:/sbin:/bin')}",
        "ANSIBLE_CONFIG": str(REPO / "tests/rig/ansible.cfg"),
        "ANSIBLE_HOME": str(CACHE / "ansible"),
        "ANSIBLE_COLLECTIONS_PATH": str(collections),
    }


def _usable() -> bool:
    """Whether .venv's Python is the one it would get now (a release upgrade leaves it with one that is gone)."""
    python = VENV / "bin/python"
    if not python.exists():
        return False
    return run([python, "-c", "import sys; print(sys.version)"], check=False).stdout.strip() == sys.version


def _link_collection() -> None:
    """Let Ansible and Python find the work tree as the installed collection ``hpc.compute``."""
    link = COLLECTIONS / "ansible_collections/hpc/compute"
    target = Path(os.path.relpath(REPO, link.parent))
    if link.is_symlink() and link.readlink() == target:
        return
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(target)
