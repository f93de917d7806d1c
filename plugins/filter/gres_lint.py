# Copyright: The hpc.compute authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter ``gres_lint``: what is wrong with slurm.conf and gres.conf. The engine is in ``module_utils/slurm``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.hpc.compute.plugins.module_utils.gpu.model import Inventory
from ansible_collections.hpc.compute.plugins.module_utils.slurm.lint import lint


def gres_lint(
    slurm_conf: Any,
    gres_conf: Any = "",
    inventories: Any = None,
    *,
    image: bool = False,
    nvml_plugin: bool | None = None,
) -> list[dict[str, str]]:
    """See ``gres_lint.yml`` for what goes in and comes out."""
    if not isinstance(slurm_conf, str) or not isinstance(gres_conf, str):
        raise AnsibleFilterError("gres_lint: expected the texts of slurm.conf and gres.conf")
    if inventories is not None and not isinstance(inventories, Mapping):
        raise AnsibleFilterError("gres_lint: expected as inventories a mapping of node names to results of gpu_info")
    try:
        machines = {str(name): _inventory(one) for name, one in (inventories or {}).items()}
        findings = lint(slurm_conf, gres_conf, machines, image=image, nvml_plugin=nvml_plugin)
    except ValueError as error:
        raise AnsibleFilterError(f"gres_lint: {error}") from error
    return [asdict(one) for one in findings]


def _inventory(value: Any) -> Inventory:
    if not isinstance(value, Mapping):
        raise ValueError(f"expected a result of gpu_info or the inventory in it, found {type(value).__name__}")
    return Inventory.from_dict(value.get("inventory", value))


class FilterModule:
    """Ansible's way of finding filters."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """The filters of this file by name."""
        return {"gres_lint": gres_lint}
