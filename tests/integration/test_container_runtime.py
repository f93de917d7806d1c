# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role container_runtime with real Apptainer: what it refuses, versions up and down, containers with GPUs, jobs."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.hpc.compute.plugins.module_utils.containers.apptainer_conf import DIRECTIVES, known
from integration.apptainer_packages import Releases, registry, repository, served, version_of
from integration.lone_cluster import REPO, LoneCluster, tasks_of, uuid_of
from integration.package_runs import kill_during_installation, transactions
from rig.apptainer import fetch
from rig.node import Node

_VENV = REPO / ".venv"
_PLAY = """\
- hosts: all
  become: true
  gather_facts: false
  roles: [hpc.compute.container_runtime]
"""
_GPUS = "h100-80=1g.10gb*3:2g.20gb,h100-80"
_GRES = "gpu:nvidia_h100_80gb_hbm3:1,gpu:nvidia_h100_80gb_hbm3_1g.10gb:3,gpu:nvidia_h100_80gb_hbm3_2g.20gb:1"
#: A few commands of busybox, and room for the node's own /usr, which the tests bind where they need its Python.
_ROOT_FILES = """\
apt-get -qq -y --no-install-recommends install busybox-static
root=/opt/rootfs; mkdir -p $root
cd $root; mkdir -p bin etc tmp dev proc sys usr var/tmp home opt run
cp /bin/busybox $root/bin/
for one in sh ls cat echo id env true touch grep sleep readlink; do ln -sf busybox $root/bin/$one; done
ln -sfn usr/lib $root/lib; ln -sfn usr/lib64 $root/lib64
echo root:x:0:0:root:/root:/bin/sh > $root/etc/passwd; echo root:x:0: > $root/etc/group
touch $root/etc/resolv.conf $root/etc/localtime $root/etc/hosts
"""
_NVML = (
    "import os, pynvml as n; n.nvmlInit(); h = n.nvmlDeviceGetHandleByUUID(os.environ['CUDA_VISIBLE_DEVICES']); "
    "print(n.nvmlDeviceGetUUID(h))"
)


@dataclass
class Done:
    """What a run of the role came to."""

    recap: dict[str, int]
    said: str
    seconds: float

    @property
    def errors(self) -> list[str]:
        return re.findall(r"(?m)^(?:fatal|failed): .*", self.said)


class Machine:
    """A node with Slurm and emulated GPUs, on which the role runs."""

    def __init__(self, cluster: LoneCluster, folder: Path) -> None:
        self.cluster, self.node, self._folder = cluster, cluster.node, folder

    def role(self, *words: str, **variables: Any) -> Done:
        return play(self.node, self._folder, variables, *words)

    def good(self, **variables: Any) -> Done:
        done = self.role(**variables)
        assert (done.recap["failed"], done.recap["unreachable"]) == (0, 0), done.said
        return done

    def versions(self) -> dict[str, str]:
        """Everything of Apptainer that dpkg knows of, in whatever state."""
        listed = self.node.run(["dpkg-query", "-W", "-f", "${Package} ${Version} ${db:Status-Status}\n"]).stdout
        found = (line.split() for line in listed.splitlines() if line.startswith("apptainer"))
        return {name: version for name, version, state in found if state == "installed"}

    def user(self, script: str, check: bool = True) -> str:
        """Run a shell script as an ordinary user at home; what it said."""
        words = f"cd /home/user; timeout 100 runuser -u user -- sh -ec {shlex.quote(script)} 2>&1"
        done = self.node.run(["sh", "-c", words], check=False)
        assert not check or done.returncode == 0, (script, done.stdout, done.stderr)
        return done.stdout if done.returncode == 0 or not check else ""

    def refused(self, script: str) -> str:
        words = f"cd /home/user; timeout 100 runuser -u user -- sh -ec {shlex.quote(script)} 2>&1"
        done = self.node.run(["sh", "-c", words], check=False)
        assert done.returncode != 0, (script, done.stdout)
        return done.stdout


