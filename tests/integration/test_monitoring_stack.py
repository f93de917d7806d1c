# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The roles monitoring_stack and monitoring_server on a node that is a whole cluster with eight GPUs.

Real: node exporter, Prometheus, promtool, Slurm with its prolog and epilog. Stood in for: DCGM, see tests/dcgm.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.hpc.compute.plugins.module_utils.slurm.devices import Device
from ansible_collections.hpc.compute.plugins.module_utils.slurm.stored import STORED, Stored
from dcgm import repository
from integration.lone_cluster import LoneCluster
from integration.monitoring.prometheus import Prometheus
from integration.package_runs import transactions
from rig.node import Node
from rig.process import wait_for

REPO = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent / "monitoring"
_VENV = REPO / ".venv"
GPUS = "4xh100-80,h100-80=1g.10gb*7,h100-80=3g.40gb*2,h100-80=3g.40gb:2g.20gb:1g.10gb*2,h100-80=7g.80gb"
#: In the node, where apt finds it as a folder of its own machine.
REPOSITORY = {"name": "nvidia-cuda", "uris": ["file:/srv/nvidia"], "suites": ["./"], "trusted": True}
TEXTFILES = "var/lib/prometheus/node-exporter"
CONDITIONS = "/run/dcgm-stand-in/conditions.json"
PLAY = """\
- hosts: nodes
  become: true
  gather_facts: false
  roles: [hpc.compute.monitoring_stack]
- hosts: servers
  become: true
  gather_facts: false
  roles: [hpc.compute.monitoring_server]
"""
_LAYOUT = """\
version: v1
mig-configs:
  here:
    - devices: [0]
      mig-enabled: false
    - devices: [7]
      mig-enabled: true
      mig-devices: {7g.80gb: 1}
"""

#: As the role beegfs_client has it, of what can be mounted here.
_MOUNT = """\
[Mount]
What=beegfs_nodev
Where=/mnt/beegfs
Type=tmpfs
Options=size=8m
[Install]
WantedBy=remote-fs.target
"""


@dataclass
class Said:
    recap: dict[str, int]
    text: str


