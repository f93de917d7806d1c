# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter ``mig_plan``: what it takes, what it gives, and that its documentation says the same."""

from __future__ import annotations

import copy
import inspect
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleFilterError
from ansible_collections.hpc.compute.plugins.filter.mig_plan import FilterModule, mig_plan
from ansible_collections.hpc.compute.plugins.module_utils.gpu.model import Inventory
from ansible_collections.hpc.compute.plugins.module_utils.mig import fleet
from ansible_collections.hpc.compute.plugins.module_utils.mig.machine import MachinePlan, plan_machine
from unit.mig.plan_oracle import board_named, instance, plain_gpu

ROOT = Path(__file__).parents[3]
LAYOUT: dict[str, Any] = {
    "version": "v1",
    "mig-configs": {
        "small": [{"devices": "all", "mig-enabled": True, "mig-devices": {"1g": 7}}],
        "two": [{"devices": "all", "mig-enabled": True, "mig-devices": {"half": 2}}],
        "off": [{"devices": "all", "mig-enabled": False}],
    },
}
H100 = board_named("h100_80")


def recorded(gi_id: int = 2, uuid: str = "GPU-a") -> dict[str, Any]:
    gpu = replace(plain_gpu(H100, instances=[instance(H100, gi_id, "3g.40gb", 4)]), uuid=uuid)
    return Inventory((gpu,), driver_version="580.95.05").to_dict()


@pytest.mark.parametrize(
    ("target", "boards"),
    [
        ("h100-80", ["h100_80"]),
        ("H100_80", ["h100_80"]),
        ("2xa100-40, b200", ["a100_40", "a100_40", "b200"]),
        (["8xh100-80"], ["h100_80"] * 8),
        ([], []),
    ],
)
def test_boards_are_planned_by_name(target: Any, boards: list[str]) -> None:
    plan = mig_plan(LAYOUT, target, "small")
    assert [gpu["board"] for gpu in plan["gpus"]] == boards
    assert plan["feasible"]
    assert [gpu["index"] for gpu in plan["gpus"]] == list(range(len(boards)))
    assert plan["drawing"].count("MIG, 7 slices") == len(boards)


def test_a_board_that_cannot_do_it_says_what_it_can() -> None:
    plan = mig_plan(LAYOUT, "a30", "small")
    assert not plan["feasible"]
    (problem,) = plan["problems"]
    assert problem["code"] == "compute_slices"
    assert problem["nearest"]["mig_devices"] == {"1g.6gb": 4}
    assert mig_plan(LAYOUT, "b200", "small", driver_version="550.163.01")["problems"][0]["code"] == "driver_too_old"


def test_a_recorded_machine_is_planned_from_its_present_state() -> None:
    for target in (recorded(), {"inventory": recorded(), "changed": False}):
        plan = mig_plan(LAYOUT, target, "two")
        assert plan["gpus"][0]["kept"] == [2]
        assert plan["gpus"][0]["steps"][0]["text"] == "Create a GPU instance 3g.40gb at slots 0-3."
        assert json.loads(json.dumps(plan)) == plan


def test_a_layout_may_be_text_a_mapping_or_entries() -> None:
    expected = mig_plan(LAYOUT, "h100-80", "two", drawing=False)["gpus"][0]["instances"]
    text = mig_plan(yaml.safe_dump(LAYOUT), "h100-80", "two")
    assert text["gpus"][0]["instances"] == expected
    assert text["gpus"][0]["entry"] == "line 11, mig-configs.two[0]"
    entries = mig_plan(LAYOUT["mig-configs"]["two"], "h100-80")
    assert entries["gpus"][0]["instances"] == expected


def test_busy_instances_are_respected() -> None:
    plan = mig_plan(LAYOUT, recorded(), "small", busy={"0000:17:00.0": [2]})
    assert plan["problems"][0]["code"] == "busy"
    assert mig_plan(LAYOUT, recorded(), "small", busy={"0000:17:00.0": [2]}, allow_busy=True)["feasible"]
    whole = recorded()
    whole["gpus"][0] |= {"mig": {"capable": True, "current": False, "pending": False}, "gpu_instances": []}
    assert mig_plan(LAYOUT, whole, "small", busy={"0000:17:00.0": True})["problems"][0]["code"] == "busy"


def test_missing_devices_can_be_allowed() -> None:
    entries = [{"devices": [4], "mig-enabled": False}]
    assert mig_plan(entries, "a30")["problems"][0]["code"] == "device_missing"
    assert mig_plan(entries, "a30", allow_missing=True)["feasible"]


def test_the_drawing_follows_width_and_characters() -> None:
    plan = mig_plan(LAYOUT, "h100-80", "off", width=40, ascii_only=True)
    assert max(len(line) for line in plan["drawing"].splitlines()[1:]) <= 40
    assert plan["drawing"].isascii()


