#!/usr/bin/python
# Copyright: The hpc.compute authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Puts the command node-join on a node; what it is made of is in module_utils/join."""

from __future__ import annotations

DOCUMENTATION = r"""
module: node_join_command
short_description: Install the command node-join, with which a machine made from an image joins its cluster
version_added: 0.2.0
description:
  - Writes the command as one executable file. It reads what the machine was told about its cluster, and writes the
    munge key and slurmd's options.
author:
  - The hpc.compute authors (!UNKNOWN)
options:
  path:
    description: The file to write. Its directory must exist.
    type: path
    default: /usr/sbin/node-join
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
"""

EXAMPLES = r"""
- name: Install the command
  hpc.compute.node_join_command:
"""

RETURN = r"""
path:
  description: The file.
  returned: always
  type: str
  sample: /usr/sbin/node-join
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.hpc.compute.plugins.module_utils.command.place import place
from ansible_collections.hpc.compute.plugins.module_utils.join import main as join_main

# Ansible sends what a module imports; the command itself is imported for that.
_SENT = join_main


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={"path": {"type": "path", "default": "/usr/sbin/node-join"}},
        supports_check_mode=True,
    )
    path = Path(module.params["path"])
    module.exit_json(changed=place(module, path, "join.main"), path=str(path))


if __name__ == "__main__":
    main()
