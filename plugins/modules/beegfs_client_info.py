#!/usr/bin/python
# Copyright: The hpc.compute authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible's face of what a BeeGFS client has to know of a machine; the work is done in module_utils."""

from __future__ import annotations

DOCUMENTATION = r"""
module: beegfs_client_info
short_description: Tell which BeeGFS packages and which kernels a machine has
version_added: 0.2.0
description:
  - Tells what the role C(hpc.compute.beegfs_client) looks at before it touches a machine.
author:
  - The hpc.compute authors
options:
  root:
    description: Directory below which kernels and mounts are looked for. The packages are always this machine's.
    type: path
    default: /
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
- name: Look at the machine
  hpc.compute.beegfs_client_info:
  register: seen
"""

RETURN = r"""
packages:
  description: Version by name of each BeeGFS package that is installed.
  returned: always
  type: dict
  sample: {"beegfs-client-dkms": "20:8.3.1"}
kernels:
  description: Releases of the kernels that are installed, by version.
  returned: always
  type: list
  elements: str
  sample: [6.12.117+deb13-amd64]
interrupted:
  description: Whether a run was cut off while it installed, which keeps packages from building modules.
  returned: always
  type: bool
in_use:
  description: Processes that use each file system that M(hpc.compute.beegfs_mounts) mounted, by its path.
  returned: always
  type: dict
  sample: {"/mnt/beegfs": ["4711 python"]}
headers_packages:
  description: Packages that bring what a module is built against, as far as they may be missing.
  returned: always
  type: list
  elements: str
  sample: [linux-headers-amd64]
"""

import platform
from pathlib import Path, PurePosixPath

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.hpc.compute.plugins.module_utils.beegfs.apply import Client
from ansible_collections.hpc.compute.plugins.module_utils.beegfs.check import PACKAGES
from ansible_collections.hpc.compute.plugins.module_utils.beegfs.machine import Machine
from ansible_collections.hpc.compute.plugins.module_utils.dkms.kernels import headers_packages, installed_kernels
from ansible_collections.hpc.compute.plugins.module_utils.dkms.proof import INTERRUPTED_MARK, NO_AUTOINSTALL

_FORMAT = "${db:Status-Status} ${Package} ${Version}\\n"


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec={"root": {"type": "path", "default": "/"}}, supports_check_mode=True)
    code, output, error = module.run_command(
        ["dpkg-query", "--show", f"--showformat={_FORMAT}", *PACKAGES, "linux-image-*"]
    )
    # 1: some are unknown to dpkg, hence not installed
    if code not in (0, 1):
        module.fail_json(msg=f"expected dpkg-query to list packages, found exit code {code}: {error.strip()}")
    installed = dict(line.split(" ")[1:] for line in output.splitlines() if line.startswith("installed "))
    root = Path(module.params["root"])
    machine = Machine(root)
    kernels = installed_kernels(root)
    system = platform.freedesktop_os_release()
    module.exit_json(
        changed=False,
        distribution=system["ID"],
        distribution_version=system.get("VERSION_ID", ""),
        packages={name: version for name, version in installed.items() if name in PACKAGES},
        kernels=[kernel.release for kernel in kernels],
        interrupted=INTERRUPTED_MARK.encode() in (machine.read(PurePosixPath("/", NO_AUTOINSTALL)) or b""),
        in_use=Client(machine).in_use(),
        headers_packages=headers_packages(kernels, installed),
    )


if __name__ == "__main__":
    main()
