#!/usr/bin/python
# Copyright: The hpc.compute authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Installs Apptainer from package files; the work is done in module_utils/containers."""

from __future__ import annotations

DOCUMENTATION = r"""
module: container_runtime_package
short_description: Install Apptainer from package files, all or nothing
version_added: 0.1.0
description:
  - Fetches packages, compares their checksums, asks them what they are, has apt try it, and then installs them with
    what they depend on in one transaction. Up to that last step a failure leaves the machine as it was.
  - Another version than the one installed, newer or older, is put in its place.
author:
  - The hpc.compute authors
options:
  packages:
    description: The packages, with one of O(packages[].url), O(packages[].pool) and O(packages[].path) each.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the package.
        type: str
        required: true
      url:
        description: Where it is, with C(https), C(http) or C(file).
        type: str
        default: ""
      pool:
        description: Where it is in the Debian archive that the machine uses, V(pool/main/...).
        type: str
        default: ""
      path:
        description: A file that is on the machine.
        type: str
        default: ""
      sha256:
        description: Its SHA-256. Required unless it is a file on the machine.
        type: str
        default: ""
  version:
    description: The version that they must have, with or without a Debian revision. Empty takes what comes.
    type: str
    default: ""
  extra:
    description: Debian packages to install in the same transaction.
    type: list
    elements: str
    default: []
  absent:
    description:
      - Packages of RV(versions) to remove in the same transaction where they are installed. No other one is removed.
    type: list
    elements: str
    default: []
  temporary_directory:
    description: See M(hpc.compute.container_runtime_info).
    type: path
    default: /tmp
attributes:
  check_mode:
    description:
      - Can run in check mode. Files that would have to be fetched are not, so that a wrong one shows only in earnest.
    support: partial
  diff_mode:
    description: Tells the versions before and after.
    support: full
  platform:
    description: Target operating systems.
    support: full
    platforms: debian
seealso:
  - module: hpc.compute.container_runtime_info
"""

EXAMPLES = r"""
- name: Install a release
  hpc.compute.container_runtime_package:
    packages:
      - name: apptainer
        url: https://mirror.example.org/apptainer_1.5.4-trixie+_amd64.deb
        sha256: "{{ the_sum_of_the_release_page }}"
    version: 1.5.4
"""

RETURN = r"""
versions:
  description: Versions of C(apptainer) and C(apptainer-suid) afterwards; in check mode those of before.
  returned: success
  type: dict
  sample: {apptainer: 1.5.4, apptainer-suid: ""}
architecture:
  description: And everything else that M(hpc.compute.container_runtime_info) returns, as it is afterwards.
  returned: success
  type: str
  sample: amd64
"""

import tempfile
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.hpc.compute.plugins.module_utils.containers import install
from ansible_collections.hpc.compute.plugins.module_utils.containers.facts import gather


def main() -> None:
    """Run the module."""
    text = {"type": "str", "default": ""}
    module = AnsibleModule(
        argument_spec={
            "packages": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "name": {"type": "str", "required": True},
                    "url": text,
                    "pool": text,
                    "path": text,
                    "sha256": text,
                },
                "mutually_exclusive": [("url", "pool", "path")],
            },
            "version": text,
            "extra": {"type": "list", "elements": "str", "default": []},
            "absent": {"type": "list", "elements": "str", "default": []},
            "temporary_directory": {"type": "path", "default": "/tmp"},  # noqa: S108
        },
        supports_check_mode=True,
    )
    environment = {"LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}

    def run(command: Any) -> tuple[int, str, str]:
        code, stdout, stderr = module.run_command(list(command), environ_update=environment)
        return code, stdout, stderr

    sources = [install.Source(**one) for one in module.params["packages"]]
    try:
        before = gather(run, module.params["temporary_directory"])
        changed, wanted = _install(module, sources, before, run)
        after = gather(run, module.params["temporary_directory"]) if changed and not module.check_mode else before
    except (install.InstallError, OSError) as error:
        module.fail_json(msg=str(error))
    diff = {"before": _lines(before["versions"]), "after": _lines({**before["versions"], **wanted})}
    module.exit_json(changed=changed, diff=diff if changed else {}, **after)


def _install(
    module: AnsibleModule, sources: list[install.Source], before: dict[str, Any], run: Any
) -> tuple[bool, dict[str, str]]:
    """Whether something was changed or would be, and the versions that this makes."""
    version, installed = module.params["version"], before["versions"]
    if module.check_mode and not all(source.path and Path(source.path).exists() for source in sources):
        return True, {source.name: version or "the version of the file" for source in sources}
    updated = False

    def update() -> None:
        nonlocal updated
        if not updated:
            install.refresh(run)
        updated = True

    with tempfile.TemporaryDirectory(dir="/var/cache", prefix="hpc-compute-") as folder:
        Path(folder).chmod(0o755)  # apt reads as a user of its own
        files = []
        wanted = {}
        for source in sources:
            path = Path(source.path or f"{folder}/{source.name}.deb")
            if not source.path:
                if not install.lists_are_fresh(time.time()):
                    update()
                install.fetch(source, path, run)
            found = install.identify(str(path), run)
            where = source.url or source.pool or source.path
            try:
                install.check_identity(found, source.name, version, before["architecture"], where)
            except install.InstallError as error:
                if not module.check_mode:
                    raise
                # copied by a task that only told so: what is here is the file of an earlier run
                module.warn(f"{error} Unless another file is copied there before.")
                return True, {one.name: version or "the version of the file" for one in sources}
            files.append(str(path))
            wanted[source.name] = found.version
        if all(installed[name] == found for name, found in wanted.items()):
            return False, wanted
        if not module.check_mode:
            if not install.lists_are_fresh(time.time()):
                update()
            absent = [name for name in module.params["absent"] if installed.get(name)]
            install.install([*files, *module.params["extra"]], absent, run, update)
    return True, wanted


def _lines(versions: dict[str, str]) -> str:
    return "".join(f"{name} {version}\n" for name, version in versions.items() if version)


if __name__ == "__main__":
    main()
