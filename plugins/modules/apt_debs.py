#!/usr/bin/python
# Copyright: The hpc.compute authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible's face of repositories made of package files; the work is done in module_utils/apt."""

from __future__ import annotations

DOCUMENTATION = r"""
module: apt_debs
short_description: Offer package files to apt, as a repository on the machine itself
version_added: 0.2.0
description:
  - Copies Debian packages from the control machine and makes of them a repository that apt reads, so that apt resolves
    what depends on what, and finds the packages again later.
  - Exactly the files given are offered. What is offered is replaced as a whole, or stays as it was if a file is no
    package.
  - Files that the machine has already are not copied again.
author:
  - The hpc.compute authors
options:
  name:
    description: The repository's name, of small letters, digits, dots and hyphens.
    type: str
    required: true
  files:
    description: Package files on the control machine. Exactly one of this and O(directory) is required.
    type: list
    elements: path
  directory:
    description: A folder on the control machine, whose files that end in C(.deb) are taken.
    type: path
  checksums:
    description: Set by the action plugin, the SHA-256 of each file by its name.
    type: dict
  arrived:
    description: Set by the action plugin, where the files that were copied lie.
    type: path
  ask:
    description: Set by the action plugin, whether only to tell which files have to be copied.
    type: bool
    default: false
attributes:
  check_mode:
    description: Tells which files would be offered.
    support: full
  diff_mode:
    description: Shows the list of files, and the difference of apt's source.
    support: full
  platform:
    description: Target operating systems.
    support: full
    platforms: debian
"""

EXAMPLES = r"""
- name: Offer the packages that the site built
  hpc.compute.apt_debs:
    name: slurm-smd
    directory: files/slurm-23.11.4
"""

RETURN = r"""
packages:
  description: Names of the files that are offered.
  returned: success
  type: list
  elements: str
  sample: [slurm-smd_23.11.4-1_amd64.deb]
missing:
  description: Names of the files that were copied, or in check mode would be.
  returned: success
  type: list
  elements: str
  sample: [slurm-smd_23.11.4-1_amd64.deb]
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.hpc.compute.plugins.module_utils.apt.flat import PackageError
from ansible_collections.hpc.compute.plugins.module_utils.apt.folder import (
    Offer,
    is_in_place,
    present_files,
    replace,
    to_transfer,
)
from ansible_collections.hpc.compute.plugins.module_utils.apt.glue import diff_of, machine_of
from ansible_collections.hpc.compute.plugins.module_utils.apt.repositories import pending
from ansible_collections.hpc.compute.plugins.module_utils.apt.sources import RepositoryError


def main() -> None:
    """Run the module. The action plugin of the same name asks first (C(ask)), copies, and then has it offered."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "files": {"type": "list", "elements": "path"},
            "directory": {"type": "path"},
            "checksums": {"type": "dict"},
            "arrived": {"type": "path"},
            "ask": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    if module.params["checksums"] is None:
        module.fail_json(msg="expected to be run by the action plugin hpc.compute.apt_debs, which reads the files")
    machine = machine_of(module)

    def control(path: Path) -> str:
        done = machine.run(["dpkg-deb", "--field", str(path)], {"LC_ALL": "C"})
        if done.returncode != 0:
            said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
            raise PackageError(
                f"{path.name}: expected a Debian package, dpkg-deb (exit code {done.returncode}) says: {said}"
            )
        return done.stdout

    try:
        offer = Offer(module.params["name"], module.params["checksums"])
        before, in_place = present_files(offer), is_in_place(offer)
        missing = [] if in_place else to_transfer(offer)
        apply = not (module.check_mode or module.params["ask"]) or (in_place and not module.check_mode)
        arrived = Path(module.params["arrived"]) if module.params["arrived"] else None
        changes = replace(machine, offer, arrived, control) if apply else pending(machine, [offer.repository])
    except (RepositoryError, PackageError) as error:
        module.fail_json(msg=str(error))
    after = sorted(offer.files)
    listed = (
        [{"before": _lines(before), "after": _lines(after), "before_header": str(offer.link)}] if not in_place else []
    )
    module.exit_json(
        changed=bool(changes) or not in_place,
        packages=after,
        missing=missing,
        in_place=in_place,
        diff=[*listed, *(diff_of(one) for one in changes)],
    )


def _lines(names: list[str]) -> str:
    return "".join(f"{name}\n" for name in names)


if __name__ == "__main__":
    main()
