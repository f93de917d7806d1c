# Copyright: The hpc.compute authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filters of the role beegfs_client. The engine is in ``module_utils/beegfs``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.hpc.compute.plugins.module_utils.beegfs.check import problems
from ansible_collections.hpc.compute.plugins.module_utils.beegfs.files import build_options
from ansible_collections.hpc.compute.plugins.module_utils.beegfs.release import (
    SERVER_PACKAGES,
    Release,
    ReleaseError,
)


def beegfs_client_problems(given: Any, machine: Any) -> list[str]:
    """See ``beegfs_client_problems.yml`` for what goes in and comes out."""
    if not isinstance(given, Mapping) or not isinstance(machine, Mapping):
        raise AnsibleFilterError("beegfs_client_problems: expected two mappings, settings and a beegfs_client_info")
    return problems(given, machine)


def beegfs_client_release(
    version: Any, packages_extra: Any = (), installed: Any = None, interrupted: bool = False
) -> dict[str, Any]:
    """See ``beegfs_client_release.yml`` for what goes in and comes out."""
    try:
        release = Release.parse(str(version))
    except ReleaseError as error:
        raise AnsibleFilterError(f"beegfs_client_release: {error}") from error
    return {
        "series": release.series,
        "directory": release.directory,
        "packages": list(release.packages),
        "versioned_packages": list(release.versioned_packages),
        "version_glob": release.glob,
        "helperd": release.has_helperd,
        "foreign_packages": release.foreign_packages(list(packages_extra)),
        "server_packages": list(SERVER_PACKAGES),
        "satisfied": not interrupted and release.satisfied(installed or {}, list(packages_extra)),
    }


def beegfs_client_build_options(options: Any) -> str:
    """See ``beegfs_client_build_options.yml`` for what goes in and comes out."""
    if not isinstance(options, Mapping):
        raise AnsibleFilterError("beegfs_client_build_options: expected a mapping")
    return build_options({str(key): str(value) for key, value in options.items()}).content.decode()


class FilterModule:
    """Ansible's way of finding filters."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """The filters of this file by name."""
        return {
            "beegfs_client_problems": beegfs_client_problems,
            "beegfs_client_release": beegfs_client_release,
            "beegfs_client_build_options": beegfs_client_build_options,
        }
