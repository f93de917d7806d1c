#!/usr/bin/python
# Copyright: The hpc.compute authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible's face of slurmd's unit; the work is done in module_utils/slurm."""

from __future__ import annotations

DOCUMENTATION = r"""
module: slurmd_service
short_description: Start slurmd with its configuration, or go back to the one it ran with
version_added: 0.2.0
description:
  - Starts C(slurmd), and restarts it where its configuration or its program changed since it started.
  - Where it does not start, the files that it last started with come back, it is started with them, and the module
    fails with what C(slurmd) said. C(slurmd -G) accepts much that the start refuses, a C(ProctrackType) that does
    not exist for example.
  - A plugin that only jobs would miss, as a C(TaskPlugin), counts as refused, too.
  - Running jobs are not touched. Their step daemons outlive C(slurmd), which finds them again. A unit that would end
    them at a restart (C(KillMode)) is an error.
author:
  - The hpc.compute authors
options:
  state:
    description:
      - V(started) starts it, and restarts it where something changed. V(restarted) restarts it in any case.
      - V(kept) changes nothing about it. It keeps a copy of the configuration that C(slurmd) runs with, to go back to,
        and is meant for before the configuration is changed. The others do the same after a successful start.
    type: str
    choices: [started, restarted, kept]
    default: started
  configuration:
    description: The files that C(slurmd) reads, and folders of such.
    type: list
    elements: path
    default: [/etc/slurm, /etc/default/slurmd, /etc/systemd/system/slurmd.service.d]
  programs:
    description: Files after whose change it has to be restarted, but which are not brought back.
    type: list
    elements: path
    default: [/usr/sbin/slurmd]
  waits_for_controller:
    description:
      - Whether it needs a controller to start, as it does without a C(slurm.conf) of its own. Then nobody waits for it
        longer than it takes to see that it refuses its options.
    type: bool
    default: false
attributes:
  check_mode:
    description: Tells whether it would be started or restarted.
    support: full
  diff_mode:
    description: There is nothing to compare.
    support: none
  platform:
    description: Target operating systems.
    support: full
    platforms: debian
seealso:
  - module: hpc.compute.slurm_gres
"""

EXAMPLES = r"""
- name: Run slurmd with the configuration that was written
  hpc.compute.slurmd_service:
"""

RETURN = r"""
reasons:
  description: Why it was started or restarted.
  returned: success
  type: list
  elements: str
  sample: ["changed since slurmd started: /etc/slurm/slurm.conf"]
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.hpc.compute.plugins.module_utils.slurm.control import Completed
from ansible_collections.hpc.compute.plugins.module_utils.slurm.daemon import DaemonError, Host, Slurmd


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["started", "restarted", "kept"], "default": "started"},
            "configuration": {
                "type": "list",
                "elements": "path",
                "default": ["/etc/slurm", "/etc/default/slurmd", "/etc/systemd/system/slurmd.service.d"],
            },
            "programs": {"type": "list", "elements": "path", "default": ["/usr/sbin/slurmd"]},
            "waits_for_controller": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    slurmd = Slurmd(
        Host(lambda command: Completed(*module.run_command(list(command), environ_update={"LC_ALL": "C"}))),
        [Path(path) for path in module.params["configuration"]],
        [Path(path) for path in module.params["programs"]],
        waits=module.params["waits_for_controller"],
    )
    restart = module.params["state"] == "restarted"
    try:
        if module.params["state"] == "kept":
            if not module.check_mode:
                slurmd.keep()
            module.exit_json(changed=False, reasons=[])
        reasons = slurmd.due(restart)
        changed = bool(reasons) if module.check_mode else slurmd.run(restart)
    except DaemonError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=changed, reasons=reasons)


if __name__ == "__main__":
    main()
