# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The machine in which an image is made: a container booted from the base system, that a playbook can log in to."""

from __future__ import annotations

from pathlib import Path

from rig import base, nspawn
from rig.node import Node
from rig.process import wait_for

from . import system

NODE = Node("image-build", "10.213.97.12")
#: First boots are for the machines that run the image, not for the one that makes it.
_NO_CLOUD_INIT = "etc/cloud/cloud-init.disabled"
#: For what writes dates into the files that it makes, such as initial file systems: all images have the same one.
_ENVIRONMENT = "etc/environment"
#: What the rig puts into any node to reach it, and nobody else needs.
_OF_THE_RIG = ("etc/systemd/network/10-rig.network", _NO_CLOUD_INIT)
_HOSTS = """\
127.0.0.1 localhost
::1 localhost ip6-localhost ip6-loopback
ff02::1 ip6-allnodes
ff02::2 ip6-allrouters
"""


def start() -> Node:
    """Boot it, fresh from the base system; whoever calls takes it down.

    :raises RigError: it did not come up.
    """
    date = f"SOURCE_DATE_EPOCH={base.DATE}\n"
    NODE.up(layers=(system.ensure(),), files={_NO_CLOUD_INIT: "", "etc/fstab": "", _ENVIRONMENT: date})
    return NODE


def halt(node: Node) -> Path:
    """Shut it down in an orderly way, remove what was the rig's own, and return its root file system.

    :raises RigError: it is still up after a minute.
    """
    node.run(["systemctl", "poweroff"], check=False)  # the connection may end before the answer
    wait_for(f"{node.name} to shut down", lambda: not nspawn.is_up(node.name), seconds=60)
    for path in _OF_THE_RIG:
        (node.root / path).unlink()
    (node.root / _ENVIRONMENT).write_text("", encoding="ascii")
    (node.root / "etc/hosts").write_text(_HOSTS, encoding="ascii")
    (node.root / "etc/.resolv.conf.systemd-resolved.bak").unlink(missing_ok=True)
    resolv = node.root / "etc/resolv.conf"
    resolv.unlink(missing_ok=True)
    resolv.symlink_to("../run/systemd/resolve/stub-resolv.conf")
    return node.root
