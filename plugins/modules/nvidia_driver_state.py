#!/usr/bin/python
# Copyright: The hpc.compute authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible's face of the state of the driver; the work is done in module_utils/driver."""

from __future__ import annotations

DOCUMENTATION = r"""
module: nvidia_driver_state
short_description: Tell how the NVIDIA driver on disk, the one in the running kernel and the GPUs stand to each other
version_added: 0.2.0
description:
  - Reads the version of the module's file for each kernel with C(modinfo), the loaded driver from C(/proc), and what
    drives the GPUs from sysfs. Changes nothing, and needs neither a GPU nor a loaded driver.
author:
  - The hpc.compute authors
options:
  module:
    description: Name of the module's file, which differs between packages.
    type: str
    default: nvidia
  flavour:
    description: The kind of module that is installed.
    type: str
    choices: [open, proprietary]
    required: true
  kernels:
    description: Releases of the kernels that must have it.
    type: list
    elements: str
    required: true
  settings:
    description: A file that each initramfs carries a copy of, and must not be older than.
    type: path
    default: /etc/modprobe.d/hpc-compute-nvidia.conf
  require_version:
    description: Fail unless the module's file has this version for each of the kernels. Empty requires nothing.
    type: str
    default: ""
  quick:
    description:
      - Take dkms's word for the version of a module whose file is still the one that dkms built, instead of unpacking
        it with C(modinfo), which takes about a second for each kernel.
    type: bool
    default: false
  module_options:
    description:
      - Parameters that the kernel module is to be loaded with. A number that is another one in the loaded driver
        (C(/proc/driver/nvidia/params)) is a reason to reboot, where O(settings) is younger than the last boot.
    type: dict
    default: {}
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
notes:
  - Run it as root, since it looks for the processes that use GPUs.
seealso:
  - module: hpc.compute.nvidia_driver_plan
"""

EXAMPLES = r"""
- name: See what became of the driver
  hpc.compute.nvidia_driver_state:
    module: nvidia-current
    flavour: proprietary
    kernels: [6.12.117+deb13-amd64]
  register: driver

- name: Say why the machine has to boot again
  ansible.builtin.debug:
    msg: "{{ driver['reboot'] | join('; ') }}"
  when: driver['reboot'] | length > 0
"""

RETURN = r"""
on_disk:
  description: Version of the module's file by kernel, null where there is none.
  returned: success
  type: dict
  sample: {"6.12.117+deb13-amd64": "550.163.01"}
loaded:
  description: Version of the loaded driver, null when none is.
  returned: success
  type: str
gpus:
  description: PCI addresses of the GPUs.
  returned: success
  type: list
  elements: str
nvswitches:
  description: Number of NVSwitches on the PCI bus.
  returned: success
  type: int
reboot:
  description: Why the machine has to boot again before its GPUs work with what is installed; empty when it need not.
  returned: success
  type: list
  elements: str
stale_initramfs:
  description: Kernels whose initramfs has an older copy of O(settings).
  returned: success
  type: list
  elements: str
passthrough:
  description: Whether this is a virtual machine to which GPUs were passed through.
  returned: success
  type: bool
users:
  description: Processes that use GPUs, services that are known to hold them left out.
  returned: success
  type: list
  elements: str
jobs:
  description: Numbers of the Slurm jobs that run here. One may have been given a GPU that it has not opened yet.
  returned: success
  type: list
  elements: int
"""

import os
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.hpc.compute.plugins.module_utils.driver.machine import Run, read_machine
from ansible_collections.hpc.compute.plugins.module_utils.driver.state import read_state, wrong_on_disk
from ansible_collections.hpc.compute.plugins.module_utils.mig.slurm_jobs import running_jobs


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "module": {"type": "str", "default": "nvidia"},
            "flavour": {"type": "str", "choices": ["open", "proprietary"], "required": True},
            "kernels": {"type": "list", "elements": "str", "required": True},
            "settings": {"type": "path", "default": "/etc/modprobe.d/hpc-compute-nvidia.conf"},
            "require_version": {"type": "str", "default": ""},
            "quick": {"type": "bool", "default": False},
            "module_options": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    given = module.params
    run = _runner(module)
    machine = read_machine(run, release=os.uname().release)
    state = read_state(
        run,
        machine,
        given["module"],
        given["flavour"],
        given["kernels"],
        Path(given["settings"]),
        quick=given["quick"],
        options=given["module_options"],
    )
    if wrong := wrong_on_disk(given["module"], given["require_version"], state.on_disk):
        module.fail_json(msg=wrong, on_disk=state.on_disk)
    module.exit_json(
        changed=False,
        on_disk=state.on_disk,
        loaded=machine.loaded and machine.loaded.version,
        gpus=[gpu.address for gpu in machine.gpus],
        nvswitches=machine.nvswitches,
        reboot=state.reboot,
        stale_initramfs=state.stale_initramfs,
        passthrough=state.passthrough,
        users=[str(user) for user in state.users],
        jobs=running_jobs(),
    )


def _runner(module: AnsibleModule) -> Run:
    def run(command: object) -> tuple[int, str, str]:
        try:
            code, out, err = module.run_command(list(command), handle_exceptions=False)  # type: ignore[call-overload]
        except FileNotFoundError:
            return 127, "", ""
        return code, out, err

    return run


if __name__ == "__main__":
    main()