def test_a_fleet_is_planned_by_host_and_like_machines_once(monkeypatch: pytest.MonkeyPatch) -> None:
    planned = []

    def counted(node: Inventory, *args: Any, **more: Any) -> MachinePlan:
        planned.append(node)
        return plan_machine(node, *args, **more)

    monkeypatch.setattr(fleet, "plan_machine", counted)
    hosts = {f"node{n}": recorded(gi_id=n % 3, uuid=f"GPU-{n}") for n in range(30)}
    hosts["bare"] = Inventory().to_dict()
    given = copy.deepcopy(hosts)
    plan = mig_plan(LAYOUT, hosts, "two")
    assert hosts == given
    assert (plan["feasible"], plan["changed"], plan["infeasible"]) == (True, True, [])
    assert [plan["hosts"][f"node{n}"]["gpus"][0]["kept"] for n in range(30)] == [[n % 3] for n in range(30)]
    assert plan["hosts"]["bare"]["gpus"] == []
    assert len(planned) == 4


def test_machines_differ_by_uuid_where_an_entry_names_one() -> None:
    uuids = ["GPU-6f2b1c3d-0a1b-2c3d-4e5f-60718293a4b5", "GPU-7f2b1c3d-0a1b-2c3d-4e5f-60718293a4b5"]
    hosts = {uuid: recorded(uuid=uuid) for uuid in uuids}
    plan = mig_plan([{"devices": uuids[0], "mig-enabled": False}], hosts)
    assert plan["infeasible"] == [uuids[1]]
    assert plan["hosts"][uuids[0]]["gpus"][0]["destroyed"] == [2]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("driver_version",), "535.1"),
        (("gpus", 0, "pci_address"), "0000:99:00.0"),
        (("gpus", 0, "device_id"), "20b0"),
        (("gpus", 0, "index"), 5),
        (("gpus", 0, "mig", "pending"), False),
        (("gpus", 0, "gpu_instances", 0, "placement", "start"), 0),
        (("gpus", 0, "gpu_instances", 0, "compute_instances", 0, "profile_id"), 0),
        (("gpus", 0, "gpu_instances", 0, "compute_instances", 0, "id"), 3),
    ],
)
def test_what_a_plan_depends_on_tells_machines_apart(path: tuple[Any, ...], value: Any) -> None:
    other = recorded()
    place: Any = other
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value
    alone = mig_plan(LAYOUT, other, "two")
    beside = mig_plan(LAYOUT, {"first": recorded(), "other": other}, "two")["hosts"]
    assert beside["other"] == alone
    assert beside["other"] is not beside["first"]


