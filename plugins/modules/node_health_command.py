#!/usr/bin/python
# Copyright: The hpc.compute authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Puts the command node-health on a node; what it is made of is in module_utils/health."""

from __future__ import annotations

DOCUMENTATION = r"""
module: node_health_command
short_description: Install the command node-health, which says whether a node is fit for jobs
version_added: 0.1.0
description:
  - Writes the health checks and all that they need as one executable file. Slurm's prolog, epilog and health check run
    it; so can monitoring.
  - The file is made of the collection's own code and is the same for the same version of it.
author:
  - The hpc.compute authors
options:
  path:
    description: The file to write. Its directory must exist.
    type: path
    default: /usr/sbin/node-health
attributes:
  check_mode:
    description: Tells whether the file would be written.
    support: full
  diff_mode:
    description: The file is an archive, so only the fact that it differs is told.
    support: none
  platform:
    description: Target operating systems.
    support: full
    platforms: debian
notes:
  - The command needs python3 on the node, python3-pynvml to ask the driver, and python3-yaml where a layout is stored.
seealso:
  - module: hpc.compute.gpu_layout_command
"""

EXAMPLES = r"""
- name: Install the command
  hpc.compute.node_health_command:
"""

RETURN = r"""
path:
  description: The file.
  returned: always
  type: str
  sample: /usr/sbin/node-health
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.hpc.compute.plugins.module_utils.command.bundle import NODE_HEALTH
from ansible_collections.hpc.compute.plugins.module_utils.command.place import place
from ansible_collections.hpc.compute.plugins.module_utils.health import main as health_main

# Ansible sends what a module imports; the command itself is imported for that.
_SENT = health_main


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={"path": {"type": "path", "default": "/usr/sbin/node-health"}},
        supports_check_mode=True,
    )
    path = Path(module.params["path"])
    module.exit_json(changed=place(module, path, NODE_HEALTH), path=str(path))


if __name__ == "__main__":
    main()
