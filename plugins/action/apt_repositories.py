# Copyright: The hpc.compute authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads the key files of ``apt_repositories`` on the control machine; the module of the same name does the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):  # type: ignore[misc]
    """Ansible's way of finding it."""

    _supports_async = False

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Replace each ``key_file`` by the text in it and run the module."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        del tmp
        given = self._task.args.get("repositories")
        if not isinstance(given, list) or not all(isinstance(one, dict) for one in given):
            raise AnsibleActionFail(f"apt_repositories: expected repositories to be a list of dicts, found {given!r}")
        args = {**self._task.args, "repositories": [self._with_key(one) for one in given]}
        result.update(self._execute_module("hpc.compute.apt_repositories", module_args=args, task_vars=task_vars))
        return result

    def _with_key(self, one: dict[str, Any]) -> dict[str, Any]:
        path = one.get("key_file")
        if not path:
            return {key: value for key, value in one.items() if key != "key_file"}
        where = f"repository {one.get('name')!r}"
        if one.get("key"):
            raise AnsibleActionFail(f"{where}: expected one of key and key_file, found both")
        try:
            text = Path(self._find_needle("files", str(path))).read_text(encoding="utf-8")
        except (AnsibleError, OSError, UnicodeDecodeError) as error:
            raise AnsibleActionFail(
                f"{where}: expected an ASCII-armoured key in key_file {path} on the control machine: {error}"
            ) from error
        return {**{key: value for key, value in one.items() if key != "key_file"}, "key": text}
