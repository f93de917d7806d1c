#!/usr/bin/env python3
# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What roles cost: a first run beside plain apt-get, a second run, and a whole node with all of them.

Run it as root from the repository's root: ``PYTHONPATH=.venv/collections:tests:. .venv/bin/python bench/roles.py``.
Each run starts from a fresh node whose package cache is full; NVIDIA's and BeeGFS's packages are the tests' stand-ins.
"""

from __future__ import annotations

import argparse
import base64
import json
import re
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dcgm import repository
from integration.apptainer_packages import Releases, served
from integration.apt_repository import SignedRepository, SigningKey, serve
from integration.beegfs_packages import ManagementDaemon, make_packages
from rig import environment, inventory
from rig.apptainer import fetch
from rig.network import GATEWAY
from rig.node import Node
from rig.paths import REPO, VENV

NODE, CONTROLLER, GATE = "10.213.97.150", "10.213.97.151", "10.213.97.152"
GPUS = "4xh100-80,h100-80=1g.10gb*7,h100-80=3g.40gb*2,h100-80=3g.40gb:2g.20gb:1g.10gb*2,h100-80=7g.80gb"
LAYOUT = {
    "version": "v1",
    "mig-configs": {
        "here": [
            {"devices": [0, 1, 2, 3], "mig-enabled": False},
            {"devices": [4], "mig-enabled": True, "mig-devices": {"1g.10gb": 7}},
            {"devices": [5], "mig-enabled": True, "mig-devices": {"3g.40gb": 2}},
        ]
    },
}
_PLAY = "- hosts: all\n  become: true\n  gather_facts: false\n  roles: [hpc.compute.{role}]\n"
_SECRET = b"a secret of the bench"
_SOURCES = ("etc/apt/sources.list.d", "etc/apt/keyrings", "etc/apt/preferences.d")
_LOCAL = "/root/.ansible/collections/ansible_collections/hpc/compute"


@dataclass(frozen=True)
class Subject:
    """A role with the variables that make it do all it does. *before*: what its node has first. *files*: packages that
    are not in a repository, which plain apt-get downloads, too."""

    role: str
    variables: dict[str, Any]
    image: str = "debian"
    gpus: str | None = None
    before: Callable[[Node], None] = lambda node: None
    files: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """What a playbook came to: *tasks* that were executed, and the names of those that *changed* something."""

    seconds: float
    tasks: int
    changed: tuple[str, ...]


class Bench:
    """Everything that the nodes fetch from, and the playbooks that run on them."""

    def __init__(self, folder: Path, release: dict[str, Any], beegfs: dict[str, Any]) -> None:
        self.folder = folder
        self.container_runtime = release
        self.beegfs_client = beegfs
        self.monitoring_stack = {
            "monitoring_stack_dcgm_repository": {
                "name": "nvidia-cuda",
                "uris": ["file:/srv/nvidia"],
                "suites": ["./"],
                "trusted": True,
            },
            "monitoring_stack_dcgm_cuda": 12,
        }

    def subjects(self) -> list[Subject]:
        base_url, version = (self.container_runtime[f"container_runtime_{name}"] for name in ("base_url", "version"))
        url = f"{base_url}/v{version}/apptainer_{version}-trixie+_amd64.deb"
        return [
            Subject("container_runtime", self.container_runtime, files={"apptainer": url}),
            Subject("beegfs_client", self.beegfs_client, image="kernels"),
            Subject("monitoring_stack", self.monitoring_stack, gpus=GPUS, before=_nvidia),
        ]

    def play(self, hosts: Path, playbook: str, variables: dict[str, Any]) -> Run:
        values = self.folder / "values.json"
        values.write_text(json.dumps(variables))
        begin = time.monotonic()
        done = subprocess.run(
            [VENV / "bin/ansible-playbook", "-i", hosts, playbook, "-e", f"@{values}"],
            env=environment.variables(),
            cwd=REPO,
            capture_output=True,
            text=True,
        )
        return _read(done.stdout + done.stderr, time.monotonic() - begin)

    def role(self, node: Node, subject: Subject) -> Run:
        hosts = self.folder / "hosts.json"
        hosts.write_text(json.dumps({"all": {"hosts": {node.name: node.connection()}}}))
        playbook = self.folder / f"{subject.role}.yml"
        playbook.write_text(_PLAY.format(role=subject.role))
        return self.play(hosts, str(playbook), subject.variables)


def _read(text: str, seconds: float) -> Run:
    found = re.search(r"ok=(\d+) +changed=(\d+) +unreachable=0 +failed=0", text)
    if not found:
        raise SystemExit(text)
    changed = re.findall(r"(?m)^TASK \[([^]]*)\] \*+\n(?:(?!TASK ).*\n)*?changed: ", text)
    if len(changed) != int(found[2]):
        raise SystemExit(f"expected the names of {found[2]} changed tasks, found {changed}\n{text}")
    return Run(seconds, int(found[1]), tuple(changed))


def _nvidia(node: Node) -> None:
    """The stand-ins for DCGM read the emulated driver through pynvml, which the real ones do not."""
    repository.build(node.root / "srv/nvidia")
    sources = node.root / "etc/apt/sources.list.d/debian.sources"
    text = sources.read_text()
    sources.write_text(text.replace("Components: main\n", "Components: main contrib\n"))
    script = "cd /tmp; apt-get -qq update; apt-get -qq download python3-pynvml; dpkg -x python3-pynvml_*.deb /"
    node.run(["sh", "-ec", f"{script}; rm -r /var/lib/apt/lists/*"])
    sources.write_text(text)


def _packages(node: Node) -> dict[str, str]:
    shown = node.run(["dpkg-query", "--show", "--showformat", "${db:Status-Status} ${Package} ${Version}\n"]).stdout
    return dict(re.findall(r"(?m)^installed (\S+) (\S+)$", shown))


@contextmanager
def booted(subject: Subject) -> Iterator[Node]:
    node = Node("bench-role", NODE, image=subject.image)
    try:
        node.up(gpus=subject.gpus)
        subject.before(node)
        yield node
    finally:
        node.down()


def plain(subject: Subject, sources: dict[str, bytes], names: list[str]) -> float:
    """Seconds that apt-get takes for *names*, with the same sources on the same machine."""
    fetched = [f"/root/{name}.deb" for name in subject.files]
    words = [f"/usr/lib/apt/apt-helper download-file '{url}' /root/{name}.deb" for name, url in subject.files.items()]
    names = sorted(set(names) - set(subject.files))
    apt = "DEBIAN_FRONTEND=noninteractive apt-get -qq -y"
    script = "\n".join(
        ["set -e", *words, f"{apt} update", f"{apt} --no-install-recommends install {' '.join([*names, *fetched])}"]
    )
    with booted(subject) as node:
        for path, content in sources.items():
            (node.root / path).parent.mkdir(parents=True, exist_ok=True)
            (node.root / path).write_bytes(content)
        begin = time.monotonic()
        node.run(["sh", "-c", script], timeout=900)
        return time.monotonic() - begin


def compare(bench: Bench, subject: Subject, rounds: int) -> None:
    """Print the figures of one role; the first of its runs fills the package cache."""
    with booted(subject) as node:
        before = _packages(node)
        bench.role(node, subject)
        names = [name for name, version in _packages(node).items() if before.get(name) != version]
        sources = {
            str(path.relative_to(node.root)): path.read_bytes()
            for folder in _SOURCES
            for path in (node.root / folder).glob("*")
        }
    apt, first, second = [], [], []
    for _ in range(rounds):
        apt.append(plain(subject, sources, names))
        with booted(subject) as node:
            first.append(bench.role(node, subject))
            second += [bench.role(node, subject) for _ in range(2)]
    ratio = statistics.median(run.seconds for run in first) / statistics.median(apt)
    print(
        f"{subject.role}: {len(names)} packages, apt-get {statistics.median(apt):.1f} s, first run "
        f"{statistics.median(run.seconds for run in first):.1f} s ({ratio:.2f} x); second run "
        f"{statistics.median(run.seconds for run in second):.1f} s (best {min(run.seconds for run in second):.1f} s), "
        f"{second[-1].tasks} tasks, {_changed(second)}",
        flush=True,
    )


def whole_node(bench: Bench) -> None:
    """Print the figures of a node with all roles, over SSH and, with Ansible on the node, over the local connection."""
    controller, node = Node("bench-ctl", CONTROLLER, image="controller"), Node("bench-all", NODE, image="kernels")
    variables = {
        **bench.container_runtime,
        **bench.beegfs_client,
        **bench.monitoring_stack,
        "monitoring_stack_enabled": True,
        "gpu_layout_config": LAYOUT,
        "slurm_compute_node_addr": NODE,
    }
    try:
        controller.up()
        node.up(gpus=GPUS)
        _nvidia(node)
        hosts = inventory.write(bench.folder / "cluster", controller, [node])
        over_ssh = [bench.play(hosts, "hpc.compute.node", {**variables, "hpc_hosts": "compute"}) for _ in range(4)]
        _print("all roles over SSH", over_ssh)
        _print("all roles over the local connection", _locally(node, hosts, variables))
    finally:
        node.down()
        controller.down()


def _changed(runs: list[Run]) -> str:
    return "; ".join(f"run {at} changed {', '.join(run.changed)}" for at, run in enumerate(runs, 2) if run.changed) or (
        "0 changed"
    )


def _print(what: str, runs: list[Run]) -> None:
    """The first is apart: over SSH it installs, and locally it reads what the others find in memory."""
    again = runs[1:]
    print(
        f"{what}: first run {runs[0].seconds:.1f} s, {runs[0].tasks} tasks; then "
        f"{statistics.median(run.seconds for run in again):.1f} s, {again[-1].tasks} tasks, "
        f"{_changed(again)}",
        flush=True,
    )


def _locally(node: Node, hosts: Path, variables: dict[str, Any]) -> list[Run]:
    """With Debian's Ansible and the collection on the node itself, which has the roles already."""
    node.run(["sh", "-c", "DEBIAN_FRONTEND=noninteractive apt-get -qq -y install ansible-core"], timeout=600)
    for name in ("plugins", "roles", "playbooks", "meta", "galaxy.yml"):
        node.run(["mkdir", "-p", _LOCAL])
        subprocess.run(["cp", "-a", REPO / name, node.root / _LOCAL.removeprefix("/")], check=True)
    groups = json.loads(hosts.read_text())["all"]["children"]["compute"]
    given = {**groups["vars"], **_compute_variables(), **variables, "hpc_hosts": node.name}
    given["ansible_connection"] = "local"
    (node.root / "root/hosts.json").write_text(json.dumps({"all": {"hosts": {node.name: given}}}))
    # as over SSH: what a role's own vars hold is changed by nothing less
    (node.root / "root/values.json").write_text(json.dumps(variables))
    command = ["ansible-playbook", "-i", "/root/hosts.json", "hpc.compute.node", "-e", "@/root/values.json"]
    runs = []
    for _ in range(4):
        begin = time.monotonic()
        done = node.run(command, check=False)
        runs.append(_read(done.stdout + done.stderr, time.monotonic() - begin))
    return runs