@dataclass
class Play:
    """Runs the roles on a node, with variables that stay until they are set otherwise."""

    node: Node
    folder: Path
    variables: dict[str, Any] = field(default_factory=dict)

    def command(self, *words: str, server: bool = False) -> tuple[list[str | Path], dict[str, str]]:
        """What runs them, and its environment."""
        host = {self.node.name: self.node.connection()}
        groups = {"nodes": {"hosts": host, "vars": self.variables}, "servers": {"hosts": host if server else {}}}
        (self.folder / "hosts.json").write_text(json.dumps({"all": {"children": groups}}))
        (self.folder / "play.yml").write_text(PLAY)
        environment = {
            **os.environ,
            "ANSIBLE_COLLECTIONS_PATH": str(_VENV / "collections"),
            "ANSIBLE_CONFIG": str(REPO / "tests/rig/ansible.cfg"),
            "ANSIBLE_NOCOLOR": "1",
        }
        files: list[str | Path] = ["-i", self.folder / "hosts.json", self.folder / "play.yml"]
        return [_VENV / "bin/ansible-playbook", *files, *words], environment

    def __call__(self, *words: str, ok: bool = True, server: bool = False) -> Said:
        command, environment = self.command(*words, server=server)
        done = subprocess.run(
            command,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        text = done.stdout + done.stderr
        assert (done.returncode == 0) is ok, text
        recap = {key: int(value) for key, value in re.findall(r"(ok|changed|failed|unreachable)=(\d+)", done.stdout)}
        return Said(recap, text)


class Stack(LoneCluster):
    """The cluster with the roles on it, and a Prometheus that scrapes it each second."""

    def __init__(self, name: str, ip: str, folder: Path) -> None:
        super().__init__(name, ip)
        self.prometheus = Prometheus(self.node)
        self.play = Play(
            self.node,
            folder,
            {
                "monitoring_stack_dcgm_repository": REPOSITORY,
                # 550 of the emulated driver
                "monitoring_stack_dcgm_cuda": 12,
                "monitoring_stack_dcgm_exporter_interval_ms": 500,
                "beegfs_client_mounts": [{"path": "/mnt/beegfs", "mgmtd_host": "nowhere"}],
                "monitoring_server_nodes": [name],
                "monitoring_server_scrape_interval": "1s",
                "monitoring_server_grafana_dashboards": "/srv",
            },
        )
        self.gpus: list[Device] = []
        self.checked: Said | None = None
        self.first: Said | None = None
        self.listening: set[str] = set()

    def up(self) -> None:
        super().up()
        self.use_gpus(GPUS)
        self.gpus = self.devices()
        kinds = Counter(one.type for one in self.gpus)
        gres = ",".join(f"gpu:{kind}:{number}" for kind, number in sorted(kinds.items()))
        self.write({f"/{STORED}": Stored(gres=gres).text(), "/opt/task_prolog": "#!/bin/sh\n"})
        self.run("chmod 755 /opt/task_prolog")
        self.configure(gres, "AutoDetect=nvml\n")
        conf = self.node.root / "etc/slurm/slurm.conf"
        conf.write_text(conf.read_text() + "Prolog=/etc/slurm/prolog.d/*\nEpilog=/etc/slurm/epilog.d/*\n")
        # As gpu-layout.service does at boot: the map of devices.
        assert self.engine("boot").returncode == 0
        repository.build(self.node.root / "srv/nvidia")
        self.checked = self.play("--check", "--diff")
        self.first = self.play()
        self.listening = self.listeners()
        self.restart()
        self.prometheus.install()
        # Another address is taken over by services that run already.
        self.play.variables["monitoring_stack_bind_address"] = self.node.ip
        self.play(server=True)
        self.prometheus.start()

    def listeners(self) -> set[str]:
        """The addresses on which the exporters listen."""
        return set(re.findall(r"(\S+):(?:9100|9400)\s", self.run("ss -Hltn")))

    def page(self, port: int) -> dict[str, list[dict[str, str]]]:
        """What an exporter serves to others: the labels of each metric's series, the value under an empty name."""
        with urllib.request.urlopen(f"http://{self.node.ip}:{port}/metrics", timeout=20) as answer:
            text = answer.read().decode()
        found: dict[str, list[dict[str, str]]] = {}
        for line in text.splitlines():
            match = re.fullmatch(r"([a-zA-Z_:]\w*)(?:\{(.*)\})? (\S+)", line)
            if match:
                labels = dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', match[2] or ""))
                found.setdefault(match[1], []).append({**labels, "": match[3]})
        return found

    def condition(self, **fields: Mapping[str, Any]) -> None:
        """What the stand-in for DCGM is to say; nothing unusual without."""
        self.write({CONDITIONS: json.dumps(fields)})

    def collect(self, group: str = "state") -> str:
        """Run the collectors now and not in a minute."""
        unit = f"hpc-node-metrics@{group}.service"
        return self.run(f"systemctl start {unit}; journalctl -q --no-pager -n 5 -u {unit}")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    one = Stack("it-monitoring", "10.213.97.76", tmp_path_factory.mktemp("monitoring"))
    try:
        one.up()
        yield one
    finally:
        if one.node.is_up():
            one.node.keep_packages()
        one.down()


def place(labels: Mapping[str, str]) -> str:
    """The device of a series, as the files of jobs name it."""
    return labels["gpu"] + (f".{labels['GPU_I_ID']}" if labels.get("GPU_I_ID") else "")


def expected_places(stack: Stack) -> set[str]:
    answer = json.loads(stack.engine("show", "--json").stdout)
    found = set()
    for gpu in answer["gpus"]:
        found |= {f"{gpu['index']}.{one['id']}" for one in gpu["gpu_instances"]} or {str(gpu["index"])}
    return found


def test_check_mode_tells_what_the_first_run_does(stack: Stack) -> None:
    assert stack.checked is not None
    assert stack.first is not None
    assert stack.checked.recap["failed"] == 0
    assert stack.first.recap["failed"] == 0
    for word in ("datacenter-gpu-manager", "dcgm-counters.csv", "--web.listen-address", "Would be started: "):
        assert word in stack.checked.text
    assert "changed=0" not in stack.checked.text


def test_everything_is_installed_at_once(stack: Stack) -> None:
    ours = [one for one in transactions(stack.node) if "datacenter-gpu-manager" in one]
    assert len(ours) == 1, ours
    assert "prometheus-node-exporter" in ours[0]
    # Prometheus itself, by the test, and nothing else after it
    assert transactions(stack.node)[-1].count("prometheus:") == 1


def test_a_second_run_changes_nothing(stack: Stack) -> None:
    said = stack.play(server=True)
    assert (said.recap["changed"], said.recap["failed"]) == (0, 0), said.text


def test_nothing_but_dcgm_comes_from_nvidias_repository(stack: Stack) -> None:
    policy = stack.run("apt-cache policy libcuda1 datacenter-gpu-manager-4-core")
    assert re.search(r"libcuda1:\n  Installed: \(none\)\n  Candidate: \(none\)", policy), policy
    assert f"Installed: {repository.DCGM}" in policy


def test_both_exporters_listen_where_they_are_told_to(stack: Stack) -> None:
    assert stack.listening == {"127.0.0.1"}
    assert stack.listeners() == {stack.node.ip}


def test_beegfs_is_seen(stack: Stack) -> None:
    stack.write({"/etc/systemd/system/mnt-beegfs.mount": _MOUNT})
    stack.run("systemctl daemon-reload; systemctl -q enable --now mnt-beegfs.mount")
    sizes = {one["mountpoint"]: one[""] for one in stack.page(9100)["node_filesystem_size_bytes"]}
    assert float(sizes["/mnt/beegfs"]) == 8 << 20
    assert not [path for path in sizes if path.startswith(("/run", "/sys", "/proc", "/dev"))]
    units = {one["name"]: one[""] for one in stack.page(9100)["node_systemd_unit_state"] if one["state"] == "active"}
    assert {name: value for name, value in units.items() if name.endswith(".mount")} == {"mnt-beegfs.mount": "1"}


def test_every_gpu_and_mig_instance_is_shown_with_its_job(stack: Stack) -> None:
    places = expected_places(stack)
    assert len(places) == 4 + 7 + 2 + 4 + 1
    series = stack.page(9400)["DCGM_FI_DEV_FB_USED"]
    assert {place(one) for one in series} == places
    assert all("hpc_job" not in one for one in series)

    # A job for each kind, with all there are of it.
    jobs = {}
    for kind, number in sorted(Counter(one.type for one in stack.gpus).items()):
        words = f"--gres=gpu:{kind}:{number} --chdir=/ --output=/dev/null --wrap='sleep 600'"
        jobs[stack.run(f"runuser -u user -- sbatch --parsable {words}").strip()] = kind
    wait_for("the jobs to run", lambda: len(stack.run("squeue -h -t running -o %A").split()) == len(jobs), seconds=60)

    def shown() -> dict[str, str]:
        return {place(one): one.get("hpc_job", "") for one in stack.page(9400)["DCGM_FI_DEV_FB_USED"]}

    def right() -> bool:
        """Each device has the job that asked for its kind, by the profile that the exporter shows."""
        for one in stack.page(9400)["DCGM_FI_DEV_FB_USED"]:
            kind = jobs.get(one.get("hpc_job", ""), "-")
            if not kind.endswith(f"_{one['GPU_I_PROFILE']}" if "GPU_I_PROFILE" in one else "hbm3"):
                return False
        return True

    wait_for("every device to be shown with its job", right, seconds=30)
    wanted = shown()
    assert set(wanted) == places
    assert set(wanted.values()) == set(jobs)
    assert stack.page(9400).keys() >= {"DCGM_FI_PROF_GR_ENGINE_ACTIVE", "DCGM_FI_DEV_GPU_TEMP"}
    stack.prometheus.await_value(
        "count by (hpc_job) (DCGM_FI_DEV_FB_USED)",
        lambda found: {one.get("hpc_job"): n for one, n in found} == Counter(wanted.values()),
    )

    # A job whose epilog never ran is forgotten by the collector; one that runs is not.
    uuid = next(one.unique_id for one in stack.gpus if (one.unique_id or "").startswith("MIG-"))
    stack.run(f"SLURM_JOB_ID=99999 CUDA_VISIBLE_DEVICES={uuid} hpc-gpu-jobs begin")
    assert "99999" in stack.run("hpc-gpu-jobs show")
    stack.collect()
    assert "99999" not in stack.run("hpc-gpu-jobs show")
    assert shown() == wanted

    dashboard_shows(stack)

    stack.run("scancel --user=user")
    wait_for("no device to be shown with a job", lambda: not any(shown().values()), seconds=30)
    assert stack.run("ls /run/hpc-compute/gpu-jobs") == ""


#: Panels that are empty on this node: a query may find nothing there.
_EMPTY_PANELS = {"Exporters that don't answer", "GPUs with XID errors", "To be done"}


def dashboard_shows(stack: Stack) -> None:
    """Every query of the dashboard, variables included, is answered by Prometheus, with data where there are any."""
    dashboard = json.loads((stack.node.root / "srv/hpc-compute-gpu.json").read_text())
    stack.write({"/etc/hpc-compute/gpu-layout.yml": _LAYOUT})
    stack.condition(DCGM_FI_PROF_GR_ENGINE_ACTIVE={str(gpu): 0.9 - gpu / 20 for gpu in range(8)})
    stack.collect()
    stack.collect("system")
    stack.prometheus.await_value("max(DCGM_FI_PROF_GR_ENGINE_ACTIVE)", lambda found: found[0][1] > 0)
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            name, label = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"]).groups()  # type: ignore[union-attr]
            values = stack.prometheus.ask(f"label/{label}/values", **{"match[]": name.replace("$node", ".*")})
            assert values, variable["name"]
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            expression = re.sub(r"\$(node|gpu|job)\b", ".*", target["expr"])
            found = stack.prometheus.query(expression)
            assert found or panel["title"] in _EMPTY_PANELS, (panel["title"], expression)
            labels = re.findall(r"\{\{(\w+)\}\}", target.get("legendFormat", ""))
            assert all(set(labels) <= set(one) for one, _ in found), (panel["title"], expression)
    if os.environ.get("HPC_COMPUTE_DASHBOARD_PICTURE"):
        from integration.monitoring.picture import draw

        time.sleep(30)  # for lines and not dots
        Path(os.environ["HPC_COMPUTE_DASHBOARD_PICTURE"]).write_text(draw(dashboard, stack.prometheus))
    stack.condition()
    stack.run("rm /etc/hpc-compute/gpu-layout.yml")


def test_collectors_tell_what_is_there(stack: Stack) -> None:
    wait_for("the node to be idle", lambda: stack.state() == "idle", seconds=90)
    stack.collect()
    stack.collect("system")
    page = stack.page(9100)
    assert page["hpc_gpu_present"][0][""] == page["hpc_gpu_usable"][0][""] == "8"
    states = {one["state"]: one[""] for one in page["hpc_slurm_node_state"]}
    assert states["idle"] == "1"
    assert states["drain"] == "0"
    assert {one["collector"] for one in page["hpc_collector_success"] if one[""] == "1"} == {
        "slurm",
        "gpus",
        "jobs",
        "software",
        "updates",
    }
    updates = stack.run("apt-get --simulate dist-upgrade | grep -c '^Inst [^ ]* \\[' || true").strip()
    assert sum(float(one[""]) for one in page["hpc_updates_pending"]) == float(updates)
    stack.run("apt-mark hold prometheus")
    stack.collect("system")
    assert stack.page(9100)["hpc_packages_held"][0][""] == "1"
    stack.run("apt-mark unhold prometheus")


def test_the_commands_of_the_guide(stack: Stack) -> None:
    """Those for a node; the playbook for the server is the role that the fixture ran."""
    blocks = re.findall(r"```console\n(.*?)```", (REPO / "docs/gpu_monitoring.md").read_text(), re.DOTALL)
    commands = [line.removeprefix("# ") for block in blocks for line in block.splitlines() if line.startswith("# ")]
    assert len(commands) == 4
    for command in commands:
        stack.run(command)


def test_promtool_accepts_the_rules_and_each_alert_fires_and_ends(stack: Stack) -> None:
    rules = REPO / "roles/monitoring_server/files/prometheus/hpc-compute.rules.yml"
    target = stack.node.root / "root/rules"
    target.mkdir(exist_ok=True)
    tests = sorted(HERE.glob("*.test.yml"))
    for path in (rules, *tests):
        shutil.copy(path, target)
    stack.run(
        f"cd /root/rules; promtool check rules --lint=all --lint-fatal {rules.name};"
        f"promtool test rules {' '.join(one.name for one in tests)}"
    )
    named = set(re.findall(r"- alert: (\w+)", rules.read_text()))
    for wanted in (r"alertname: (\w+)\n +exp_alerts:\n +- ", r"alertname: (\w+), exp_alerts: \[\]"):
        assert {name for one in tests for name in re.findall(wanted, one.read_text())} == named


@dataclass(frozen=True)
class Trouble:
    """How an alert's condition is made and taken back: what DCGM says, or commands. *labels*: what the alert has."""

    labels: dict[str, str] = field(default_factory=dict)
    dcgm: Mapping[str, Any] = field(default_factory=dict)
    begin: str = ""
    end: str = ""


# a controller that has just started knows nothing of its node yet, and neither drains nor resumes it
_IDLE = "timeout 30 sh -c 'until sinfo --noheader --format=%t | grep -qx idle; do sleep 0.2; done'"
_STATE, _SYSTEM = (f"systemctl start hpc-node-metrics@{kind}.service" for kind in ("state", "system"))
_NINTH = "/sys/bus/pci/devices/0000:ff:00.0"
_VERSION = "/proc/driver/nvidia/version"
_DKMS = "#!/bin/sh\necho 'nvidia/580.1, 6.12.1-amd64, x86_64: built'\n"
_FIXES = "deb [trusted=yes] file:/srv/fixes ./"
#: From a folder nothing may come, as DCGM's repository is one here.
_PREFER = "printf 'Package: prometheus\\nPin: version 99-1\\nPin-Priority: 500\\n' > /etc/apt/preferences.d/fixes"
_UPDATE = (
    "apt-get -qq update -o Dir::Etc::sourcelist=/etc/apt/sources.list.d/fixes.list -o Dir::Etc::sourceparts=-"
    " -o APT::Get::List-Cleanup=0"
)
_FIXED = """\
Package: prometheus
Version: 99-1
Architecture: amd64
Maintainer: nobody <nobody@example.org>
Filename: ./none.deb
Size: 1
SHA256: {0}
"""
#: Every alert of the rules file. Nothing but the patience of the rules is taken away.
TROUBLES: dict[str, Trouble] = {
    "NodeExporterDown": Trouble(
        begin="systemctl stop prometheus-node-exporter", end="systemctl start prometheus-node-exporter"
    ),
    "DcgmExporterDown": Trouble(
        begin="systemctl stop nvidia-dcgm-exporter", end="systemctl start nvidia-dcgm-exporter"
    ),
    "GpuMetricsMissing": Trouble(dcgm={"unseen": {"3": 1}}),
    # the timer that has not run for long
    "NodeMetricsStale": Trouble(
        {"collector": "slurm"},
        begin=f"sed -i -E '/^hpc_collector_timestamp_seconds/s/ [^ ]+$/ 1000/' /{TEXTFILES}/hpc-compute-state.prom",
        end=_STATE,
    ),
    "NodeCollectorFailing": Trouble(
        {"collector": "slurm"},
        begin=f"systemctl stop slurmctld; {_STATE}",
        end=f"systemctl start slurmctld; {_IDLE}; {_STATE}",
    ),
    "NodeTextfileUnreadable": Trouble(
        begin=f"echo 'this is no metric' > /{TEXTFILES}/broken.prom", end=f"rm /{TEXTFILES}/broken.prom"
    ),
    "GpuXidError": Trouble({"gpu": "2", "xid": "79"}, {"xids": {"2": {"79": 1}}}),
    "GpuXidFromProgram": Trouble({"gpu": "4", "xid": "31"}, {"xids": {"4": {"31": 1}}}),
    "GpuEccUncorrected": Trouble({"gpu": "3"}, {"DCGM_FI_DEV_ECC_DBE_VOL_TOTAL": {"3": 2}}),
    "GpuRowRemapFailure": Trouble({"gpu": "5"}, {"DCGM_FI_DEV_ROW_REMAP_FAILURE": {"5.1": 1}}),
    "GpuPagesPending": Trouble({"gpu": "1"}, {"DCGM_FI_DEV_ROW_REMAP_PENDING": {"1": 1}}),
    "GpuTooHot": Trouble({"gpu": "6"}, {"DCGM_FI_DEV_GPU_TEMP": {"6": 86}}),
    "GpuThermalThrottling": Trouble({"gpu": "0"}, {"DCGM_FI_DEV_THERMAL_VIOLATION": {"0": 9000}}),
    # a board on the bus that the driver does not know
    "GpuUnusable": Trouble(
        begin=f"cp -aH $(dirname $(grep -l 0x0302 /sys/bus/pci/devices/*/class | head -n 1)) {_NINTH}; {_STATE}",
        end=f"rm -r {_NINTH}; {_STATE}",
    ),
    "GpuDriverMismatch": Trouble(
        begin=f"cp {_VERSION} /root/version; sed 's/550[.][0-9.]*/550.54.15/' /root/version > {_VERSION}; {_SYSTEM}",
        end=f"cat /root/version > {_VERSION}; {_SYSTEM}",
    ),
    "GpuLayoutDrift": Trouble(
        begin=f"cp /root/cut.yml /etc/hpc-compute/gpu-layout.yml; {_STATE}",
        end=f"cp /root/fits.yml /etc/hpc-compute/gpu-layout.yml; {_STATE}",
    ),
    "SlurmNodeDrainedByUs": Trouble(
        {"by": "hpc.compute"},
        begin=f"scontrol update NodeName=$(hostname) State=DRAIN Reason='hpc.compute: change of the layout'; {_STATE}",
        end=f"scontrol update NodeName=$(hostname) State=RESUME; {_IDLE}; {_STATE}",
    ),
    # With ReturnToService=2 a slurmd that runs would bring the node back with its next registration.
    "SlurmNodeNotRegistered": Trouble(
        begin=f"systemctl stop slurmd; scontrol update NodeName=$(hostname) State=DOWN Reason='a test'; {_STATE}",
        end=f"systemctl start slurmd; {_IDLE}; {_STATE}",
    ),
    "NodeServiceFailed": Trouble(
        {"name": "hpc-broken.service"},
        begin="systemd-run --quiet --unit=hpc-broken false",
        end="systemctl reset-failed hpc-broken",
    ),
    "NodeMountMissing": Trouble(
        {"name": "mnt-beegfs.mount"}, begin="systemctl stop mnt-beegfs.mount", end="systemctl start mnt-beegfs.mount"
    ),
    "KernelModuleMissing": Trouble(
        {"module": "nvidia", "kernel": "6.12.1-amd64"},
        begin=f"touch /boot/vmlinuz-6.12.1-amd64; cp /root/dkms /usr/sbin/dkms; {_SYSTEM}",
        end=f"sed -i s/built/installed/ /usr/sbin/dkms; {_SYSTEM}",
    ),
    "NodeRebootRequired": Trouble(
        begin=f"touch /run/reboot-required; {_SYSTEM}", end=f"rm /run/reboot-required; {_SYSTEM}"
    ),
    "SecurityUpdatesPending": Trouble(
        begin=f"echo '{_FIXES}' > /etc/apt/sources.list.d/fixes.list; {_PREFER}; {_UPDATE};"
        f" apt-mark unhold prometheus; {_SYSTEM}",
        end=f"apt-mark hold prometheus; {_SYSTEM}",
    ),
}


def test_every_alert_has_its_trouble() -> None:
    rules = (REPO / "roles/monitoring_server/files/prometheus/hpc-compute.rules.yml").read_text()
    assert re.findall(r"- alert: (\w+)", rules) == list(TROUBLES)


@pytest.fixture(scope="module")
def troubled(stack: Stack) -> Stack:
    """With what the troubles need; they end with a layout that fits."""
    stack.write(
        {
            "/root/cut.yml": _LAYOUT.replace(
                "mig-enabled: false", "mig-enabled: true\n      mig-devices: {1g.10gb: 7}"
            ),
            "/root/fits.yml": _LAYOUT,
            "/root/dkms": _DKMS,
            "/srv/fixes/Packages": _FIXED.format("0" * 64),
            "/srv/fixes/Release": "Origin: Debian\nLabel: Debian-Security\nSuite: stable-security\nVersion: 13\n",
        }
    )
    # what the node's own packages could be updated to would fire, too
    stack.run(f"chmod 755 /root/dkms; apt-mark hold $(dpkg-query -W -f '${{Package}} ') >/dev/null; {_SYSTEM}")
    return stack


@pytest.mark.parametrize("alert", TROUBLES)
def test_the_alert_fires_and_ends(troubled: Stack, alert: str) -> None:
    stack, trouble = troubled, TROUBLES[alert]
    labels = {"node": stack.node.name, **trouble.labels}
    assert not [one for one in stack.prometheus.firing() if one["alertname"] == alert]
    if trouble.dcgm:
        stack.condition(**trouble.dcgm)
    if trouble.begin:
        stack.run(trouble.begin)
    stack.prometheus.await_alert(alert, True, **labels)
    if trouble.end:
        stack.run(trouble.end)
    stack.condition()
    stack.prometheus.await_alert(alert, False)


def test_troubles_leave_nothing(troubled: Stack) -> None:
    troubled.run(
        "apt-mark unhold $(apt-mark showhold) >/dev/null;"
        "rm -f /etc/hpc-compute/gpu-layout.yml /usr/sbin/dkms /boot/vmlinuz-6.12.1-amd64"
        f" /etc/apt/sources.list.d/fixes.list /etc/apt/preferences.d/fixes; {_STATE}; {_SYSTEM}"
    )
    troubled.prometheus.await_value("count(ALERTS) or vector(0)", lambda found: found[0][1] == 0)


def test_a_controller_that_is_away_shows_and_leaves_the_rest(stack: Stack) -> None:
    stack.run("systemctl stop slurmctld")
    try:
        assert "hpc-node-metrics: slurm: " in stack.collect()
        page = stack.page(9100)
        assert {one["collector"]: one[""] for one in page["hpc_collector_success"]}["slurm"] == "0"
        assert "hpc_slurm_node_state" not in page
        assert page["hpc_gpu_usable"][0][""] == "8"
    finally:
        stack.run("systemctl start slurmctld")


def test_counters_that_dcgm_does_not_know_are_told(stack: Stack) -> None:
    """The exporter would go down, after the run said that all is well."""
    stack.play.variables["monitoring_stack_dcgm_extra_counters"] = ["DCGM_FI_DEV_NO_SUCH_THING, gauge, Nothing."]
    try:
        said = stack.play(ok=False)
        assert "could not find DCGM field DCGM_FI_DEV_NO_SUCH_THING" in said.text
    finally:
        stack.play.variables["monitoring_stack_dcgm_extra_counters"] = []
    stack.play()
    assert "DCGM_FI_DEV_GPU_TEMP" in stack.page(9400)


def test_tls_and_passwords_on_every_address(stack: Stack) -> None:
    address = stack.node.ip
    stack.run(
        "cd /root; openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2"
        f" -keyout key.pem -out cert.pem -subj /CN=it -addext subjectAltName=IP:{address},IP:127.0.0.1 2>/dev/null;"
        "install -m 644 cert.pem /etc/prometheus/nodes-ca.pem;"
        "printf 'correct horse' > /etc/prometheus/scrape-password;"
        "chgrp prometheus /etc/prometheus/scrape-password; chmod 640 /etc/prometheus/scrape-password"
    )
    scraped = stack.node.root / "etc/prometheus/hpc-compute/scrape.yml"
    before = scraped.read_text()
    for wrong, words in (
        ({"monitoring_server_grafana_dashboards": "/nowhere"}, "/nowhere"),
        (
            {"monitoring_server_tls": True, "monitoring_server_tls_ca_file": "/root/key.pem"},
            "found no certificate in it",
        ),
        ({"monitoring_server_scrape_interval": "99999999999999999999s"}, "failed to validate"),
    ):
        usual = dict(stack.play.variables)
        stack.play.variables |= {"monitoring_server_dcgm_exporter_port": 9401, **wrong}
        said = stack.play(ok=False, server=True)
        stack.play.variables = usual
        assert words in said.text, said.text
        assert scraped.read_text() == before, "written by a run that failed, so that Prometheus is never told of it"
    secret = (stack.node.root / "root/key.pem").read_text()
    stack.play.variables |= {
        "monitoring_stack_bind_address": "",
        "monitoring_stack_tls_certificate": (stack.node.root / "root/cert.pem").read_text(),
        "monitoring_stack_tls_key": secret,
        "monitoring_stack_basic_auth_passwords": {"prometheus": "correct horse"},
        "monitoring_server_tls": True,
        "monitoring_server_tls_ca_file": "/etc/prometheus/nodes-ca.pem",
        "monitoring_server_user": "prometheus",
        "monitoring_server_password_file": "/etc/prometheus/scrape-password",
    }
    said = stack.play("--diff", "-vv", server=True)
    for word in ("correct horse", "$2b$", secret.splitlines()[2]):
        assert word not in said.text
    assert (
        stack.run("stat -c '%U:%G %a' /etc/hpc-compute/monitoring/web.yml /etc/hpc-compute/monitoring/tls.key").split(
            "\n"
        )[:2]
        == ["root:prometheus 640"] * 2
    )

    def status(port: int, scheme: str = "https", *, user: str = "") -> str:
        words = f"--cacert /root/cert.pem {f'--user {user!r}' if user else ''}"
        return stack.run(
            f"curl -s -o /dev/null -w '%{{http_code}}' {words} {scheme}://{address}:{port}/metrics || true"
        ).strip()

    stack.run("command -v curl >/dev/null || apt-get -qq -y install curl >/dev/null 2>&1")
    for port in (9100, 9400):
        assert status(port) == "401"
        assert status(port, user="prometheus:wrong") == "401"
        assert status(port, user="prometheus:correct horse") == "200"
        assert status(port, "http", user="prometheus:correct horse") in ("000", "400")
    stack.prometheus.await_value("sum(up)", lambda found: found[0][1] == 2)
    again = stack.play(server=True)
    assert again.recap["changed"] == 0, again.text


def test_dcgm_that_is_switched_off_is_taken_back(stack: Stack) -> None:
    stack.play.variables["monitoring_stack_dcgm_enabled"] = "false"  # as with -e
    stack.play()
    for unit in ("nvidia-dcgm.service", "nvidia-dcgm-exporter.service"):
        assert stack.run(f"systemctl is-enabled {unit} || true; systemctl is-active {unit} || true").split() == [
            "disabled",
            "inactive",
        ]
    assert not stack.run("systemctl cat nvidia-dcgm-exporter | grep -e --address || true")
    assert stack.play().recap["changed"] == 0
    stack.run("systemctl enable nvidia-dcgm")  # of the site's own
    assert stack.play().recap["changed"] == 0


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Play]:
    node = Node("it-monitoring-image", "10.213.97.77")
    node.up(gpus=None)
    try:
        repository.build(node.root / "srv/nvidia")
        yield Play(
            node,
            tmp_path_factory.mktemp("image"),
            {
                "monitoring_stack_dcgm_repository": REPOSITORY,
                "monitoring_stack_bind_address": "",
                "monitoring_stack_tls_certificate": "-----BEGIN CERTIFICATE-----\nc2VjcmV0\n",
                "monitoring_stack_tls_key": "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n",
                "monitoring_stack_basic_auth_passwords": {"prometheus": "correct horse"},
                "hpc_image_build": True,
            },
        )
    finally:
        node.keep_packages()
        node.down()


