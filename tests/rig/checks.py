# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""``./run test``: every check and test, each to its end, then one line with what passed and failed."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

from . import apptainer, base, box, environment, libvirt
from .node import Node
from .paths import REPO, VENV
from .process import follow, indented, run
from .progress import Step, heading, started, step

_REPORTS = REPO / ".cache/test"
_COLLECTION = environment.COLLECTIONS / "ansible_collections/hpc/compute"

# what a tool says goes to a file
_PLAIN = {"NO_COLOR": "1", "ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0", "PY_COLORS": "0", "COLUMNS": "160"}
#: Where tests find the engine under its name in Ansible, the tests' own parts, and what builds images.
_PYTHON = {"PYTHONPATH": f"{environment.COLLECTIONS}:{REPO / 'tests'}:{REPO}"}
#: A test mostly waits: for a node, or for Ansible, which uses one processor.
_SIDE_BY_SIDE = ["-n", "2", "--dist", "loadfile", "--no-loadscope-reorder"]


@dataclass(frozen=True)
class Check:
    """A command that passes or fails. One with a JUnit *report* counts as the tests in it, any other as one test."""

    name: str
    command: Sequence[str | Path]
    report: str | None = None
    cwd: Path = REPO
    variables: Mapping[str, str] = field(default_factory=dict)


def run_all() -> int:
    """Run every check, the later ones also after a failure. Returns the exit code: 1 when anything failed."""
    start = started()
    _REPORTS.mkdir(parents=True, exist_ok=True)
    heading("This machine")
    environment.ensure()
    with step("Build the emulated driver"):
        run(["make", "--silent", "-C", REPO / "tests/emulator"])
    with step("Root file systems for nodes"):
        base.ensure_controller()
    heading("Checks and tests")
    passed = failed = skipped = 0
    for check in _checks():
        good, bad, left_out = _run(check)
        passed, failed, skipped = passed + good, failed + bad, skipped + left_out
    print(f"\nAll of it took {time.monotonic() - start:.0f} s; logs and reports are in {_REPORTS}.")
    if skipped:
        print(f"{skipped} skipped")
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


def run_vm() -> int:
    """Run all that needs virtual machines. Returns the exit code: 1 when anything failed."""
    start = started()
    _REPORTS.mkdir(parents=True, exist_ok=True)
    heading("This machine")
    environment.ensure()
    with step("How virtual machines run here") as probing:
        kind = libvirt.accelerator()
        probing.note = "KVM" if kind.domain == "kvm" else "without hardware virtualisation, ten times slower"
    with step("The box they are made from") as building:
        name = box.ensure()
        building.note = name
    with step("Apptainer, for containers in them") as fetching:
        package = _apptainer()
        fetching.note = package.name
    with step("libvirt and its network"):
        libvirt.ensure()
    variables = {
        **box.variables(),
        "HPC_COMPUTE_BOX": name,
        "HPC_COMPUTE_APPTAINER": str(package),
        "HPC_COMPUTE_VIRT": kind.domain,
        "HPC_COMPUTE_CPU_MODE": kind.mode,
        # of Molecule's Vagrant driver, which Molecule doesn't tell Ansible
        "ANSIBLE_LIBRARY": str(_folder_of("molecule_plugins.vagrant") / "modules"),
        # Python and a module's imports take seconds in an emulated machine, and are loaded once for all tasks of a play
        "ANSIBLE_STRATEGY": "mitogen_linear",
        "ANSIBLE_STRATEGY_PLUGINS": str(_folder_of("ansible_mitogen") / "plugins/strategy"),
        "HPC_COMPUTE_REPORT": str(_REPORTS / "molecule-libvirt.xml"),
    }
    heading("Tests in virtual machines")
    command: list[str | Path] = [VENV / "bin/molecule", "test", "--scenario-name", "libvirt"]
    passed = failed = 0
    for check in (
        Check("molecule libvirt", command, report="molecule-libvirt", variables=variables),
        _pytest("machines made from an image", "vm", ["tests/vm"], _PYTHON),
    ):
        good, bad, _ = _run(check)
        passed, failed = passed + good, failed + bad
    print(f"\nAll of it took {time.monotonic() - start:.0f} s; logs and reports are in {_REPORTS}.")
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


def _apptainer() -> Path:
    """Debian unstable's package, which a node fetches where the cache has none."""
    node = Node("vm-fetch", "10.213.97.27")
    node.up()
    try:
        return apptainer.fetch(node)
    finally:
        node.down()


def _folder_of(package: str) -> Path:
    """Where the virtual environment has a Python package, parts of which Ansible has to be told of."""
    find = f"import importlib.util as u; print(u.find_spec({package!r}).submodule_search_locations[0])"
    return Path(run([VENV / "bin/python", "-c", find]).stdout.strip())


