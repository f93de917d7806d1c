#!/usr/bin/python
# Copyright: The hpc.compute authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible's face of the choice of a driver; the work is done in module_utils/driver."""

from __future__ import annotations

DOCUMENTATION = r"""
module: nvidia_driver_plan
short_description: Decide which NVIDIA driver a machine gets, and tell everything that stands against it
version_added: 0.2.0
description:
  - Chooses the kind of kernel module (open or proprietary) by the boards that are there and the branch of the driver,
    names the packages, their versions, and the headers of every installed kernel.
  - Reads PCI ids from sysfs and packages from dpkg, so it needs no driver and no package lists, and changes nothing.
  - Fails with everything that has to be put right at once, such as a board that no such driver drives, packages of the
    other stack, or a kernel for which there is no driver.
author:
  - The hpc.compute authors
options:
  source:
    description: Where packages come from.
    type: str
    choices: [debian, nvidia, local]
    default: debian
  names:
    description: Whose names of packages a source C(local) uses.
    type: str
    choices: [debian, nvidia]
    default: nvidia
  flavour:
    description: The kind of kernel module; C(auto) chooses.
    type: str
    choices: [auto, open, proprietary]
    default: auto
  branch:
    description: Driver branch, such as C(580). Empty is what the source has, and C(580) for C(nvidia).
    type: str
    default: ""
  version:
    description: Exact version of the driver or of its packages. Empty is the newest of the branch.
    type: str
    default: ""
  fabric_manager:
    description: Whether the fabric manager is wanted too.
    type: bool
    default: false
  image:
    description: This is the build of an image, so the GPUs that are seen do not count.
    type: bool
    default: false
  replace:
    description: Whether packages of the other stack may be removed. Otherwise they are a reason to fail.
    type: bool
    default: false
  hold_kernel:
    description: Whether kernels are held together with the driver.
    type: bool
    default: true
  only_with_gpu:
    description: Whether a live machine without a GPU gets no driver; RV(wanted) then is false.
    type: bool
    default: false
  archive:
    description: Whether to look for RV(archive), too.
    type: bool
    default: false
  ignored_kernels:
    description: Installed kernels that get no driver, as releases in which C(*) stands for anything.
    type: list
    elements: str
    default: []
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
seealso:
  - module: hpc.compute.dkms_proof
  - module: hpc.compute.nvidia_driver_state
"""

EXAMPLES = r"""
- name: Decide on a driver
  hpc.compute.nvidia_driver_plan:
    source: nvidia
    branch: "580"
  register: driver

- name: Say what it will be
  ansible.builtin.debug:
    msg: "{{ driver['flavour'] }}, as there is {{ driver['reason'] }}: {{ driver['packages'] | join(' ') }}"
"""

RETURN = r"""
stack:
  description: Whose packages, C(debian) or C(nvidia).
  returned: success
  type: str
flavour:
  description: The kind of kernel module, C(open) or C(proprietary).
  returned: success
  type: str
reason:
  description: Why that kind.
  returned: success
  type: str
branch:
  description: The branch, empty where the source decides.
  returned: success
  type: str
version_glob:
  description: What apt is asked for, empty where the source decides.
  returned: success
  type: str
  sample: 580.*
packages:
  description: Packages that carry the driver's version.
  returned: success
  type: list
  elements: str
others:
  description: Packages that are needed and have versions of their own.
  returned: success
  type: list
  elements: str
components:
  description: Components of Debian's archive that they are in.
  returned: success
  type: list
  elements: str
cuda:
  description: Packages of the CUDA toolkit.
  returned: success
  type: list
  elements: str
dkms_package:
  description: The package with the source of the kernel modules.
  returned: success
  type: str
module:
  description: DKMS name of the modules and name of the first one's file.
  returned: success
  type: str
  sample: nvidia-current
kernels:
  description: Releases of the kernels that get the driver.
  returned: success
  type: list
  elements: str
headers:
  description: Packages with their headers.
  returned: success
  type: list
  elements: str
remove:
  description: Installed packages that must go first.
  returned: success
  type: list
  elements: str
hold:
  description: Packages that are to be held together.
  returned: success
  type: list
  elements: str
installed_version:
  description: Version of RV(dkms_package) that is installed, empty where none is.
  returned: success
  type: str
wanted:
  description: Whether there is anything to drive.
  returned: success
  type: bool
satisfied:
  description: Whether the right packages are installed already, and no installation was interrupted.
  returned: success
  type: bool
driver_names:
  description: Names of driver packages as apt's preferences take them.
  returned: success
  type: list
  elements: str
archive:
  description: URI and key of Debian's archive in this machine's apt sources, empty unless O(archive) is true.
  returned: success
  type: dict
  sample: {"uri": "http://deb.debian.org/debian", "signed_by": "/usr/share/keyrings/debian-archive-keyring.pgp"}
"""