def test_what_can_not_be_had_is_told_and_nothing_installed(bare: Play) -> None:
    """In the order of what is tried: the repository, its key, the versions that it has."""
    repository.build(bare.node.root / "srv/old", exporter="4.8.1-1")
    for changed, words in (
        ({"uris": ["http://10.213.97.1:9/"]}, ("10.213.97.1",)),
        ({"trusted": False}, ("key",)),
        ({"uris": ["file:/srv/old"]}, ("datacenter-gpu-manager-exporter: expected version >=4.8.2, found 4.8.1-1",)),
    ):
        before = bare.variables["monitoring_stack_dcgm_repository"]
        bare.variables["monitoring_stack_dcgm_repository"] = {**before, **changed}
        try:
            said = bare(ok=False)
        finally:
            bare.variables["monitoring_stack_dcgm_repository"] = before
        assert len(re.findall(r"(?m)^fatal: ", said.text)) == 1, said.text
        for word in words:
            assert word in said.text, said.text
        assert transactions(bare.node) == []
        assert not (bare.node.root / "etc/hpc-compute").exists()


def test_an_image_serves_nothing_yet_and_holds_no_secret(bare: Play) -> None:
    node = bare.node
    bare("--check")
    assert not (node.root / "etc/hpc-compute").exists(), "check mode changed the machine"
    assert transactions(node) == []
    bare()
    units = ["prometheus-node-exporter.service", "hpc-node-metrics@state.timer", "hpc-node-metrics@system.timer"]
    gated = ["nvidia-dcgm.service", "nvidia-dcgm-exporter.service"]
    for unit in (*units, *gated):
        assert node.run(["systemctl", "is-enabled", unit], check=False).stdout.strip() == "enabled", unit
        assert node.run(["systemctl", "is-active", unit], check=False).stdout.strip() == "inactive", unit
    found = node.run(["grep", "-rlE", "c2VjcmV0|correct horse|[$]2b[$]", "/etc"], check=False).stdout
    assert not found, f"a secret in an image: {found}"
    # The first boot, before any live run: without the secrets nobody from outside is let in; without a GPU DCGM waits.
    node.run(["systemctl", "start", *units, *gated])
    # systemd calls it started before it listens
    wait_for("node exporter", lambda: "127.0.0.1:9100" in node.run(["ss", "-Hltn"]).stdout, seconds=30)
    assert ":9400" not in node.run(["ss", "-Hltn"]).stdout
    for unit in gated:
        shown = node.run(["systemctl", "show", "--property=ActiveState,ConditionResult", unit]).stdout.split()
        assert shown == ["ActiveState=inactive", "ConditionResult=no"], unit
    assert bare().recap["changed"] == 0
