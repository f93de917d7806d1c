# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Putting a bundled command on a node, for the modules that do so. The module is handed in: no Ansible is imported."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from .bundle import BundleError, bundle

_MODE = "0755"


def place(module: Any, path: Path, start: str) -> bool:
    """Write the command that begins with the engine's module *start* to *path*, if it differs; whether it did.

    Ansible sends to the node what a module imports: its caller must import *start*. Fails the module where the
    directory is missing or the file can't be read. In check mode nothing is written.
    """
    try:
        wanted = bundle(start)
        changed = not path.exists() or path.read_bytes() != wanted
    except BundleError as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=f"{path} was expected to be a readable file: {error.strerror or error}")
    if changed and not module.check_mode:
        if not path.parent.is_dir():
            module.fail_json(msg=f"the directory {path.parent} of {path} does not exist: make it, or choose another")
        with tempfile.NamedTemporaryFile(dir=module.tmpdir, delete=False) as draft:
            draft.write(wanted)
        module.atomic_move(draft.name, str(path))
    if path.exists():
        changed = module.set_mode_if_different(str(path), _MODE, changed)
    return bool(changed)
