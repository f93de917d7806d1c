# Copyright: The hpc.compute authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads the package files of ``apt_debs`` on the control machine and copies those that the machine does not have."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):  # type: ignore[misc]
    """Ansible's way of finding it."""

    TRANSFERS_FILES = True
    _supports_async = False

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Ask the module what is missing, copy it, and have it offered. One call where nothing is missing."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        del tmp
        try:
            files = self._files()
            args: dict[str, Any] = {"name": self._task.args.get("name"), "checksums": _checksums(files)}
            asked = self._module({**args, "ask": True}, task_vars)
            if not (asked.get("failed") or asked.get("in_place") or self._task.check_mode):
                arrived = self._connection._shell.tmpdir
                for name in asked["missing"]:
                    self._transfer_file(str(files[name]), self._connection._shell.join_path(arrived, name))
                done = self._module({**args, "arrived": arrived}, task_vars)
                asked = {**done, "missing": asked["missing"]} if not done.get("failed") else done
        finally:
            self._remove_tmp_path(self._connection._shell.tmpdir)
        result.update(asked)
        return result

    def _module(self, args: dict[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        done: dict[str, Any] = self._execute_module("hpc.compute.apt_debs", module_args=args, task_vars=task_vars)
        return done

    def _files(self) -> dict[str, Path]:
        """Paths on the control machine by file name."""
        name, listed, folder = (self._task.args.get(key) for key in ("name", "files", "directory"))
        where = f"packages {name!r}"
        if bool(listed) == bool(folder):
            raise AnsibleActionFail(
                f"{where}: expected one of files and directory, found {'both' if listed else 'neither'}"
            )
        try:
            if folder:
                place = Path(self._find_needle("files", str(folder)))
                paths = sorted(place.glob("*.deb"))
            else:
                paths = [Path(self._find_needle("files", str(path))) for path in listed]
        except AnsibleError as error:
            raise AnsibleActionFail(f"{where}: expected {folder or listed} on the control machine: {error}") from error
        if not paths:
            raise AnsibleActionFail(f"{where}: expected files that end in .deb in {folder}, found none")
        found = {path.name: path for path in paths}
        if len(found) < len(paths):
            raise AnsibleActionFail(f"{where}: expected files with different names, found {' '.join(map(str, paths))}")
        return found


def _checksums(files: dict[str, Path]) -> dict[str, str]:
    sums = {}
    for name, path in files.items():
        with path.open("rb") as opened:
            sums[name] = hashlib.file_digest(opened, "sha256").hexdigest()
    return sums
