#!/usr/bin/python
# Copyright: The hpc.compute authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible's face of DKMS; the work is done in module_utils/dkms."""

from __future__ import annotations

DOCUMENTATION = r"""
module: dkms_modules
short_description: Have DKMS modules built and installed for every installed kernel
version_added: 0.2.0
description:
  - Asserts that each module is installed for every kernel that the machine may boot, builds what is missing, and fails
    when a build fails. The running kernel has no special part.
  - A failure names the module, the kernel, the first error of the compiler, and the ways out. Kernels are independent
    of each other, so all are tried.
author:
  - The hpc.compute authors
options:
  modules:
    description: The modules.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: The DKMS name, which C(dkms status) prints before the slash.
        type: str
        required: true
      version:
        description: The version. Not needed when the source of one version only is installed.
        type: str
  kernels:
    description: Releases as C(uname -r) prints them. Empty means every installed kernel.
    type: list
    elements: str
    default: []
  newer_than:
    description: Files that a build reads, such as its options. What was built before one was changed is built again.
    type: list
    elements: path
    default: []
  forget_signing_key:
    description:
      - Remove the key pair with which dkms signs modules (C(/var/lib/dkms/mok.key), C(mok.pub)), after the builds. In
        an image it would be the private key of every machine made from it; dkms makes a new one with its next build.
    type: bool
    default: false
  root:
    description: Directory below which kernels, sources and the state of dkms are read. The commands are this machine's.
    type: path
    default: /
requirements:
  - dkms, the headers of the kernels
attributes:
  check_mode:
    description:
      - Tells what would be built, and changes nothing. Before dkms or a module's source is installed there is nothing
        to tell, which is no failure then.
    support: full
  diff_mode:
    description: Shows the state of each module for each kernel.
    support: full
  platform:
    description: Target operating systems.
    support: full
    platforms: debian
notes:
  - Debian's packages build their module while they are installed, and a failure leaves the package half-configured.
    With a file C(/etc/dkms/no-autoinstall) they leave it to this module.
"""

EXAMPLES = r"""
- name: Have the BeeGFS module for every installed kernel
  hpc.compute.dkms_modules:
    modules:
      - name: beegfs
    newer_than: [/etc/beegfs/beegfs-client-build.mk]

- name: The same in an image, which must not carry a private key
  hpc.compute.dkms_modules:
    modules:
      - name: nvidia-current
        version: 550.163.01
    forget_signing_key: true
"""

RETURN = r"""
kernels:
  description: The releases that were looked at.
  returned: success
  type: list
  elements: str
  sample: [6.12.117+deb13-amd64]
modules:
  description: State by module and kernel, as it was before.
  returned: success
  type: dict
  sample: {"beegfs/8.3.1": {"6.12.117+deb13-amd64": "installed"}}
steps:
  description: What was built, or in check mode would be, each with its reason.
  returned: success
  type: list
  elements: str
  sample: ["beegfs/8.3.1 for 6.12.117+deb13-amd64: is not built"]
"""

from collections.abc import Sequence
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.hpc.compute.plugins.module_utils.dkms.ensure import (
    Completed,
    Dkms,
    DkmsError,
    DkmsMissingError,
    Plan,
    Wanted,
)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "modules": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {"name": {"type": "str", "required": True}, "version": {"type": "str"}},
            },
            "kernels": {"type": "list", "elements": "str", "default": []},
            "newer_than": {"type": "list", "elements": "path", "default": []},
            "forget_signing_key": {"type": "bool", "default": False},
            "root": {"type": "path", "default": "/"},
        },
        supports_check_mode=True,
    )
    given = module.params
    dkms = Dkms(lambda command: _run(module, command), Path(given["root"]))
    try:
        plan = dkms.plan(
            [Wanted(each["name"], each["version"]) for each in given["modules"]],
            given["kernels"],
            [Path(path) for path in given["newer_than"]],
        )
        if not module.check_mode:
            dkms.carry_out(plan)
    except DkmsMissingError as error:
        if not module.check_mode:
            module.fail_json(msg=str(error))
        module.exit_json(changed=False, kernels=[], modules={}, steps=[], note=str(error))
    except DkmsError as error:
        module.fail_json(msg=str(error))
    keys = dkms.signing_key() if given["forget_signing_key"] else []
    if not module.check_mode:
        for path in keys:
            path.unlink()
    module.exit_json(
        changed=bool(plan.steps or keys),
        kernels=[kernel.release for kernel in plan.kernels],
        modules=plan.state,
        steps=[str(step) for step in plan.steps],
        diff={"before": _told(plan, set()), "after": _told(plan, {(s.name, s.version, s.kernel) for s in plan.steps})},
    )


def _run(module: AnsibleModule, command: Sequence[str]) -> Completed:
    try:
        return Completed(*module.run_command(list(command), environ_update={"LC_ALL": "C"}, handle_exceptions=False))
    except FileNotFoundError:
        return Completed(127, "", "")


def _told(plan: Plan, done: set[tuple[str, str, str]]) -> str:
    return "".join(
        f"{name}, {kernel}: {'installed' if (*name.split('/'), kernel) in done else state}\n"
        for name, kernels in plan.state.items()
        for kernel, state in kernels.items()
    )


if __name__ == "__main__":
    main()
