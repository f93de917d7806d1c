#!/usr/bin/python
# Copyright: The hpc.compute authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Puts the commands of the monitoring on a node; what they are made of is in module_utils/monitoring."""

from __future__ import annotations

DOCUMENTATION = r"""
module: monitoring_commands
short_description: Install the commands hpc-node-metrics and hpc-gpu-jobs
version_added: 0.2.0
description:
  - Writes two executable files made of the collection's own code. They are the same for the same version of it.
  - C(hpc-node-metrics) collects what node exporter can't know of a GPU node, as files for its textfile collector.
  - C(hpc-gpu-jobs) notes which job uses which GPU, for the DCGM exporter.
author:
  - The hpc.compute authors
options:
  directory:
    description: Where the files go. It must exist.
    type: path
    default: /usr/sbin
attributes:
  check_mode:
    description: Tells whether the files would be written.
    support: full
  diff_mode:
    description: The files are archives, so only the fact that they differ is told.
    support: none
  platform:
    description: Target operating systems.
    support: full
    platforms: debian
notes:
  - The commands need python3 on the node, python3-pynvml to speak to the driver and python3-yaml to read layouts.
seealso:
  - module: hpc.compute.gpu_layout_command
"""

EXAMPLES = r"""
- name: Install the commands
  hpc.compute.monitoring_commands:
"""

RETURN = r"""
paths:
  description: The files.
  returned: always
  type: list
  elements: str
  sample: [/usr/sbin/hpc-node-metrics, /usr/sbin/hpc-gpu-jobs]
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.hpc.compute.plugins.module_utils.command.place import place
from ansible_collections.hpc.compute.plugins.module_utils.monitoring import jobs_main
from ansible_collections.hpc.compute.plugins.module_utils.monitoring import main as metrics_main

# Ansible sends what a module imports; the commands themselves are imported for that.
_SENT = (jobs_main, metrics_main)

_COMMANDS = {"hpc-node-metrics": "monitoring.main", "hpc-gpu-jobs": "monitoring.jobs_main"}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={"directory": {"type": "path", "default": "/usr/sbin"}},
        supports_check_mode=True,
    )
    directory = Path(module.params["directory"])
    if not directory.is_dir():
        module.fail_json(msg=f"the directory {directory} does not exist: make it, or choose another")
    # all of them, also after the first that differs
    changed = [place(module, directory / name, start) for name, start in _COMMANDS.items()]
    module.exit_json(changed=any(changed), paths=[str(directory / name) for name in _COMMANDS])


if __name__ == "__main__":
    main()
