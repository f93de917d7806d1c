# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module mig_layout as Ansible runs it, on an emulated machine."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils.common import warnings
from ansible.module_utils.testing import patch_module_args
from ansible_collections.hpc.compute.plugins.module_utils.mig.lock import locked
from ansible_collections.hpc.compute.plugins.modules import gpu_layout_command, mig_layout
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from unit.mig.apply_machine import Machine, machine

SLICES = {
    "version": "v1",
    "mig-configs": {
        "slices": [{"devices": [0], "mig-enabled": True, "mig-devices": {"1g.10gb": 2, "3g.40gb": 1}}],
        "off": [{"devices": "all", "mig-enabled": False}],
    },
}


class Module:
    """Runs the module; its result with ``failed``."""

    def __init__(self, emulated: Machine, capsys: pytest.CaptureFixture[str]) -> None:
        self.machine = emulated
        self._capsys = capsys

    def __call__(self, *, check: bool = False, **arguments: Any) -> dict[str, Any]:
        given = {"root": str(self.machine.root), "_ansible_check_mode": check, "_ansible_diff": True, **arguments}
        warnings._global_warnings.clear()  # a module's process ends; this one has had others in it
        with patch_module_args(given), pytest.raises(SystemExit):
            mig_layout.main()
        result: dict[str, Any] = json.loads(self._capsys.readouterr().out)
        return {"failed": False, **result}


@pytest.fixture
def module(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Module]:
    with machine("h100-80=3g.40gb@4:2g.20gb@2,l40s", tmp_path) as emulated:
        yield Module(emulated, capsys)


def test_check_and_diff_are_what_then_happens(module: Module) -> None:
    before = module.machine.seen()
    told = module(layout=SLICES, config="slices", check=True)
    assert module.machine.seen() == before
    done = module(layout=SLICES, config="slices")
    assert told["changed"]
    assert done["changed"]
    assert done["diff"] == told["diff"]
    assert done["steps"] == told["steps"]
    assert done["diff"][1]["after"].splitlines() == [f"{one['pci_address']}  {one['text']}" for one in done["steps"]]
    assert done["kept"] == told["kept"]
    assert done["destroyed"] == told["destroyed"]
    assert [one["profile"] for one in done["kept"]] == ["3g.40gb"]
    assert [one["profile"] for one in done["destroyed"]] == ["2g.20gb"]
    assert done["before"] == told["before"] == told["after"]
    assert [one["profile"] for one in done["after"][0]["instances"]] == ["1g.10gb", "1g.10gb", "3g.40gb"]
    assert done["gpus"][0]["state"] == "wanted"
    assert "  2g.20gb at slots 2-3\n" in done["diff"][0]["before"]

    again = module(layout=SLICES, config="slices")
    assert (again["changed"], again["steps"], again["gpus"]) == (False, [], [])
    assert [one["before"] == one["after"] for one in again["diff"]] == [True]


def test_every_returned_value_is_documented(module: Module) -> None:
    documented = set(yaml.safe_load(mig_layout.RETURN))
    for check in (True, False):
        result = module(layout=SLICES, config="slices", check=check)
        assert set(result) - {"changed", "diff", "failed", "invocation"} == documented
    state = yaml.safe_load(mig_layout.RETURN)["before"]["contains"]
    assert set(result["after"][0]) == set(state)


@pytest.mark.parametrize("as_text", [True, False])
def test_a_layout_of_text_or_of_a_file(as_text: bool, module: Module, tmp_path: Path) -> None:
    text = yaml.safe_dump(SLICES)
    if as_text:
        result = module(layout=text, config="slices")
    else:
        (tmp_path / "layout.yml").write_text(text)
        result = module(layout_file=str(tmp_path / "layout.yml"), config="slices")
    assert (result["failed"], result["changed"]) == (False, True)


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({}, "one of the following is required: layout, layout_file"),
        ({"layout": {}}, "expected the key `version`"),
        ({"layout": SLICES}, "choose one of off, slices"),
        ({"layout": SLICES, "config": "of"}, "expected one of the configurations off, slices, found 'of'"),
        ({"layout": "version: [", "config": "x"}, "expected YAML"),
        ({"layout_file": "/no/such/file"}, "/no/such/file"),
        (
            {"layout": {"version": "v1", "mig-configs": {"a": [{"devices": [7], "mig-enabled": False}]}}},
            "expected a GPU with index 7",
        ),
    ],
)
def test_what_cannot_be_done_is_told_and_nothing_changed(
    arguments: dict[str, Any], told: str, check: bool, module: Module
) -> None:
    before = module.machine.seen()
    result = module(check=check, **arguments)
    assert result["failed"]
    assert told in result["msg"]
    assert not result.get("changed")
    assert module.machine.seen() == before


def test_a_failed_step_is_told_with_the_state_it_left(module: Module) -> None:
    before = module.machine.seen()
    module.machine.driver.fault("nvmlDeviceCreateGpuInstanceWithPlacement", error="UNKNOWN", times=1)
    result = module(layout=SLICES, config="slices")
    assert result["failed"]
    assert result["gpus"][0]["state"] == "previous"
    assert "it is as it was" in result["msg"]
    # What was destroyed was made again, so that its UUIDs are new: a change all the same.
    assert result["changed"]
    assert module.machine.seen() == before


def test_a_reboot_that_is_needed_is_no_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with machine("a100-40", tmp_path) as emulated:
        module = Module(emulated, capsys)
        layout = {"version": "v1", "mig-configs": {"a": [{"devices": "all", "mig-enabled": True, "mig-devices": {}}]}}
        told = module(layout=layout, reset="never", check=True)
        done = module(layout=layout, reset="never")
        for result in (told, done):
            assert (result["failed"], result["changed"], result["reboot_required"]) == (False, True, True)
        assert told["diff"] == done["diff"]
        assert told["steps"] == done["steps"]
        assert "on after a reset or reboot" in done["diff"][0]["after"]


