#!/usr/bin/python
# Copyright: The hpc.compute authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a machine has for Apptainer containers; the work is done in module_utils/containers."""

from __future__ import annotations

DOCUMENTATION = r"""
module: container_runtime_info
short_description: Tell what a machine has for Apptainer containers with GPUs
version_added: 0.1.0
description:
  - Tells which Apptainer packages are installed, whether ordinary users can run containers, and whether
    C(apptainer --nv) would take all of the NVIDIA driver's libraries into a container.
  - Never fails because something is absent; that is a value which is returned.
author:
  - The hpc.compute authors
options:
  temporary_directory:
    description: The directory of which RV(temporary_in_memory) speaks.
    type: path
    default: /tmp
  files:
    description: Files with the content that they should have, to be compared in the same call.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Path of the file.
        type: path
        required: true
      content:
        description: The content; empty when there should be no file.
        type: str
        required: true
      mode:
        description: Its permissions in octal digits.
        type: str
        default: "0644"
attributes:
  check_mode:
    description: Can run in check mode and return the same result.
    support: full
  diff_mode:
    description: Nothing is changed, so there is no difference to show.
    support: none
  platform:
    description: Target operating systems.
    support: full
    platforms: debian
"""

EXAMPLES = r"""
- name: See what there is for containers
  hpc.compute.container_runtime_info:
  register: containers

- name: Name libraries of the driver that containers would lack
  ansible.builtin.debug:
    var: containers['driver']['unlisted']
"""

RETURN = r"""
architecture:
  description: Debian's word for the machine's architecture.
  returned: always
  type: str
  sample: amd64
versions:
  description: Versions of the packages C(apptainer) and C(apptainer-suid); empty for one that is not installed.
  returned: always
  type: dict
  sample: {apptainer: 1.5.4, apptainer-suid: ""}
user_namespaces:
  description:
    - Whether an ordinary user can make a user namespace, which every container without setuid needs, and why not.
  returned: always
  type: dict
  sample: {available: true, reason: ""}
fuse:
  description:
    - Whether there is C(/dev/fuse). Without it Apptainer unpacks an image before it runs it, and checks no signature.
  returned: always
  type: bool
temporary_in_memory:
  description: Whether the temporary directory lies in memory.
  returned: always
  type: bool
driver:
  description:
    - The NVIDIA driver's libraries. C(version) is empty where none is installed; C(unlisted) are those that
      C(/etc/apptainer/nvliblist.conf) lacks as the package has it; C(missing) are needed by CUDA and not installed.
  returned: always
  type: dict
  sample: {version: 580.95.05, names: [libcuda.so], unlisted: [], missing: []}
differing:
  description: Paths of those O(files) that are not as they should be.
  returned: always
  type: list
  elements: str
nvliblist_added:
  description: Names that an earlier run has added to C(/etc/apptainer/nvliblist.conf).
  returned: always
  type: list
  elements: str
device_specifications:
  description: Files of the Container Device Interface in C(/etc/cdi) and C(/var/run/cdi).
  returned: always
  type: list
  elements: str
  sample: [/var/run/cdi/nvidia.yaml]
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.hpc.compute.plugins.module_utils.containers import driver_libraries, machine

_LIST = Path("/etc/apptainer/nvliblist.conf")


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "temporary_directory": {"type": "path", "default": "/tmp"},  # noqa: S108
            "files": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "path": {"type": "path", "required": True},
                    "content": {"type": "str", "required": True},
                    "mode": {"type": "str", "default": "0644"},
                },
            },
        },
        supports_check_mode=True,
    )

    def run(command: Sequence[str]) -> tuple[int, str, str]:
        code, stdout, stderr = module.run_command(list(command))
        return code, stdout, stderr

    _, architecture, _ = module.run_command(["dpkg", "--print-architecture"], check_rc=True)
    _, cache, _ = module.run_command(["ldconfig", "-p"], check_rc=True)
    text = _LIST.read_text(encoding="utf-8") if _LIST.exists() else ""
    wanted = [
        machine.Wanted(one["path"], one["content"].encode(), int(one["mode"], 8)) for one in module.params["files"]
    ]
    try:
        versions = machine.packages(run)
        differing = [one.path for one in wanted if not machine.is_as_wanted(one)]
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8")
    except OSError as error:
        module.fail_json(msg=str(error))
    module.exit_json(
        changed=False,
        architecture=architecture.strip(),
        versions=versions,
        user_namespaces=asdict(machine.namespaces(run)),
        fuse=machine.has_fuse(),
        temporary_in_memory=machine.is_tmpfs(mounts, module.params["temporary_directory"]),
        driver=asdict(driver_libraries.compare(cache, driver_libraries.parse_list(text))),
        differing=differing,
        nvliblist_added=driver_libraries.added(text),
        device_specifications=machine.device_specifications(),
    )


if __name__ == "__main__":
    main()
