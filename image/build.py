# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""``./run image``: the image of a compute node without Packer and without a virtual machine.

The steps are those of the Packer template: a Debian 13, the playbook ``hpc.compute.image`` on it, a disk image. The
machine is a container, which runs at full speed where there is no hardware virtualisation.
"""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rig import environment, mounts, play
from rig.node import Node
from rig.paths import REPO, VENV
from rig.process import RigError, log_for, run
from rig.progress import heading, started, step

from . import disk, machine, manifest, system

OUTPUT = REPO / "build/image/hpc-compute.qcow2"
_LIMITS = {"M": 1, "G": 1024, "T": 1024 * 1024}


@dataclass(frozen=True)
class Wanted:
    """What the user asked for. *variables*: files for ``ansible-playbook --extra-vars @FILE``."""

    output: Path = OUTPUT
    disk_size: str = "20G"
    #: What a kernel says at every boot takes seconds at the speed of a serial port. Errors it says nevertheless.
    kernel_options: str = "quiet"
    variables: Sequence[Path] = field(default_factory=list)


def mebibytes(size: str) -> int:
    """``20G`` as MiB.

    :raises RigError: it is no size.
    """
    found = re.fullmatch(r"(\d{1,6})([MGT])", size.upper())
    if not found:
        raise RigError(f"expected a disk size such as 20G or 4096M, found {size!r}")
    return int(found[1]) * _LIMITS[found[2]]


def build(wanted: Wanted) -> None:
    """Build the image and what goes with it, beside each other in the folder of *wanted.output*.

    :raises RigError: a step failed. The files of an earlier build are left as they were then.
    """
    start = started()
    size = mebibytes(wanted.disk_size)
    for path in wanted.variables:
        if not path.is_file():
            raise RigError(f"expected a file of Ansible variables at {path}, found none")
    output = wanted.output.absolute()
    heading("This machine")
    environment.ensure()
    with step("Debian 13 with kernel and boot loader") as base:
        base.note = str(system.ensure())
    heading("The machine that becomes the image")
    with step("Boot it in a container"):
        node = machine.start()
    try:
        _play(node, wanted.variables)
        with step("Shut it down"):
            root = machine.halt(node)
        heading("The image")
        with step("Look for what must not be in it"):
            verify(root)
        with step("Write down what is in it") as listing:
            described = manifest.describe(root)
            listing.note = f"{described.packages} packages"
        with step(f"Disk of {wanted.disk_size}, for BIOS and UEFI, compressed") as writing:
            disk.prepare_root(root, wanted.kernel_options)
            disk.write(root, output, disk.Disk(size), log_for("image-disk"))
            manifest.publish(root, output)
            writing.note = f"{output.stat().st_size / 1e9:.2f} GB"
    finally:
        with step("Remove the container"):
            node.down()
    with step("Checksums"):
        manifest.checksum(output)
    print(f"\nAll of it took {time.monotonic() - start:.0f} s:")
    for path in (output, *manifest.files(output)):
        print(f"  {path}")


def base(wanted: Wanted) -> None:
    """Make the Debian 13 that an image begins with a disk image itself, as Debian's cloud image is one.

    For the Packer template, on a machine that can't reach Debian's.

    :raises RigError: a step failed.
    """
    size = mebibytes(wanted.disk_size)
    output = wanted.output.absolute()
    with step("Debian 13 with kernel and boot loader") as made:
        root = system.ensure()
        made.note = str(root)
    with step(f"Disk of {wanted.disk_size}, for BIOS and UEFI, compressed") as writing:
        output.parent.mkdir(parents=True, exist_ok=True)
        with (
            tempfile.TemporaryDirectory(dir=output.parent) as work,
            mounts.overlay((root,), Path(work, "upper"), Path(work, "overlay")) as merged,
        ):
            disk.prepare_root(merged, wanted.kernel_options)
            disk.write(merged, output, disk.Disk(size), log_for("image-disk"))
        writing.note = f"{output.stat().st_size / 1e9:.2f} GB"


def verify(root: Path) -> None:
    """Judge the image as it will be copied, with the collection's own examination.

    :raises RigError: something is wrong with it; the message has the lines that say what.
    """
    words = ["localhost", "--connection", "local", "-m", "hpc.compute.node_report", "-a", f"root={root} image=true"]
    said = run([VENV / "bin/ansible", *words], env=environment.variables()).stdout
    report = json.JSONDecoder().raw_decode(said[said.index("{") :])[0]
    if not report["good"]:
        wrong = [line for line in report["table"] if "  wrong  " in line]
        raise RigError("expected nothing wrong in the image, found:\n" + "\n".join(wrong))


def _play(node: Node, variables: Sequence[Path]) -> None:
    hosts = node.folder / "hosts.json"
    hosts.write_text(json.dumps({"all": {"hosts": {node.name: node.connection("root")}}}), encoding="utf-8")
    extra = [word for path in variables for word in ("--extra-vars", f"@{path.absolute()}")]
    log = log_for("image-playbook")
    with step("ansible-playbook hpc.compute.image") as playing:
        recap = play.playbook(["hpc.compute.image", *extra], hosts, log, playing, environment.COLLECTIONS)
        playing.note = str(recap)
    node.keep_packages()
