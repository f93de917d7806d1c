# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every call of a change fails in turn, and its caller is killed at each: a GPU ends as wanted or as it was, always."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from ansible_collections.hpc.compute.plugins.module_utils.gpu.control import MigControl
from ansible_collections.hpc.compute.plugins.module_utils.mig.apply_gpu import EndState
from unit.mig.apply_machine import Machine, in_child, machine

#: Calls that change something, and the shell patterns that name them to the emulator.
WRITES = (
    "nvmlDeviceSetMigMode",
    "nvmlDeviceCreateGpuInstanceWithPlacement",
    "nvmlGpuInstanceDestroy",
    "nvmlComputeInstanceDestroy",
    "nvmlGpuInstanceCreateComputeInstance*",
)
ERRORS = ("IN_USE", "INSUFFICIENT_RESOURCES", "NO_PERMISSION", "INVALID_ARGUMENT", "TIMEOUT", "UNKNOWN")

#: Each call with each error takes a minute; each call with two errors, and each error with many calls, a few seconds.
EVERYTHING = os.environ.get("HPC_COMPUTE_TEST_EVERYTHING") == "1"


@dataclass(frozen=True)
class Way:
    """A change: a machine as it starts and what is wanted of it."""

    name: str
    gpus: str
    wanted: dict[str, int] | None


WAYS = (
    Way("h100 recut", "h100-80=3g.40gb@4:2g.20gb@2:1g.10gb@0", {"1g.10gb": 3, "3g.40gb": 1}),
    Way("h100 on", "h100-80", {"4g.40gb": 1, "3g.40gb": 1}),
    Way("h100 off", "h100-80=3g.40gb:1g.10gb", None),
    Way("a100 on", "a100-40", {"3g.20gb": 1, "1c.3g.20gb": 2}),
    Way("a100 off", "a100-40=7g.40gb", None),
    Way("a30 recut", "a30=2g.12gb:2g.12gb", {"1g.6gb": 2, "2g.12gb": 1}),
    Way("b200 recut", "b200=1g.23gb*2:3g.90gb", {"3g.90gb": 2}),
    Way("rtx pro recut", "rtxpro6000=2g.48gb:1g.24gb", {"1g.24gb": 2, "1g.24gb-me": 1}),
)


@pytest.fixture(params=WAYS, ids=lambda way: way.name.replace(" ", "-"))
def way(request: pytest.FixtureRequest) -> Way:
    chosen: Way = request.param
    return chosen


@pytest.fixture
def emulated(way: Way, tmp_path: Path) -> Iterator[Machine]:
    with machine(way.gpus, tmp_path) as one:
        yield one


def calls_of(way: Way, emulated: Machine) -> list[tuple[str, int]]:
    """Each call that changes something on this way, as its name and how many of that name come before it."""
    names = {
        "set_mode": WRITES[0],
        "create_gpu_instance": WRITES[1],
        "destroy_gpu_instance": WRITES[2],
        "destroy_compute_instance": WRITES[3],
        "create_compute_instance": WRITES[4],
    }
    (job,) = emulated.look(way.wanted).jobs
    found = [names[step.action] for step in job.steps if step.action in names]
    assert found
    return [(name, found[:number].count(name)) for number, name in enumerate(found)]


def test_ends_wanted_or_previous_when_any_call_fails(way: Way, emulated: Machine) -> None:
    start, before = emulated.state(), emulated.seen()
    ends: Counter[str] = Counter()
    calls = calls_of(way, emulated)
    for position, (call, earlier) in enumerate(calls):
        for error in ERRORS if EVERYTHING else (ERRORS[position % len(ERRORS)], ERRORS[-1 - position % 3]):
            emulated.driver.fault(call, error=error, times=1, skip=earlier)
            outcome = emulated.apply(way.wanted)
            (result,) = outcome.results
            assert result.end is EndState.PREVIOUS, (call, earlier, error, result.message)
            assert emulated.seen() == before, (call, earlier, error)
            assert "failed with NVML error" in result.message
            assert "it is as it was" in result.message
            assert outcome.failed
            assert not emulated.checkpoint.exists()
            ends[result.end] += 1
            if emulated.state() != start:
                emulated.bring_to(start)
    assert sum(ends.values()) == (len(ERRORS) if EVERYTHING else 2) * len(calls)


def test_ends_wanted_or_previous_when_killed_at_any_call(way: Way, emulated: Machine) -> None:
    start, before = emulated.state(), emulated.seen()
    calls = calls_of(way, emulated)
    outcome = emulated.apply(way.wanted)
    assert not outcome.failed
    wanted = emulated.seen()
    ends: Counter[str] = Counter()
    for position, (call, earlier) in enumerate(calls):
        for moment in ("before", "after"):
            emulated.bring_to(start)
            emulated.driver.fault(call, kill=moment, skip=earlier)
            assert in_child(lambda: emulated.apply(way.wanted)) == signal.SIGKILL
            assert emulated.checkpoint.exists()
            # The next run is one with the same layout, or one that does not speak of this GPU.
            if position % 2:
                done = emulated.apply(way.wanted)
                expected = wanted
            else:
                done = emulated.apply(way.wanted, devices=["*no such model*"])
                expected = before
            found = emulated.seen()
            assert not done.failed, (call, earlier, moment, done.failures)
            # A kill at the very last call leaves the wanted state, which is then kept.
            assert found == expected or (found == wanted and moment == "after"), (call, earlier, moment)
            assert not emulated.checkpoint.exists()
            ends["wanted" if found == wanted else "previous"] += 1
    assert sum(ends.values()) == 2 * len(calls)


