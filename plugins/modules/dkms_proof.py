#!/usr/bin/python
# Copyright: The hpc.compute authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible's face of building a DKMS package before it is installed; the work is done in module_utils/dkms."""

from __future__ import annotations

DOCUMENTATION = r"""
module: dkms_proof
short_description: Build the modules of a DKMS package for every kernel before the package is installed
version_added: 0.2.0
description:
  - With O(state=proven) the package is downloaded and its modules are built for all kernels in a directory of
    their own. Nothing is installed. A build that fails is told with the compiler's first error, and the machine stays
    as it was.
  - With O(state=adopted), after the package was installed, dkms is given what was built, so that nothing is built
    twice. M(hpc.compute.dkms_modules) then installs it.
author:
  - The hpc.compute authors
options:
  package:
    description: Name of the package.
    type: str
    required: true
  version:
    description: Its version, in which C(*) stands for anything. Empty is what apt would choose.
    type: str
    default: ""
  kernels:
    description: Releases as C(uname -r) prints them. Empty means every installed kernel.
    type: list
    elements: str
    default: []
  advice:
    description: A sentence to end the message with when a build fails.
    type: str
    default: ""
  state:
    description: What is wanted.
    type: str
    choices: [proven, adopted]
    default: proven
requirements:
  - dkms, the headers of the kernels, apt sources that have the package
attributes:
  check_mode:
    description:
      - Tells what would be built. Before apt knows the package, or that version of it, there is little to tell, which
        is no failure.
    support: full
  diff_mode:
    description: Nothing on the machine changes but a cache.
    support: none
  platform:
    description: Target operating systems.
    support: full
    platforms: debian
notes:
  - Install the package with a file C(/etc/dkms/no-autoinstall) in place, or it builds its modules itself.
  - The complete log of a failed build is kept in C(/var/log/hpc-compute).
seealso:
  - module: hpc.compute.dkms_modules
"""

EXAMPLES = r"""
- name: See whether a driver builds for all kernels
  hpc.compute.dkms_proof:
    package: nvidia-kernel-dkms
    version: 550.163.01-*

- name: Give dkms what was built, now that the package is installed
  hpc.compute.dkms_proof:
    package: nvidia-kernel-dkms
    state: adopted
"""

RETURN = r"""
version:
  description: Exact version of the package, null in check mode where apt does not know it yet.
  returned: success
  type: str
  sample: 550.163.01-2
upstream_version:
  description: The same without Debian's revision.
  returned: success
  type: str
  sample: 550.163.01
module:
  description: DKMS name and version of the modules, null where there is nothing to tell.
  returned: success
  type: str
  sample: nvidia-current/550.163.01
kernels:
  description: Kernels for which they were built.
  returned: success
  type: list
  elements: str
"""

from collections.abc import Sequence
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.hpc.compute.plugins.module_utils.dkms.ensure import Completed, DkmsError
from ansible_collections.hpc.compute.plugins.module_utils.dkms.proof import Proof, Prover
from ansible_collections.hpc.compute.plugins.module_utils.driver.stack import upstream


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "package": {"type": "str", "required": True},
            "version": {"type": "str", "default": ""},
            "kernels": {"type": "list", "elements": "str", "default": []},
            "advice": {"type": "str", "default": ""},
            "state": {"type": "str", "choices": ["proven", "adopted"], "default": "proven"},
        },
        supports_check_mode=True,
    )
    given = module.params
    prover = Prover(lambda command, folder: _run(module, command, folder))
    try:
        version, proof = _adopt(module, prover) if given["state"] == "adopted" else _prove(module, prover)
    except DkmsError as error:
        module.fail_json(msg=f"{error}.{' ' if given['advice'] else ''}{given['advice']}")
    module.exit_json(
        changed=given["state"] == "proven" and (proof is not None or module.check_mode),
        version=version,
        upstream_version=version and upstream(version),
        module=proof and f"{proof.module}/{proof.module_version}",
        kernels=proof.kernels if proof else given["kernels"],
    )


def _prove(module: AnsibleModule, prover: Prover) -> tuple[str | None, Proof | None]:
    package = module.params["package"]
    try:
        version = prover.candidate(package, module.params["version"])
    except DkmsError as error:
        if not module.check_mode:
            raise
        # the source that has it may be one that is only told of in check mode
        module.warn(f"{error}, unless a source that has it is added before")
        return None, None
    if module.check_mode:
        return version, None
    if version is None:
        raise DkmsError(f"expected apt to know the package {package}, found no source that has it")
    return version, prover.prove(package, version, module.params["kernels"])


def _adopt(module: AnsibleModule, prover: Prover) -> tuple[str | None, Proof | None]:
    command = ["dpkg-query", "--show", "--showformat", "${Version}", module.params["package"]]
    done = _run(module, command, None)
    if module.check_mode:
        return done.stdout or None, None
    if done.rc != 0:
        raise DkmsError(f"expected the package {module.params['package']} to be installed, found that dpkg has none")
    return done.stdout, prover.adopt(done.stdout)


def _run(module: AnsibleModule, command: Sequence[str], folder: Path | None) -> Completed:
    try:
        return Completed(
            *module.run_command(
                list(command),
                cwd=None if folder is None else str(folder),
                environ_update={"LC_ALL": "C"},
                handle_exceptions=False,
            )
        )
    except FileNotFoundError:
        return Completed(127, "", f"there is no command {command[0]}")


if __name__ == "__main__":
    main()