@pytest.mark.parametrize(
    ("layout", "target", "options", "complaint"),
    [
        (
            LAYOUT,
            "h100-80",
            {},
            "mig_plan: expected the name of one of its configurations, found none: choose one of",
        ),
        (LAYOUT, "h100-80", {"config": "x"}, "expected one of the configurations off, small, two, found 'x'"),
        ("version: v1\nmig-configs: {}\n", "a30", {}, "line 2, mig-configs: expected configurations by name"),
        (7, "a30", {}, "expected a layout with `version` and `mig-configs`, found 7"),
        (
            LAYOUT,
            "v100",
            {"config": "off"},
            r"expected boards of the MIG catalogue \(a30, a100-40, .*\), .* found 'v100'",
        ),
        (LAYOUT, "0xa30", {"config": "off"}, "found '0xa30'"),
        (LAYOUT, [3], {"config": "off"}, "found 3"),
        (LAYOUT, 7, {"config": "off"}, "expected as target a board name, .* found int"),
        (
            LAYOUT,
            {"inventory": 7},
            {"config": "off"},
            "expected a recorded GPU inventory .* found a mapping without it",
        ),
        (LAYOUT, {"schema": 99}, {"config": "off"}, "expected a GPU inventory of schema 1, found schema 99"),
        (LAYOUT, {"schema": 1, "gpus": [{}]}, {"config": "off"}, "this is no GPU inventory of schema 1"),
        (LAYOUT, {"node1": {"gpus": 1}}, {"config": "off"}, "host node1: expected a recorded GPU inventory"),
        (LAYOUT, {"node1": [7]}, {"config": "off"}, "host node1: expected a recorded GPU inventory .* found list"),
        (LAYOUT, "a30", {"config": "off", "busy": {"x": [1]}}, "expected `busy` only together with"),
        (LAYOUT, {"n": recorded()}, {"config": "off", "busy": {"x": [1]}}, "expected `busy` only together with"),
        (LAYOUT, recorded(), {"config": "off", "busy": [1]}, "expected `busy` as PCI addresses .* found a list"),
        (LAYOUT, recorded(), {"config": "off", "busy": {"x": [1]}}, "PCI addresses among 0000:17:00.0, found 'x'"),
        (LAYOUT, recorded(), {"config": "off", "busy": {"0000:17:00.0": "2"}}, "list of GPU instance ids or true"),
        (LAYOUT, recorded(), {"config": "off", "busy": {"0000:17:00.0": ["2"]}}, "list of GPU instance ids or true"),
        (
            [{"devices": "*H*", "mig-enabled": False}, {"devices": [0], "mig-enabled": False}],
            {"n": Inventory((replace(plain_gpu(H100), name="H100"),)).to_dict()},
            {},
            r"host n: \[1\]: expected each GPU in one entry",
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(
    layout: Any, target: Any, options: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(AnsibleFilterError, match=complaint):
        mig_plan(layout, target, **options)


def test_the_documentation_has_the_options_that_there_are() -> None:
    documented = yaml.safe_load((ROOT / "plugins/filter/mig_plan.yml").read_text())
    options = documented["DOCUMENTATION"]["options"]
    parameters = inspect.signature(FilterModule().filters()["mig_plan"]).parameters
    assert ["_input", *list(parameters)[1:]] == list(options)
    for name, parameter in list(parameters.items())[1:]:
        assert options[name].get("required", False) == (parameter.default is inspect.Parameter.empty)
        assert options[name].get("default") == (parameter.default if options[name].get("default") is not None else None)
    plan = mig_plan(LAYOUT, "a30", "off")
    assert set(documented["RETURN"]["_value"]["contains"]) == set(plan)


def test_ansibles_wrappers_are_taken_off_recorded_data() -> None:
    wrappers = pytest.importorskip("ansible._internal._templating._lazy_containers")
    # Under other names they would be looked through no more, and fleets planned a hundred times slower.
    assert {"_LazyValue", "_AnsibleLazyTemplateDict", "_AnsibleLazyTemplateList"} <= set(vars(wrappers))


def test_recorded_data_with_a_template_in_it_is_refused() -> None:
    data = recorded()
    data["driver_version"] = "{{ version }}"
    with pytest.raises(AnsibleFilterError, match=r"host n: expected recorded values .* found a template"):
        mig_plan(LAYOUT, {"n": data}, "two")


def run_playbook(tmp_path: Path, variables: dict[str, Any], *messages: str) -> subprocess.CompletedProcess[str]:
    """Run a playbook that shows *messages* on this machine, with nothing of the caller's configuration."""
    tasks = [{"ansible.builtin.debug": {"msg": message}} for message in messages]
    play = [{"hosts": "localhost", "gather_facts": False, "vars": variables, "tasks": tasks}]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    environment = inherited | {
        "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".venv/collections"),
        "ANSIBLE_HOME": str(tmp_path),
        "ANSIBLE_LOCALHOST_WARNING": "false",
        "ANSIBLE_NOCOLOR": "true",
    }
    return subprocess.run(
        [sys.executable, "-m", "ansible", "playbook", "-i", "localhost,", "-c", "local", "/dev/stdin"],
        input=yaml.safe_dump(play),
        capture_output=True,
        text=True,
        env=environment,
        check=False,
        timeout=120,
        cwd=tmp_path,
    )


def test_ansible_finds_the_filter_and_gets_plain_values_back(tmp_path: Path) -> None:
    templated = recorded()
    templated["driver_version"] = "{{ '580' ~ '.95.05' }}"
    plans = {
        # A machine given as it is, by a template, and with a template inside.
        "fleet": {"plain": recorded(), "named": "{{ node }}", "inside": templated},
        "boards": "{{ layout | hpc.compute.mig_plan('2xh100-80', 'two') }}",
        "one": "{{ layout | hpc.compute.mig_plan({'inventory': node}, 'two') }}",
        "many": "{{ layout | hpc.compute.mig_plan(fleet, 'two') }}",
        "zipped": "{{ layout | hpc.compute.mig_plan(dict(['a'] | zip([node])), 'two') }}",
    }
    done = run_playbook(
        tmp_path,
        {"layout": LAYOUT, "node": recorded(), **plans},
        "{{ 'Steps: %d' | format(boards.gpus[0].steps | length) }} {{ 'new' in boards.drawing }}",
        "{{ 'Recorded: %s' | format(one.gpus[0].kept) }}",
        "{{ 'Fleet: %s' | format(many.hosts.values() | map(attribute='feasible') | list) }}",
        "{{ 'Zipped: %s' | format(zipped.hosts.a.changed) }}",
        "{{ layout | hpc.compute.mig_plan('v100', 'two') }}",
    )
    output = done.stdout + done.stderr
    for line in ("Steps: 5 True", "Recorded: [2]", "Fleet: [True, True, True]", "Zipped: True"):
        assert line in output, output
    assert done.returncode == 2
    assert "mig_plan: expected boards of the MIG catalogue" in output
    assert "Traceback" not in output