def _compute_variables() -> dict[str, Any]:
    import yaml

    found: dict[str, Any] = yaml.safe_load((REPO / "tests/rig/group_vars/compute.yml").read_text())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("roles", nargs="*", help="those to measure, and 'all' for the whole node; everything if none")
    parser.add_argument("--rounds", type=int, default=3, help="first runs, of which the median counts (default: 3)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-roles-") as name, _offered(Path(name)) as bench:
        for subject in bench.subjects():
            if not options.roles or subject.role in options.roles:
                compare(bench, subject, options.rounds)
        if not options.roles or "all" in options.roles:
            whole_node(bench)


@contextmanager
def _offered(folder: Path) -> Iterator[Bench]:
    """Apptainer's release, BeeGFS's repository and its management daemon, where nodes can reach them."""
    key = SigningKey.make(folder / "key")
    tree = SignedRepository(folder / "tree", key, components=["non-free"])
    tree.publish({"non-free": make_packages(folder / "debs", "8.3.1")})
    (folder / "releases").mkdir()
    gate = Node("bench-gate", GATE)
    try:
        # up to the end: the network on which everything is offered goes with the last node
        gate.up()
        releases = Releases(folder / "releases", fetch(gate))
        with _serving(folder, releases, tree.folder, key) as bench:
            yield bench
    finally:
        gate.down()


@contextmanager
def _serving(folder: Path, releases: Releases, tree: Path, key: SigningKey) -> Iterator[Bench]:
    checksum = releases.add("1.5.4")
    with served(releases.folder) as release, serve(tree) as url, ManagementDaemon().serving() as daemon:
        daemon.secret = _SECRET
        yield Bench(
            folder,
            {
                "container_runtime_source": "release",
                "container_runtime_version": "1.5.4",
                "container_runtime_base_url": release,
                "container_runtime_sha256": checksum,
                "container_runtime_packages_extra": [
                    "fakeroot",
                    "fuse-overlayfs",
                    "fuse2fs",
                    "gocryptfs",
                    "squashfuse",
                ],
            },
            {
                "__beegfs_client_fstypes": ["tmpfs"],
                "beegfs_client_repository_url": url,
                "beegfs_client_repository_key": key.public,
                "beegfs_client_conn_auth": base64.b64encode(_SECRET).decode(),
                "beegfs_client_mounts": [
                    {"path": "/mnt/beegfs", "mgmtd_host": GATEWAY, "mgmtd_port": daemon.port},
                ],
            },
        )


if __name__ == "__main__":
    main()
