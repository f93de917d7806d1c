# Copyright: The hpc.compute authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filters ``apt_choice`` and ``apt_wrong_versions``: versions of packages. The engine is in ``module_utils/apt``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.hpc.compute.plugins.module_utils.apt.policy import choose, read_policy, wrong_versions


def apt_choice(policy: Any, names: Any, versions: Any) -> dict[str, Any]:
    """See ``apt_choice.yml`` for what goes in and comes out."""
    if not isinstance(policy, str):
        raise AnsibleFilterError(f"apt_choice: expected the output of apt-cache policy, found {type(policy).__name__}")
    return asdict(choose(read_policy(policy), [str(name) for name in names], _texts("apt_choice", versions)))


def apt_wrong_versions(installed: Any, versions: Any) -> list[str]:
    """See ``apt_wrong_versions.yml`` for what goes in and comes out."""
    return wrong_versions(_texts("apt_wrong_versions", installed), _texts("apt_wrong_versions", versions))


def _texts(what: str, given: Any) -> dict[str, str]:
    if not isinstance(given, Mapping):
        raise AnsibleFilterError(f"{what}: expected versions by package name, found {type(given).__name__}")
    return {str(name): str(version) for name, version in given.items()}


class FilterModule:
    """Ansible's way of finding filters."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """The filters of this file by name."""
        return {"apt_choice": apt_choice, "apt_wrong_versions": apt_wrong_versions}