def prepare(node: Node, folder: Path, variables: dict[str, Any]) -> tuple[list[str | Path], dict[str, str]]:
    """The command that runs the role, and its environment."""
    inventory, playbook = folder / "hosts.json", folder / "play.yml"
    inventory.write_text(json.dumps({"all": {"hosts": {node.name: {**node.connection(), **variables}}}}))
    playbook.write_text(_PLAY)
    environment = {
        **os.environ,
        "ANSIBLE_COLLECTIONS_PATH": str(_VENV / "collections"),
        "ANSIBLE_CONFIG": str(REPO / "tests/rig/ansible.cfg"),
        "ANSIBLE_NOCOLOR": "1",
    }
    return [_VENV / "bin/ansible-playbook", "-i", inventory, playbook], environment


def play(node: Node, folder: Path, variables: dict[str, Any], *words: str) -> Done:
    command, environment = prepare(node, folder, variables)
    before = time.monotonic()
    done = subprocess.run([*command, *words], env=environment, capture_output=True, text=True, timeout=300)
    seconds = time.monotonic() - before
    recap = {key: int(value) for key, value in re.findall(r"(ok|changed|failed|unreachable)=(\d+)", done.stdout)}
    assert recap, done.stdout + done.stderr
    return Done(recap, done.stdout + done.stderr, seconds)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    cluster = LoneCluster("it-runtime", "10.213.97.70")
    try:
        cluster.up()
        # udev makes it where the kernel's module can be asked for; a node's /dev is the rig's
        cluster.run(f"test -e /dev/fuse || mknod -m 666 /dev/fuse c 10 229\n{_ROOT_FILES}")
        yield Machine(cluster, tmp_path_factory.mktemp("runtime"))
    finally:
        cluster.down()


@pytest.fixture(scope="module")
def original(machine: Machine) -> Path:
    """The real package."""
    return fetch(machine.node)


@pytest.fixture(scope="module")
def commands() -> list[str]:
    """Every command of the guide for users."""
    text = (REPO / "docs/gpu_containers.md").read_text()
    blocks = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    return [line.removeprefix("$ ") for block in blocks for line in block.splitlines()]


@pytest.fixture(scope="module")
def sums(releases: Releases) -> dict[str, str]:
    return {
        "1.4.2": releases.add("1.4.2"),
        "1.5.4": releases.add("1.5.4"),
        "setuid": releases.add_setuid("1.5.4"),
        # as the generic package of a release, which is built for an older Debian
        "generic": releases.add("1.5.3", depends="libfuse3-3 (>= 3.2.3)", kind=""),
    }