def test_check_mode_goes_on_where_the_driver_is_not_installed_yet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with machine("h100-80", tmp_path) as emulated:
        module = Module(emulated, capsys)
        monkeypatch.setitem(sys.modules, "pynvml", None)
        told = module(layout=SLICES, config="slices", check=True)
        assert (told["failed"], told["changed"]) == (False, False)
        assert "python3-pynvml" in str(told["warnings"])
        assert "python3-pynvml" in module(layout=SLICES, config="slices")["msg"]
        monkeypatch.setitem(sys.modules, "yaml", None)
        monkeypatch.setattr(mig_layout, "find_spec", lambda _: None)
        told = module(layout="version: v1", check=True)
        assert (told["failed"], told["changed"]) == (False, False)
        assert module(layout="version: v1")["failed"]


def test_an_interrupted_change_is_warned_about(module: Module) -> None:
    from unit.mig.apply_machine import in_child

    module.machine.driver.fault("nvmlGpuInstanceDestroy", kill="after")
    assert in_child(lambda: module.machine.apply({"7g.80gb": 1}, devices=[0])) == 9
    for check in (True, False):
        assert "was interrupted in step" in str(module(layout=SLICES, config="slices", check=check)["warnings"])


def test_another_change_that_goes_on_is_named(module: Module) -> None:
    with locked(module.machine.host.lock, 0):
        result = module(layout=SLICES, config="slices", lock_timeout=0)
    assert "another change of the GPU layout is going on" in result["msg"]


def test_no_gpu_is_nothing_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with machine("none", tmp_path) as emulated:
        result = Module(emulated, capsys)(layout=SLICES, config="slices")
        assert (result["failed"], result["changed"]) == (False, False)
        assert "no NVIDIA GPU was found" in result["notes"][0]
        assert not result.get("warnings")


# -- fuzz ------------------------------------------------------------------------------------------------------------

_PLAIN = (
    "version v1 mig-configs devices all mig-enabled mig-devices device-filter 1g.10gb 9g 3g.40gb 0x233010DE GPU- "
    "*H100* half 1c.3g.40gb !!python/object:os.system &a *a << ? 1e400 0000:1b:00.0 - 01 0x1 .inf 2026-01-01 \x00"
)
_WORDS = st.sampled_from([*_PLAIN.split(), "", "- -"])
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | _WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_WORDS, inner, max_size=4),
    max_leaves=8,
)
_ENTRY = st.fixed_dictionaries(
    {"devices": st.just("all") | _VALUES, "mig-enabled": st.just(True) | _VALUES},
    optional={"mig-devices": st.dictionaries(_WORDS, st.integers(-1, 9) | _VALUES, max_size=3) | _VALUES},
)
_LAYOUTS = _VALUES | st.fixed_dictionaries(
    {"version": st.just("v1"), "mig-configs": st.fixed_dictionaries({"a": st.lists(_ENTRY | _VALUES, max_size=3)})}
)
_SIGNS = st.sampled_from([": ", "\n", "\n  ", "[", "]", "{", "}", "- ", ","])
_TEXTS = st.lists(_WORDS | _SIGNS, max_size=30).map("".join)
#: A minute for ten thousand; a second for what each run can bear.
_EXAMPLES = 5000 if os.environ.get("HPC_COMPUTE_TEST_EVERYTHING") == "1" else 120
_FUZZ = settings(max_examples=_EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None)


def test_no_layout_makes_a_traceback_or_changes_anything_in_check_mode(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with machine("h100-80=3g.40gb@4", tmp_path) as emulated:
        module = Module(emulated, capsys)
        before = emulated.seen()

        @_FUZZ
        @given(_LAYOUTS | _TEXTS)
        def fuzz(layout: Any) -> None:
            result = module(layout=layout, check=True)
            assert "Traceback" not in str(result)
            assert result["failed"] or "steps" in result
            assert "\n" not in result.get("msg", "")

        fuzz()
        assert emulated.seen() == before


def test_no_layout_that_is_refused_changes_anything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with machine("h100-80=3g.40gb@4", tmp_path) as emulated:
        module = Module(emulated, capsys)

        @_FUZZ
        @given(_LAYOUTS | _TEXTS)
        def fuzz(layout: Any) -> None:
            before = emulated.seen()
            result = module(layout=layout)
            if result["failed"]:
                assert emulated.seen() == before
            elif result["changed"]:
                assert emulated.seen() != before

        fuzz()


# -- the command's installation --------------------------------------------------------------------------------------


def test_the_command_is_installed_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "gpu-layout"

    def install(check: bool = False, where: Path = path) -> dict[str, Any]:
        with patch_module_args({"path": str(where), "_ansible_check_mode": check}), pytest.raises(SystemExit):
            gpu_layout_command.main()
        result: dict[str, Any] = json.loads(capsys.readouterr().out)
        return result

    assert install(check=True)["changed"]
    assert not path.exists()
    assert install()["changed"]
    assert path.stat().st_mode & 0o777 == 0o755
    assert not install()["changed"]
    path.chmod(0o700)
    assert install()["changed"]
    path.write_text("something else")
    assert install(check=True)["changed"]
    assert install()["changed"]
    assert "does not exist" in install(where=tmp_path / "no/gpu-layout")["msg"]
    assert "readable file" in install(where=tmp_path)["msg"]
