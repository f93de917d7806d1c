#!/usr/bin/python
# Copyright: The hpc.compute authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible's face of installing a controller's files; the work is done in module_utils/slurm."""

from __future__ import annotations

DOCUMENTATION = r"""
module: slurm_fleet_files
short_description: Install a Slurm controller's files, proved by slurmctld itself, and have them taken over
version_added: 0.2.0
description:
  - Optionally starts a second C(slurmctld) on a copy of the folder with the new files in it, before anything is
    replaced. It has a network of its own, so that it reaches neither nodes nor other controllers nor a database, and
    may write nowhere.
  - Refuses a C(nodes.conf) that O(slurm_conf) does not include.
  - Replaces the files all at once, and optionally has the controller take them over. Where it refuses them, or does not
    answer afterwards, the old files come back, and a controller that ended is started again.
author:
  - The hpc.compute authors
options:
  files:
    description: The files, all in the folder of O(slurm_conf).
    type: list
    elements: dict
    required: true
    suboptions:
      path:
        description: Where it is.
        type: path
        required: true
      content:
        description: Its text. A file without one is removed.
        type: str
  slurm_conf:
    description: The controller's C(slurm.conf).
    type: path
    default: /etc/slurm/slurm.conf
  trial:
    description: Whether C(slurmctld) is tried with the files first. In check mode, too, as that changes nothing.
    type: bool
    default: true
  activate:
    description:
      - What to do when the files are in place. V(reconfigure) is C(scontrol reconfigure), V(restart) starts
        C(slurmctld) anew.
    type: str
    choices: [none, reconfigure, restart]
    default: none
  controller_timeout:
    description: For how many seconds a controller that does not answer, as while it restarts, is asked again.
    type: float
    default: 60
attributes:
  check_mode:
    description: Tells what would be changed.
    support: full
  diff_mode:
    description: Shows the difference of each file.
    support: full
  platform:
    description: Target operating systems.
    support: full
    platforms: posix
notes:
  - The trial needs systemd, C(unshare)'s network namespaces, C(nsenter) and C(ip).
seealso:
  - module: hpc.compute.slurm_fleet_plan
"""

EXAMPLES = r"""
- name: Install what was planned
  hpc.compute.slurm_fleet_files:
    files: "{{ plan.files }}"
    activate: "{{ plan.action }}"
"""

RETURN = r"""
before:
  description: The files that were, or would be, changed as they were, in the form of O(files), to be put back.
  returned: success
  type: list
  elements: dict
"""

from collections.abc import Sequence
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.hpc.compute.plugins.module_utils.slurm.control import Completed
from ansible_collections.hpc.compute.plugins.module_utils.slurm.controller_conf import (
    ConfError,
    check_included,
    read_conf,
)
from ansible_collections.hpc.compute.plugins.module_utils.slurm.publish import PublishError, pending
from ansible_collections.hpc.compute.plugins.module_utils.slurm.scontrol import Scontrol, ScontrolError
from ansible_collections.hpc.compute.plugins.module_utils.slurm.takeover import Service, differing, install
from ansible_collections.hpc.compute.plugins.module_utils.slurm.trial import Trial, TrialError


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "files": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {"path": {"type": "path", "required": True}, "content": {"type": "str"}},
            },
            "slurm_conf": {"type": "path", "default": "/etc/slurm/slurm.conf"},
            "trial": {"type": "bool", "default": True},
            "activate": {"type": "str", "choices": ["none", "reconfigure", "restart"], "default": "none"},
            "controller_timeout": {"type": "float", "default": 60},
        },
        supports_check_mode=True,
    )
    params = module.params

    def run(command: Sequence[str]) -> Completed:
        return Completed(*module.run_command(list(command)))

    service = Service(run, Scontrol(run, params["controller_timeout"]))
    activate = {"none": None, "reconfigure": service.reconfigure, "restart": service.restart}[params["activate"]]
    conf = Path(params["slurm_conf"])
    files = {Path(one["path"]): one["content"] for one in params["files"]}
    try:
        changes = differing(files)
        check_included(conf, files)
        if changes and params["trial"]:
            user = read_conf(conf, conf.parent / "nodes.conf").settings.get("slurmuser", "root")
            daemon = module.get_bin_path("slurmctld", required=True)
            Trial(run, daemon, user).try_files(conf, {one.path: one.after or "" for one in changes})
        unfinished = activate is not None and pending(conf).exists()
        if not module.check_mode and (changes or unfinished):
            install(conf, changes, activate)
    except (PublishError, ConfError, TrialError) as error:
        module.fail_json(msg=str(error))
    except ScontrolError as error:
        way_back = service.revive()
        module.fail_json(msg=f"{error}. The old files are back. {way_back}; see its log for what it did not accept")
    module.exit_json(
        changed=bool(changes) or unfinished,
        before=[{"path": str(change.path), "content": change.before} for change in changes],
        diff=[
            {
                "before": change.before or "",
                "after": change.after or "",
                "before_header": str(change.path),
                "after_header": str(change.path),
            }
            for change in changes
        ],
    )


if __name__ == "__main__":
    main()
