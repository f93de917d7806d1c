# Copyright: The hpc.compute authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter ``libvirt_domains``: virtual machines for compute nodes. The engine is in ``module_utils/image/domain.py``."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.hpc.compute.plugins.module_utils.image import domain

_KINDS = ("kvm", "qemu")


def libvirt_domains(
    clusters: Any, folder: str = "/var/lib/libvirt/images", kind: str = "kvm", images: str = ""
) -> list[dict[str, str]]:
    """See ``libvirt_domains.yml`` for what goes in and comes out."""
    if not isinstance(clusters, Mapping):
        raise AnsibleFilterError(f"libvirt_domains: expected the mapping 'clusters', found {type(clusters).__name__}")
    if kind not in _KINDS:
        raise AnsibleFilterError(f"libvirt_domains: expected a kind of {', '.join(_KINDS)}, found {kind!r}")
    try:
        machines = domain.read_machines(clusters)
    except ValueError as error:
        raise AnsibleFilterError(f"libvirt_domains: {error}") from error
    return [
        {
            "name": machine.name,
            "ip": machine.ip,
            "xml": domain.to_xml(machine, folder, kind),
            "disk": domain.disk_path(machine, folder),
            "disk_command": shlex.join(domain.disk_command(machine, folder, images or str(Path.cwd()))),
        }
        for machine in machines
    ]


class FilterModule:
    """Ansible's way of finding filters."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """The filters of this file by name."""
        return {"libvirt_domains": libvirt_domains}
