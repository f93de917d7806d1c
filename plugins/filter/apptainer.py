# Copyright: The hpc.compute authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filters for Apptainer's files. The engine is in ``module_utils/containers``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.hpc.compute.plugins.module_utils.containers import (
    apptainer_conf,
    execution_list,
    public_key,
)


def fingerprint(key: Any) -> str:
    """See ``apptainer_key_fingerprint.yml`` for what goes in and comes out."""
    if not isinstance(key, str):
        raise AnsibleFilterError(f"apptainer_key_fingerprint: expected a text, found {type(key).__name__}")
    try:
        return public_key.fingerprint(key)
    except ValueError as error:
        raise AnsibleFilterError(f"apptainer_key_fingerprint: {error}") from error


def conf(directives: Any, version: str = "") -> dict[str, Any]:
    """See ``apptainer_conf.yml`` for what goes in and comes out."""
    if not isinstance(directives, Mapping):
        raise AnsibleFilterError(f"apptainer_conf: expected a mapping of directives, found {directives!r}")
    try:
        which = apptainer_conf.parse_version(version) if version else None
    except ValueError as error:
        raise AnsibleFilterError(f"apptainer_conf: {error}") from error
    found = apptainer_conf.problems(directives, which)
    return {"problems": found, "text": "" if found else apptainer_conf.render(directives)}


def ecl(groups: Any, keys: Any = ()) -> dict[str, Any]:
    """See ``apptainer_ecl.yml`` for what goes in and comes out."""
    if isinstance(keys, str) or not isinstance(keys, Sequence) or not all(isinstance(key, str) for key in keys):
        raise AnsibleFilterError("apptainer_ecl: expected as keys a list of texts")
    found = execution_list.problems(groups) or execution_list.key_problems(groups, keys)
    return {"problems": found, "text": "" if found else execution_list.render(groups)}


class FilterModule:
    """Ansible's way of finding filters."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """The filters of this file by name."""
        return {"apptainer_conf": conf, "apptainer_ecl": ecl, "apptainer_key_fingerprint": fingerprint}