def test_ends_wanted_when_only_the_look_at_the_result_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with machine("h100-80=3g.40gb@4", tmp_path) as emulated:
        real = MigControl.create_compute_instance

        def then_fail(control: MigControl, gi_id: int, slices: int, start: int | None = None) -> None:
            real(control, gi_id, slices, start)
            emulated.driver.fault("nvmlDeviceGetGpuInstances", error="TIMEOUT", times=1)

        monkeypatch.setattr(MigControl, "create_compute_instance", then_fail)
        outcome = emulated.apply({"7g.80gb": 1})
        (result,) = outcome.results
        assert result.end is EndState.WANTED
        assert "at first: the MIG state of GPU" in result.message
        assert emulated.seen() == (True, True, ((0, 0, (7,)),))
        assert not outcome.failed
        assert not emulated.checkpoint.exists()


def test_tells_exactly_what_exists_when_the_way_back_is_barred_too(tmp_path: Path) -> None:
    with machine("h100-80=3g.40gb@4", tmp_path) as emulated:
        before = emulated.seen()
        emulated.driver.fault("nvmlDeviceCreateGpuInstanceWithPlacement", error="UNKNOWN")
        outcome = emulated.apply({"7g.80gb": 1})
        (result,) = outcome.results
        assert result.end is EndState.BETWEEN
        assert "it now has MIG on with no instances" in result.message
        assert "3g.40gb at slots 4-7" in result.message
        assert emulated.seen() == (True, True, ())
        assert emulated.checkpoint.exists()

        emulated.driver.clear_faults()
        done = emulated.apply({"1g.10gb": 1}, devices=["*no such model*"])
        assert not done.failed
        assert emulated.seen() == before
        assert not emulated.checkpoint.exists()
        assert any("was interrupted" in note for note in done.prepared.notes)


def test_a_refusal_that_passes_does_not_keep_it_from_rolling_back(tmp_path: Path) -> None:
    with machine("h100-80=3g.40gb@4", tmp_path) as emulated:
        before = emulated.seen()
        emulated.driver.fault("nvmlDeviceCreateGpuInstanceWithPlacement", error="UNKNOWN", times=3)
        (result,) = emulated.apply({"7g.80gb": 1}).results
        assert result.end is EndState.PREVIOUS
        assert emulated.seen() == before


@pytest.mark.parametrize(
    "operation",
    ["destroy_compute_instance", "destroy_gpu_instance", "create_gpu_instance", "create_compute_instance"],
)
def test_says_that_the_gpu_is_lost(operation: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with machine("h100-80=3g.40gb@4", tmp_path) as emulated:
        before = emulated.seen()
        real = getattr(MigControl, operation)

        def lose(control: MigControl, *arguments: object) -> object:
            emulated.driver.lose(0)
            return real(control, *arguments)

        with monkeypatch.context() as patch:
            patch.setattr(MigControl, operation, lose)
            (result,) = emulated.apply({"7g.80gb": 1}).results
        assert result.end is EndState.UNKNOWN
        assert "does not answer any more" in result.message
        assert emulated.checkpoint.exists()
        # A power cycle brings the GPU back, empty; the next run makes of it what it was.
        emulated.driver.reboot()
        assert not emulated.apply({"1g.10gb": 1}, devices=["*no such model*"]).failed
        assert emulated.seen() == before
        assert not emulated.checkpoint.exists()


def test_ends_wanted_or_previous_when_killed_at_any_other_moment(tmp_path: Path) -> None:
    """Not only where something is written: at reads, too, before, between and after the steps."""
    with machine("h100-80=3g.40gb@4:2g.20gb@2:1g.10gb@0", tmp_path) as emulated:
        start, before = emulated.state(), emulated.seen()
        wanted = {"1g.10gb": 3, "3g.40gb": 1}
        after = (True, True, ((9, 4, (3,)), (19, 0, (1,)), (19, 2, (1,)), (19, 3, (1,))))
        killed = 0
        for skip in range(0, 2000, 7 if EVERYTHING else 37):
            emulated.driver.fault("*", kill="after", skip=skip, gpu=0)
            signalled = in_child(lambda: emulated.apply(wanted))
            emulated.driver.clear_faults()
            if not signalled:
                break
            killed += 1
            assert not emulated.apply(wanted, devices=["*no such model*"]).failed
            assert emulated.seen() in (before, after)
            assert not emulated.checkpoint.exists()
            emulated.bring_to(start)
        assert killed > 5
        assert not signalled