@pytest.fixture(scope="module")
def releases(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Releases:
    return Releases(tmp_path_factory.mktemp("releases"), original)


@pytest.fixture(scope="module")
def url(releases: Releases) -> Iterator[str]:
    with served(releases.folder) as base:
        yield base


@pytest.fixture(scope="module")
def release(url: str, sums: dict[str, str]) -> dict[str, Any]:
    """The variables for the newest release."""
    return {
        "container_runtime_source": "release",
        "container_runtime_base_url": url,
        "container_runtime_sha256": sums["1.5.4"],
    }


def test_bad_arguments_are_told_at_once_and_change_nothing(machine: Machine) -> None:
    done = machine.role(
        container_runtime_source="release",
        container_runtime_version="latest",
        container_runtime_base_url="ftp://example.org",
        container_runtime_conf={"allow suid": False, "max loop devices": "many", "allow setuid": True},
        container_runtime_ecl=[{"tag": "a", "directory": "/srv/", "fingerprints": ["12"]}],
        container_runtime_registries=[{"prefix": "https://docker.io"}],
        container_runtime_directory="var/tmp",
    )
    assert done.recap["failed"] == 1, done.said
    assert len(done.errors) == 1, done.errors
    for part in (
        "a newest or latest one changes",
        "container_runtime_sha256 must have the 64",
        "begins with https://",
        "'allow setuid', for which there is container_runtime_setuid",
        "without a slash at its end",
        "40 hexadecimal digits",
        "host, port and path",
        "container_runtime_directory is an absolute path",
    ):
        assert part in done.said, part
    done = machine.role(
        container_runtime_source="debian",
        container_runtime_setuid=True,
        container_runtime_conf={"allow suid": False, "max loop devices": "many"},
        container_runtime_ecl=[{"tag": "a", "directory": "/srv", "fingerprints": ["A" * 40]}],
    )
    for part in (
        "did you mean 'allow setuid'?",
        "'max loop devices' a number",
        "Debian has no package apptainer-suid",
        "none for AAAA",
    ):
        assert part in done.said, part
    assert not (machine.node.root / "etc/apptainer").exists()
    assert machine.versions() == {}


def test_a_first_check_tells_what_would_happen(machine: Machine, release: dict[str, Any]) -> None:
    done = machine.role("--check", "--diff", **release)
    assert done.recap["failed"] == 0, done.said
    assert "+apptainer 1.5.4" in done.said
    assert "/etc/apptainer/apptainer.conf" in done.said
    assert machine.versions() == {}
    assert not (machine.node.root / "usr/local/bin/apptainer").exists()


def test_what_can_not_be_had_leaves_nothing_half_installed(
    machine: Machine, release: dict[str, Any], url: str, sums: dict[str, str]
) -> None:
    wrong_sum = {**release, "container_runtime_sha256": sums["1.4.2"]}
    nowhere = {**release, "container_runtime_base_url": "http://10.213.97.1:9"}
    other = {**release, "container_runtime_url": f"{url}/v1.4.2/apptainer_1.4.2-trixie+_amd64.deb"}
    other["container_runtime_sha256"] = sums["1.4.2"]
    generic = {
        **release,
        "container_runtime_version": "1.5.3",
        "container_runtime_url": f"{url}/v1.5.3/apptainer_1.5.3_amd64.deb",
        "container_runtime_sha256": sums["generic"],
    }
    for variables, part in (
        (wrong_sum, "Hash Sum mismatch, received"),
        (nowhere, "connect"),
        (other, "found apptainer 1.4.2 for amd64"),
        (generic, "libfuse3-3"),
    ):
        done = machine.role(**variables)
        assert done.recap["failed"] == 1, done.said
        assert done.recap["changed"] == 0, done.said
        assert len(done.errors) == 1, done.said
        assert part in done.errors[0], done.errors
        assert "Nothing was changed" in done.errors[0], done.errors
    assert machine.versions() == {}
    assert not list((machine.node.root / "var/cache").glob("hpc-compute*"))


def test_versions_up_and_down(machine: Machine, release: dict[str, Any], sums: dict[str, str]) -> None:
    old = {**release, "container_runtime_version": "1.4.2", "container_runtime_sha256": sums["1.4.2"]}
    done = machine.good(**old)
    assert machine.versions() == {"apptainer": "1.4.2"}
    assert "CVE-2025-65105" in done.said
    again = machine.good(**old)
    assert again.recap["changed"] == 0, again.said
    print(f"first run {done.seconds:.1f} s, second {again.seconds:.1f} s")

    setuid = {**release, "container_runtime_setuid": True, "container_runtime_setuid_sha256": sums["setuid"]}
    done = machine.good(**setuid)
    assert machine.versions() == {"apptainer": "1.5.4", "apptainer-suid": "1.5.4"}
    assert "CVE" not in done.said
    get = "apptainer config global --get 'allow setuid'"
    assert machine.node.run(["sh", "-c", get]).stdout.strip() == "yes"

    # down again, without the setuid package, which depends on the newer version; not before the other can be had
    done = machine.role(**{**old, "container_runtime_sha256": sums["1.5.4"]})
    assert "Nothing was changed" in done.errors[0], done.said
    assert machine.versions() == {"apptainer": "1.5.4", "apptainer-suid": "1.5.4"}
    before = transactions(machine.node)
    machine.good(**old)
    assert len(transactions(machine.node)) == len(before) + 1, transactions(machine.node)
    assert machine.versions() == {"apptainer": "1.4.2"}
    assert machine.node.run(["sh", "-c", get]).stdout.strip() == "no"


def test_a_killed_installation(machine: Machine, release: dict[str, Any], tmp_path: Path) -> None:
    """Everything is killed with Apptainer half-unpacked, as when a machine loses power; the next run ends well."""
    machine.node.run(["apt-get", "-qq", "-y", "purge", "apptainer"])
    command, environment = prepare(machine.node, tmp_path, release)
    kill_during_installation(machine.node, command, environment, "apptainer", "half-installed")
    assert machine.node.run(["dpkg", "--audit"]).stdout != ""
    assert machine.versions() == {}
    machine.good(**release)
    assert machine.versions() == {"apptainer": "1.5.4"}
    assert machine.node.run(["dpkg", "--audit"]).stdout == ""
    assert not list((machine.node.root / "var/cache").glob("hpc-compute*"))
    again = machine.good(**release)
    assert again.recap["changed"] == 0, again.said


def test_a_package_file(machine: Machine, original: Path) -> None:
    variables = {
        "container_runtime_source": "deb",
        "container_runtime_deb": str(original),
        # which the project's own packages bring along
        "container_runtime_packages_extra": ["fakeroot", "fuse-overlayfs", "fuse2fs", "gocryptfs", "squashfuse"],
        "container_runtime_conf": {"max loop devices": 8, "mount hostfs": False, "bind path": ["/etc/localtime"]},
    }
    machine.good(**variables)
    assert machine.versions() == {"apptainer": version_of(original)}
    conf = (machine.node.root / "etc/apptainer/apptainer.conf").read_text()
    assert conf.splitlines()[1:5] == [
        "allow setuid = no",
        "max loop devices = 8",
        "mount hostfs = no",
        "bind path = /etc/localtime",
    ]
    again = machine.role("--check", **variables)
    assert (again.recap["failed"], again.recap["changed"]) == (0, 0), again.said


def test_the_table_of_directives_is_apptainers(machine: Machine) -> None:
    """Real Apptainer knows every directive that the table says it knows, and none that is younger."""
    version = machine.node.run(["apptainer", "version"]).stdout.strip()
    numbers = tuple(int(part) for part in version.split(".")[:3])
    assert len(numbers) == 3
    ask = 'while read -r name; do apptainer config global --get "$name" >/dev/null 2>&1 && echo "$name"; done; true'
    found = machine.node.run(["sh", "-c", ask], stdin="\n".join([*DIRECTIVES, "allow suid", ""])).stdout.splitlines()
    assert found == list(known((numbers[0], numbers[1], numbers[2])))


def test_apptainer_reads_a_file_before_it_is_put_in_place(machine: Machine, original: Path) -> None:
    conf = machine.node.root / "etc/apptainer/apptainer.conf"
    before = conf.read_text()
    # the table knows no upper limit
    done = machine.role(**_deb(original), container_runtime_conf={"max loop devices": 10**20})
    assert done.recap["failed"] == 1, done.said
    assert "couldn't parse configuration file" in done.said, done.said
    assert conf.read_text() == before


def test_a_user_builds_and_runs_a_container(machine: Machine, commands: list[str]) -> None:
    definition = "Bootstrap: localimage\nFrom: base.sif\n%post\n  id -u > /made-as\n%runscript\n  exec cat /made-as\n"
    machine.cluster.write({"/home/user/mine.def": definition})
    said = machine.user(
        "apptainer build base.sif /opt/rootfs; apptainer build mine.sif mine.def; apptainer run mine.sif"
    )
    # root in the build, by a user namespace; the user itself in the run
    assert said.splitlines()[-1] == "0", said
    assert machine.user("apptainer exec base.sif id -u").splitlines()[-1] == "1001"
    # mounted, not unpacked
    assert "temporary sandbox" not in said
    assert machine.user("apptainer exec --contain base.sif ls /dev").find("nvidia") == -1
    # the guide's
    machine.user("rm base.sif mine.sif mine.def")
    outside = [command for command in commands if not command.startswith("srun")]
    assert len(outside) > 4
    assert machine.user("; ".join(outside))


def test_temporary_files_are_on_disk_and_the_users_own(machine: Machine) -> None:
    own = machine.user("id -u").strip()
    show = "printenv APPTAINER_TMPDIR"
    fake = "/usr/bin/apptainer"
    run = machine.node.run
    run(["sh", "-c", f"mv {fake} {fake}.real; printf '#!/bin/sh\n{show} || echo none\n' > {fake}; chmod 755 {fake}"])
    try:
        assert machine.user("apptainer").strip() == f"/var/tmp/apptainer/{own}"
        # what Slurm sets in every job
        assert machine.user("TMPDIR=/tmp apptainer").strip() == f"/var/tmp/apptainer/{own}"
        assert machine.user("TMPDIR=/scratch apptainer").strip() == "none"
        assert machine.user("APPTAINER_TMPDIR=/scratch apptainer").strip() == "/scratch"
        mode = run(["stat", "-c", "%a %U", f"/var/tmp/apptainer/{own}"]).stdout.split()
        assert mode == ["700", "user"]
        # somebody else was there first
        run(["chown", "nobody", f"/var/tmp/apptainer/{own}"])
        assert "belongs to somebody else" in machine.user("apptainer")
        run(["rm", "-r", f"/var/tmp/apptainer/{own}"])
        run(["ln", "-s", "/home/user", f"/var/tmp/apptainer/{own}"])
        assert "belongs to somebody else" in machine.user("apptainer")
    finally:
        run(["sh", "-c", f"mv {fake}.real {fake}; rm -rf /var/tmp/apptainer/{own}"])
    # unused for long, they go
    old = f"/var/tmp/apptainer/{own}/build-temp-1"
    run(["sh", "-c", f"install -d -o user /var/tmp/apptainer/{own}; touch -d '3 weeks ago' {old}"])
    age = "sed -i 's/10d$/0/' /etc/tmpfiles.d/hpc-compute-apptainer.conf"
    run(["sh", "-c", f"{age}; systemd-tmpfiles --clean /etc/tmpfiles.d/hpc-compute-apptainer.conf"])
    assert run(["test", "-e", old], check=False).returncode != 0


def test_gpus_in_a_container(machine: Machine) -> None:
    machine.cluster.use_gpus(_GPUS)
    slices = [device for device in machine.cluster.devices() if device.uuid and device.uuid.startswith("MIG-")]
    assert len(slices) == 4
    inside = "apptainer exec --nv --contain base.sif ls /dev /dev/nvidia-caps"
    seen = set(machine.user(inside).split())
    assert {"nvidia0", "nvidia1", "nvidiactl"} <= seen
    assert {Path(file).name for device in slices for file in device.files} <= seen
    # real pynvml, with the library that --nv brought; without --nv there is none
    uuid = slices[0].uuid
    ask = f'--bind /usr --bind /run/emulated-gpu base.sif /usr/bin/python3 -c "{_NVML}"'
    assert machine.user(f"CUDA_VISIBLE_DEVICES={uuid} apptainer exec --nv {ask}").splitlines()[-1] == uuid
    assert "LibraryNotFound" in machine.refused(f"CUDA_VISIBLE_DEVICES={uuid} apptainer exec {ask}")
    # what --cleanenv drops, and how to keep it
    print_it = "base.sif env | grep CUDA_VISIBLE_DEVICES"
    machine.refused(f"CUDA_VISIBLE_DEVICES={uuid} apptainer exec --nv --cleanenv {print_it}")
    kept = f"APPTAINERENV_CUDA_VISIBLE_DEVICES={uuid} apptainer exec --nv --cleanenv {print_it}"
    assert machine.user(kept).splitlines()[-1] == f"CUDA_VISIBLE_DEVICES={uuid}"


def test_libraries_of_a_driver_younger_than_the_list(machine: Machine, original: Path) -> None:
    """Stand-ins with a driver's names: empty libraries, as ldconfig wants them."""
    names = ["libcuda.so.1", "libnvidia-ptxjitcompiler.so.1", "libnvidia-invented.so.1"]
    folder = machine.node.root / "usr/local/lib"
    for name in names:
        file = f"{name[:-2]}.999.1"
        command: list[str | Path] = [
            "gcc",
            "-shared",
            "-nostdlib",
            "-x",
            "c",
            "/dev/null",
            f"-Wl,-soname,{name}",
            "-o",
            folder / file,
        ]
        subprocess.run(command, check=True)
    machine.node.run(["ldconfig"])
    assert "libnvidia-invented" not in machine.user("apptainer exec --nv base.sif ls /.singularity.d/libs")
    done = machine.good(**_deb(original), container_runtime_nvliblist_extra=["libz.so"])
    assert "CUDA: the NVIDIA driver 999.1 is installed without" in done.said
    assert "libnvidia-ml.so" in done.said
    found = machine.user("apptainer exec --nv base.sif ls /.singularity.d/libs")
    assert "libnvidia-invented.so.1" in found
    assert "libz.so.1" in found
    assert machine.good(**_deb(original), container_runtime_nvliblist_extra=["libz.so"]).recap["changed"] == 0
    # the driver is gone, and so is what it needed
    for name in names:
        (folder / name).unlink()
        (folder / f"{name[:-2]}.999.1").unlink()
    machine.node.run(["ldconfig"])
    machine.good(**_deb(original))
    assert "hpc.compute" not in (machine.node.root / "etc/apptainer/nvliblist.conf").read_text()


def test_in_a_job(machine: Machine, commands: list[str]) -> None:
    """The slice that Slurm gave is the one that the program in the container has."""
    cluster = machine.cluster
    limited = cluster.limit_devices(True)
    try:
        cluster.configure(_GRES, "AutoDetect=nvml\n")
        assert cluster.state() == "idle", cluster.reason()
        container = "apptainer exec --nv --bind /usr --bind /opt ~/base.sif /usr/bin/python3 /opt/probe.py"
        options = ["--gres=gpu:nvidia_h100_80gb_hbm3_1g.10gb:1", "--ntasks=1"]
        script = f"#!/bin/sh\n{container}\n"
        (task,) = tasks_of("\n".join(line for line in cluster.batch(script, *options).splitlines() if line[0] == "{"))
        (uuid,) = task.visible
        assert uuid.startswith("MIG-")
        inside = [command for command in commands if command.startswith("srun")]
        assert len(inside) > 1
        for command in inside:
            assert re.search(r"(?m)^(CUDA_VISIBLE_DEVICES=)?(MIG-|GPU-|\d)", machine.user(command)), command
        if limited:
            assert uuid_of(cluster.devices(), task.files) == (uuid,)
        else:
            print("no device controller here: that a container sees no other device's files is not shown")
    finally:
        cluster.limit_devices(False)


def test_images_that_somebody_must_have_signed(machine: Machine, original: Path) -> None:
    make_key = (
        "apptainer key newpair --name Site --email site@example.org --comment x --password '' --push=false"
        " --bit-length 2048; echo 0 | apptainer key export --armor key.asc;"
        "cp base.sif signed.sif; apptainer sign signed.sif; cat key.asc"
    )
    said = machine.user(make_key)
    key = said[said.index("-----BEGIN") :]
    fingerprint = re.findall(r"\b[0-9A-F]{40}\b", machine.user("apptainer key list"))[0]
    policy = {
        **_deb(original),
        "container_runtime_ecl": [{"tag": "site", "directory": "/srv/images", "fingerprints": [fingerprint]}],
        "container_runtime_ecl_keys": [key],
    }
    machine.cluster.run("install -d /srv/images; cp /home/user/base.sif /home/user/signed.sif /srv/images")

    # a policy whose key is another one would refuse every image
    wrong = {**policy, "container_runtime_ecl": [{**policy["container_runtime_ecl"][0], "fingerprints": ["A" * 40]}]}
    done = machine.role(**wrong)
    assert done.recap["failed"] == 1, done.said
    assert f"found none for {'A' * 40}" in done.said
    machine.user("apptainer exec /srv/images/base.sif true")

    done = machine.good(**policy)
    assert "guards against mistakes" in done.said
    machine.user("apptainer exec /srv/images/signed.sif true")
    assert "image signature not valid" in machine.refused("apptainer exec /srv/images/base.sif true")
    assert "not part of any execgroup" in machine.refused("apptainer exec signed.sif true")
    assert machine.good(**policy).recap["changed"] == 0


def test_a_mirror_of_a_registry(machine: Machine, original: Path) -> None:
    busybox = (machine.node.root / "bin/busybox").read_bytes()
    pull = "rm -f pulled.sif; apptainer pull --disable-cache pulled.sif docker://registry.example.org/site/tools:latest"
    with registry(busybox) as (place, asked):
        entry = {"prefix": "registry.example.org", "mirrors": [{"location": place, "insecure": True}]}
        variables = {**_deb(original), "container_runtime_registries": [entry]}
        machine.good(**variables)
        machine.user(pull)
        assert any("/v2/site/tools/manifests/latest" in path for path in asked)
        assert (
            machine.user("apptainer exec pulled.sif sh -c 'read one < /made-by-mirror; echo $one'").splitlines()[-1]
            == "yes"
        )
        variables["container_runtime_registries"] = [{"prefix": "registry.example.org", "blocked": True}]
        machine.good(**variables)
        assert "blocked" in machine.refused(pull)


def test_a_repository(machine: Machine, releases: Releases, release: dict[str, Any], sums: dict[str, str]) -> None:
    setuid = {"container_runtime_setuid": True, "container_runtime_setuid_sha256": sums["setuid"]}
    machine.good(**release, **setuid)
    before = machine.versions()
    assert len(before) == 2
    repository(machine.node.root / "srv/apt", releases.folder / "v1.4.2/apptainer_1.4.2-trixie+_amd64.deb")
    site: dict[str, Any] = {"name": "site", "uris": ["file:/srv/apt"], "suites": ["./"], "trusted": True}
    variables = {
        "container_runtime_source": "apt",
        "container_runtime_version": "1.4.2",
        "container_runtime_repositories": [site],
        "container_runtime_hold": True,
    }
    for wrong, part in (
        ({"uris": ["http://10.213.97.1:9/apt"]}, "10.213.97.1"),
        ({"trusted": False}, "key"),
    ):
        done = machine.role(**{**variables, "container_runtime_repositories": [{**site, **wrong}]})
        assert (done.recap["failed"], done.recap["changed"]) == (1, 0), done.said
        assert len(done.errors) == 1, done.said
        assert part in done.errors[0], done.said
        assert machine.versions() == before
        assert not list((machine.node.root / "etc/apt/sources.list.d").glob("*site*"))
    machine.good(**variables)
    assert machine.versions() == {"apptainer": "1.4.2"}
    assert machine.node.run(["apt-mark", "showhold"]).stdout.split() == ["apptainer"]
    # and what earlier runs wrote, and this one does not want
    assert not (machine.node.root / "etc/containers/registries.conf.d/hpc-compute.conf").exists()
    assert "activated = false" in (machine.node.root / "etc/apptainer/ecl.toml").read_text()
    again = machine.good(**variables)
    assert again.recap["changed"] == 0, again.said


def test_without_user_namespaces(machine: Machine, original: Path) -> None:
    """The setting is the host's, so the trial itself is made to fail: a shell script in its place."""
    unshare = machine.node.root / "usr/local/bin/unshare"
    unshare.write_text("#!/bin/sh\necho unshare failed: Operation not permitted >&2\nexit 1\n")
    unshare.chmod(0o755)
    try:
        done = machine.role(**_deb(original))
        assert done.recap["failed"] == 1, done.said
        assert "Ordinary users can't run containers on this machine" in done.said
    finally:
        unshare.unlink()


def _deb(original: Path) -> dict[str, Any]:
    return {"container_runtime_source": "deb", "container_runtime_deb": str(original)}


def test_an_image(tmp_path: Path) -> None:
    """From the machine's own Debian mirror, on a machine without GPU; nothing may be left of the build."""
    node = Node("it-runtime-image", "10.213.97.71")
    node.up(gpus=None)
    try:
        variables = {"hpc_image_build": True, "container_runtime_source": "debian"}
        done = play(node, tmp_path, variables)
        if "404" in done.said:
            pytest.skip("Debian unstable has gone on to another version than the role knows")
        assert done.recap["failed"] == 0, done.said
        assert play(node, tmp_path, variables).recap["changed"] == 0
        assert not list((node.root / "var/cache").glob("hpc-compute*"))
        assert (node.root / "etc/apptainer/apptainer.conf").exists()
    finally:
        node.keep_packages()
        node.down()
