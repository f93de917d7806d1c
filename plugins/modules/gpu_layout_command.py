#!/usr/bin/python
# Copyright: The hpc.compute authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Puts the command gpu-layout on a node; what it is made of is in module_utils/command."""

from __future__ import annotations

DOCUMENTATION = r"""
module: gpu_layout_command
short_description: Install the command gpu-layout, with which a node cuts its own GPUs
version_added: 0.1.0
description:
  - Writes the planner and everything it needs as one executable file, so that a node can show, plan and change what its
    GPUs are cut into without Ansible, above all at boot.
  - The file is made of the collection's own code and is the same for the same version of it.
author:
  - The hpc.compute authors
options:
  path:
    description: The file to write. Its directory must exist.
    type: path
    default: /usr/sbin/gpu-layout
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
  - The command needs python3 on the node, python3-pynvml to speak to the driver and python3-yaml to read layouts.
seealso:
  - module: hpc.compute.mig_layout
"""

EXAMPLES = r"""
- name: Install the command
  hpc.compute.gpu_layout_command:
"""

RETURN = r"""
path:
  description: The file.
  returned: always
  type: str
  sample: /usr/sbin/gpu-layout
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.hpc.compute.plugins.module_utils.command import main as command_main
from ansible_collections.hpc.compute.plugins.module_utils.command.bundle import GPU_LAYOUT
from ansible_collections.hpc.compute.plugins.module_utils.command.place import place

# Ansible sends what a module imports; the command itself is imported for that.
_SENT = command_main


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={"path": {"type": "path", "default": "/usr/sbin/gpu-layout"}},
        supports_check_mode=True,
    )
    path = Path(module.params["path"])
    module.exit_json(changed=place(module, path, GPU_LAYOUT), path=str(path))


if __name__ == "__main__":
    main()