def _checks() -> list[Check]:
    tools = VENV / "bin"
    own = Path("ansible_collections/hpc/compute")
    typed = [own / name for name in ("plugins", "tests", "molecule", "image") if any((REPO / name).rglob("*.py"))]
    settings = REPO / "pyproject.toml"
    return [
        Check("ruff check", [tools / "ruff", "check", "."]),
        Check("ruff format", [tools / "ruff", "format", "--check", "."]),
        Check(
            "mypy --strict",
            [tools / "mypy", "--config-file", settings, *typed],
            # under the names by which Ansible imports the files, which relative imports need
            cwd=environment.COLLECTIONS,
            variables={"MYPYPATH": f".:{REPO / 'tests'}:{REPO}"},
        ),
        Check("yamllint", [tools / "yamllint", "--strict", "."]),
        Check("ansible-lint", [tools / "ansible-lint", "--offline", "--nocolor"]),
        Check("shellcheck", _shellcheck()),
        Check("changelog fragments", [tools / "antsibull-changelog", "lint"]),
        # in processes of their own: Ansible's library behaves as on the control machine, or the NVML library as
        # initialised, for all of a process that ever used it so
        _pytest("unit tests", "unit", ["tests/unit", "--ignore=tests/unit/filter"], _PYTHON),
        _pytest("unit tests of filters", "filter", ["tests/unit/filter"], _PYTHON),
        _pytest("tests of the emulated driver", "emulator", ["tests/emulator"], _PYTHON),
        _pytest("tests of the rig", "rig", ["tests/rig"], _PYTHON),
        _pytest("integration tests", "integration", [*_SIDE_BY_SIDE, "tests/integration"], _PYTHON),
        _molecule("default"),
        _molecule("cluster"),
    ]


def _molecule(scenario: str) -> Check:
    report = f"molecule-{scenario}"
    command: list[str | Path] = [VENV / "bin/molecule", "test", "--scenario-name", scenario]
    variables = {"HPC_COMPUTE_REPORT": str(_REPORTS / f"{report}.xml")}
    return Check(f"molecule {scenario}", command, report=report, variables=variables)


def _pytest(name: str, report: str, paths: Sequence[str], variables: Mapping[str, str]) -> Check:
    command: list[str | Path] = [VENV / "bin/pytest", "-q", f"--junit-xml={_REPORTS / report}.xml", *paths]
    return Check(name, command, report=report, variables=variables)


def _shellcheck() -> Sequence[str | Path]:
    named = (path for folder in ("tests", "roles", "molecule") for path in (REPO / folder).rglob("*.sh"))
    return ["shellcheck", REPO / "run", REPO / ".ci/run", *sorted(named)]


def _run(check: Check) -> tuple[int, int, int]:
    """Run *check* and show how it ended. Returns the numbers of passed, failed and skipped tests."""
    log = _REPORTS / f"{check.name.replace(' ', '-')}.log"
    log.unlink(missing_ok=True)
    report = _REPORTS / f"{check.report}.xml" if check.report else None
    if report:
        report.unlink(missing_ok=True)
    under_way = Step(check.name)
    variables = {**environment.variables(), **_PLAIN, **check.variables}
    code = follow(check.command, log=log, on_line=under_way.show, env=variables, cwd=check.cwd)
    good, bad, left_out = _counted(report) if report and report.exists() else (int(code == 0), 0, 0)
    if code != 0 and bad == 0:
        bad = 1  # the command failed by itself: nothing that it counted did
    if report and code == 0 and not report.exists():
        good, bad = 0, 1
        under_way.note = f"it left no report in {report}"
    elif report:
        under_way.note = (
            f"{good} passed" + (f", {bad} failed" if bad else "") + (f", {left_out} skipped" if left_out else "")
        )
    under_way.end("FAIL" if bad else "ok")
    if bad:
        print(indented(log.read_text(encoding="utf-8", errors="replace"), 40))
        print(f"    all of it: {log}")
    return good, bad, left_out


def _counted(report: Path) -> tuple[int, int, int]:
    """Passed, failed and skipped tests of a JUnit report, which this program's own pytest wrote."""
    suites = ElementTree.parse(report).getroot().iter("testsuite")  # noqa: S314
    sums = {"tests": 0, "failures": 0, "errors": 0, "skipped": 0}
    for suite in suites:
        for name in sums:
            sums[name] += int(suite.get(name, "0"))
    bad = sums["failures"] + sums["errors"]
    return sums["tests"] - bad - sums["skipped"], bad, sums["skipped"]