import os
import re

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.hpc.compute.plugins.module_utils.driver.machine import Run, read_machine
from ansible_collections.hpc.compute.plugins.module_utils.driver.plan import Wishes, make_plan
from ansible_collections.hpc.compute.plugins.module_utils.driver.stack import DRIVER_NAMES


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "source": {"type": "str", "choices": ["debian", "nvidia", "local"], "default": "debian"},
            "names": {"type": "str", "choices": ["debian", "nvidia"], "default": "nvidia"},
            "flavour": {"type": "str", "choices": ["auto", "open", "proprietary"], "default": "auto"},
            "branch": {"type": "str", "default": ""},
            "version": {"type": "str", "default": ""},
            "fabric_manager": {"type": "bool", "default": False},
            "image": {"type": "bool", "default": False},
            "replace": {"type": "bool", "default": False},
            "hold_kernel": {"type": "bool", "default": True},
            "only_with_gpu": {"type": "bool", "default": False},
            "archive": {"type": "bool", "default": False},
            "ignored_kernels": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    given = {**module.params, "ignored_kernels": tuple(module.params["ignored_kernels"])}
    archive = given.pop("archive")
    run = runner(module)
    plan = make_plan(Wishes(**given), read_machine(run, release=os.uname().release))
    if plan.problems:
        module.fail_json(msg="\n".join(plan.problems))
    module.exit_json(
        changed=False,
        stack=plan.stack.name,
        flavour=plan.flavour,
        reason=plan.reason,
        branch=plan.branch,
        version_glob=plan.version_glob,
        packages=plan.packages,
        others=plan.stack.others,
        components=plan.stack.components,
        cuda=plan.stack.cuda,
        dkms_package=plan.dkms_package,
        module=plan.module,
        kernels=plan.kernels,
        headers=plan.headers,
        remove=plan.remove,
        hold=plan.hold,
        installed_version=plan.installed_version,
        wanted=plan.wanted,
        satisfied=plan.satisfied,
        driver_names=DRIVER_NAMES,
        archive=_archive(run) if archive else {},
    )


def runner(module: AnsibleModule) -> Run:
    """Commands of the machine; one that is missing is exit code 127."""

    def run(command: object) -> tuple[int, str, str]:
        try:
            code, out, err = module.run_command(list(command), handle_exceptions=False)  # type: ignore[call-overload]
        except FileNotFoundError:
            return 127, "", ""
        return code, out, err

    return run


def _archive(run: Run) -> dict[str, str]:
    """Where this machine gets Debian from."""
    words = ["apt-get", "indextargets", "--format", "$(REPO_URI)|$(SIGNED_BY)"]
    _, told, _ = run([*words, "Created-By: Packages", "Component: main", "Origin: Debian", "Release: trixie"])
    match = re.match(r"(\S+?)/?\|(.*)", told)
    return {"uri": match[1], "signed_by": match[2] if "/" in match[2] else ""} if match else {}


if __name__ == "__main__":
    main()
