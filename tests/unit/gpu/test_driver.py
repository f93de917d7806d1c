# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the driver says, call by call: each may fail, and then exactly what it tells is missing."""

from __future__ import annotations

import pytest
from ansible_collections.hpc.compute.plugins.module_utils.gpu.driver import DriverReport, read_driver
from ansible_collections.hpc.compute.plugins.module_utils.gpu.instances import profile_of_mig_name
from ansible_collections.hpc.compute.plugins.module_utils.gpu.model import MigState, Placement, Problem
from ansible_collections.hpc.compute.plugins.module_utils.gpu.nvml import PynvmlMissing
from unit.gpu.fake_pynvml import FakeCi, FakeGi, FakeGpu, FakePynvml

FIRST, SECOND = "0000:1b:00.0", "0000:43:00.0"


def two_gpus(**change: object) -> list[FakeGpu]:
    return [FakeGpu(**change), FakeGpu(bus_id="00000000:43:00.0", uuid="GPU-1", minor=1)]  # type: ignore[arg-type]


def cut_gpu() -> FakeGpu:
    return FakeGpu(
        mig=(1, 1),
        instances=[
            FakeGi(7, 19, start=6, size=1, cis=[FakeCi(0, uuid="MIG-c")]),
            FakeGi(
                2,
                9,
                start=0,
                size=4,
                cis=[
                    FakeCi(1, 0, "MIG-b", "NVIDIA H100 80GB HBM3 MIG 1c.3g.40gb"),
                    FakeCi(0, 0, "MIG-a", "NVIDIA H100 80GB HBM3 MIG 1c.3g.40gb"),
                ],
            ),
        ],
    )


def read(fake: FakePynvml) -> DriverReport:
    report = read_driver(lambda: fake)
    assert fake.calls[-1] == "nvmlShutdown"
    return report


def only_problem(report: DriverReport) -> Problem:
    assert report.failure is None
    (problem,) = report.problems
    return problem


def test_all_of_a_gpu_is_read() -> None:
    report = read(FakePynvml([FakeGpu(minor=3, mig=(0, 1))]))
    assert (report.driver_version, report.nvml_version, report.problems) == ("550.163.01", "12.550.163.01", ())
    (gpu,) = report.gpus
    assert (gpu.pci_address, gpu.index, gpu.minor, gpu.uuid, gpu.name) == (
        FIRST,
        0,
        3,
        "GPU-0",
        "NVIDIA H100 80GB HBM3",
    )
    assert (gpu.vendor_id, gpu.device_id, gpu.subsystem_vendor_id, gpu.subsystem_device_id) == (
        "10de",
        "2330",
        "10de",
        "16c1",
    )
    assert gpu.memory_mib == 81559
    assert gpu.mig == MigState(capable=True, current=False, pending=True)


def test_a_board_without_mig_and_nvlink_is_no_problem() -> None:
    report = read(FakePynvml([FakeGpu(mig=None)]))
    assert report.problems == ()
    assert report.gpus[0].mig == MigState(capable=False)
    assert report.gpus[0].nvlink_remotes == {}


def test_links_are_counted_by_what_is_at_the_other_end() -> None:
    links = {0: "00000000:43:00.0", 1: None, 2: "00000000:43:00.0", 3: "00000000:07:00.0"}
    report = read(FakePynvml([FakeGpu(links=links)]))
    assert report.problems == ()
    assert report.gpus[0].nvlink_remotes == {SECOND: 2, "0000:07:00.0": 1}


def test_an_odd_address_at_the_other_end_is_told() -> None:
    report = read(FakePynvml([FakeGpu(links={0: "nowhere"})]))
    problem = only_problem(report)
    assert (problem.code, problem.pci_address) == ("gpu_unreadable", FIRST)
    assert "NVLink peers" in problem.message
    assert "'nowhere'" in problem.message


def test_instances_are_read_by_slot_with_their_mig_devices() -> None:
    report = read(FakePynvml([cut_gpu()]))
    assert report.problems == ()
    (gpu,) = report.gpus
    assert gpu.instances_complete
    large, small = gpu.gpu_instances
    assert (large.id, large.profile_id, large.profile, large.placement, large.memory_mib) == (
        2,
        9,
        "3g.40gb",
        Placement(0, 4),
        40448,
    )
    assert [(one.id, one.uuid) for one in large.compute_instances] == [(0, "MIG-a"), (1, "MIG-b")]
    assert (small.id, small.profile, small.placement) == (7, "1g.10gb", Placement(6, 1))
    (one,) = small.compute_instances
    assert (one.id, one.uuid, one.name, one.mig_index) == (0, "MIG-c", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", 0)


def test_the_mig_device_names_the_profile_before_the_profile_list_does() -> None:
    gpu = cut_gpu()
    gpu.profiles[2] = (9, "MIG 3g.39gb", 40448)
    assert read(FakePynvml([gpu])).gpus[0].gpu_instances[0].profile == "3g.40gb"


def test_an_instance_without_mig_device_is_named_by_the_profile_list() -> None:
    gpu = FakeGpu(mig=(1, 1), instances=[FakeGi(1, 20, 0, 1)])
    assert read(FakePynvml([gpu])).gpus[0].gpu_instances[0].profile == "1g.10gb+me"


def test_a_library_whose_profiles_have_no_names_leaves_them_to_the_catalogue() -> None:
    gpu = FakeGpu(mig=(1, 1), instances=[FakeGi(1, 20, 0, 1), FakeGi(2, 19, 1, 1, [FakeCi(0)])])
    report = read(FakePynvml([gpu], named=False))
    assert report.problems == ()
    assert [one.profile for one in report.gpus[0].gpu_instances] == [None, "1g.10gb"]


@pytest.mark.parametrize(
    ("name", "profile"),
    [
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "1g.5gb"),
        ("NVIDIA A100-SXM4-40GB MIG 1c.3g.20gb", "3g.20gb"),
        ("NVIDIA H100 NVL MIG 1g.12gb+me", "1g.12gb+me"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition MIG 1g.24gb+me.all", "1g.24gb+me.all"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition MIG 1c.2g.48gb-me", "2g.48gb-me"),
        ("MIG 7g.80gb", "7g.80gb"),
        ("7g.80gb", "7g.80gb"),
        ("NVIDIA H100 80GB HBM3", None),
        ("", None),
    ],
)
def test_profile_names_are_taken_from_mig_names(name: str, profile: str | None) -> None:
    assert profile_of_mig_name(name) == profile


VALUES = {
    "nvmlDeviceGetMemoryInfo": ("memory_mib", "memory size"),
    "nvmlDeviceGetMinorNumber": ("minor", "device minor"),
    "nvmlDeviceGetUUID": ("uuid", "UUID"),
    "nvmlDeviceGetName": ("name", "name"),
    "nvmlDeviceGetMigMode": ("mig", "MIG mode"),
}


@pytest.mark.parametrize("call", VALUES)
def test_a_value_that_can_not_be_read_costs_that_value_of_that_gpu(call: str) -> None:
    fake = FakePynvml(two_gpus())
    fake.fail(call, 999, gpu=0)
    report = read(fake)
    attribute, what = VALUES[call]
    first, second = report.gpus
    assert getattr(first, attribute) is None
    assert getattr(second, attribute) is not None
    assert all(getattr(first, other) is not None for other, _what in VALUES.values() if other != attribute)
    problem = only_problem(report)
    assert (problem.code, problem.pci_address) == ("gpu_unreadable", FIRST)
    assert problem.message.startswith(f"the {what} of GPU {FIRST} could not be read: {call} failed with NVML error 999")
    assert "journalctl" in problem.message


@pytest.mark.parametrize("call", VALUES)
def test_a_missing_function_is_told_once_with_what_is_lost(call: str) -> None:
    fake = FakePynvml(two_gpus())
    fake.fail(call, 13)
    report = read(fake)
    attribute, what = VALUES[call]
    assert [getattr(gpu, attribute) for gpu in report.gpus] == [None, None]
    problem = only_problem(report)
    assert (problem.code, problem.pci_address) == ("nvml_function_missing", None)
    assert problem.message.startswith(f"{call} is missing, so the {what} of GPUs could not be read")
    assert "libnvidia-ml 12.550.163.01" in problem.message


@pytest.mark.parametrize("call", [*VALUES, "nvmlDeviceGetNvLinkState"])
def test_a_gpu_that_is_lost_meanwhile_is_told_once_and_hides_no_other(call: str) -> None:
    fake = FakePynvml(two_gpus())
    fake.fail(call, 15, gpu=0)
    report = read(fake)
    problem = only_problem(report)
    assert (problem.code, problem.pci_address) == ("gpu_lost", FIRST)
    assert f"GPU {FIRST} is lost" in problem.message
    assert report.gpus[1].uuid == "GPU-1"


def test_a_lost_gpu_is_asked_nothing_more() -> None:
    fake = FakePynvml([FakeGpu(mig=(1, 1))])
    fake.fail("nvmlDeviceGetMemoryInfo", 15)
    (gpu,) = read(fake).gpus
    assert (gpu.uuid, gpu.mig, gpu.instances_complete) == (None, None, False)
    assert "nvmlDeviceGetUUID" not in fake.calls
    assert "nvmlDeviceGetNvLinkState" not in fake.calls


def test_a_gpu_that_is_lost_amid_its_instances_is_told_once() -> None:
    fake = FakePynvml([cut_gpu()])
    fake.fail("nvmlGpuInstanceGetInfo", 15)
    fake.fail("nvmlDeviceGetMaxMigDeviceCount", 15)
    assert only_problem(read(fake)).code == "gpu_lost"


def test_a_gpu_may_have_all_links_there_are() -> None:
    links: dict[int, str | None] = dict.fromkeys(range(18), "00000000:43:00.0")
    assert read(FakePynvml([FakeGpu(links=links)])).gpus[0].nvlink_remotes == {SECOND: 18}


def test_a_gpu_that_needs_a_reset_is_told_so() -> None:
    fake = FakePynvml()
    fake.fail("nvmlDeviceGetMigMode", 16)
    assert "nvidia-smi --gpu-reset" in only_problem(read(fake)).message


@pytest.mark.parametrize("call", ["nvmlDeviceGetHandleByIndex", "nvmlDeviceGetPciInfo"])
def test_a_gpu_without_an_address_is_kept_as_a_failure(call: str) -> None:
    fake = FakePynvml(two_gpus())
    fake.fail(call, 15, gpu=0)
    report = read(fake)
    assert [gpu.pci_address for gpu in report.gpus] == [SECOND]
    assert report.gpus[0].index == 1
    assert [(error.call, error.code) for error in report.nameless] == [(call, 15)]
    assert report.problems == ()


def test_an_address_that_is_none_is_a_failure() -> None:
    report = read(FakePynvml([FakeGpu(bus_id="?")]))
    assert report.gpus == ()
    assert "found '?'" in str(report.nameless[0])


def test_versions_that_can_not_be_read_are_problems() -> None:
    fake = FakePynvml()
    fake.fail("nvmlSystemGetNVMLVersion", 999)
    fake.fail("nvmlSystemGetDriverVersion", 13)
    report = read(fake)
    assert (report.driver_version, report.nvml_version) == (None, None)
    assert [problem.code for problem in report.problems] == ["driver_not_responding", "nvml_function_missing"]
    assert "of unknown version" in report.problems[1].message
    assert len(report.gpus) == 1


@pytest.mark.parametrize(
    ("code", "problem", "words"),
    [
        (12, "nvml_library_missing", "libnvidia-ml1"),
        (9, "driver_not_responding", "lsmod"),
        (18, "version_mismatch", "different versions"),
        (13, "nvml_function_missing", "nvmlInit is missing"),
        (4, "driver_not_responding", "run this as root"),
        (999, "driver_not_responding", "journalctl"),
    ],
)
def test_each_way_not_to_start_has_its_own_words(code: int, problem: str, words: str) -> None:
    fake = FakePynvml()
    fake.fail("nvmlInit", code)
    report = read_driver(lambda: fake)
    assert report.gpus == ()
    assert report.failure is not None
    assert report.failure.code == problem
    assert words in report.failure.message


def test_a_missing_pynvml_has_its_own_words() -> None:
    def load() -> None:
        raise PynvmlMissing("No module named 'pynvml'")

    failure = read_driver(load).failure
    assert failure is not None
    assert failure.code == "pynvml_missing"
    assert "No module named 'pynvml'" in failure.message
    assert "python3-pynvml" in failure.message


def test_a_driver_that_does_not_count_its_gpus_does_not_respond() -> None:
    fake = FakePynvml()
    fake.fail("nvmlDeviceGetCount", 999)
    report = read(fake)
    assert report.failure is not None
    assert report.failure.code == "driver_not_responding"
    assert report.driver_version == "550.163.01"


def test_a_session_that_ends_badly_keeps_what_was_read() -> None:
    fake = FakePynvml()
    fake.fail("nvmlShutdown", 999)
    report = read(fake)
    assert len(report.gpus) == 1
    assert report.failure is not None
    assert "nvmlShutdown" in report.failure.message


INSTANCE_CALLS = {
    "nvmlDeviceGetGpuInstanceProfileInfo": "MIG profiles",
    "nvmlDeviceGetGpuInstances": "GPU instances",
    "nvmlGpuInstanceGetInfo": "GPU instances of profile",
    "nvmlGpuInstanceGetComputeInstanceProfileInfo": "compute instances of GPU instance",
    "nvmlGpuInstanceGetComputeInstances": "compute instances of GPU instance",
    "nvmlComputeInstanceGetInfo": "compute instances of GPU instance",
}


@pytest.mark.parametrize("code", [4, 6, 13, 15, 999])
@pytest.mark.parametrize("call", INSTANCE_CALLS)
def test_instances_that_can_not_be_read_are_not_taken_for_absent(call: str, code: int) -> None:
    fake = FakePynvml([cut_gpu()])
    fake.fail(call, code)
    report = read(fake)
    assert report.failure is None
    (gpu,) = report.gpus
    assert not gpu.instances_complete
    assert {problem.code for problem in report.problems} == {
        {13: "nvml_function_missing", 15: "gpu_lost"}.get(code, "gpu_unreadable")
    }
    if code == 13:
        assert report.problems[0].message.startswith(f"{call} is missing, so the ")
        assert "GPU instance 2" not in report.problems[0].message  # it is unknown for all of them
    elif code != 15:
        assert INSTANCE_CALLS[call] in report.problems[0].message
        assert call in report.problems[0].message
    assert len({problem.message for problem in report.problems}) == len(report.problems)


def test_without_root_the_advice_is_to_become_root() -> None:
    fake = FakePynvml([cut_gpu()])
    fake.fail("nvmlDeviceGetGpuInstances", 4)
    assert "run this as root" in only_problem(read(fake)).message


def test_mig_that_is_on_without_any_profile_is_a_problem() -> None:
    report = read(FakePynvml([FakeGpu(mig=(1, 1), profiles={})]))
    assert "MIG profiles" in only_problem(report).message
    assert not report.gpus[0].instances_complete


MIG_DEVICE_CALLS = (
    "nvmlDeviceGetMaxMigDeviceCount",
    "nvmlDeviceGetMigDeviceHandleByIndex",
    "nvmlDeviceGetGpuInstanceId",
    "nvmlDeviceGetComputeInstanceId",
)


@pytest.mark.parametrize("call", MIG_DEVICE_CALLS)
def test_instances_without_mig_devices_keep_their_ids(call: str) -> None:
    fake = FakePynvml([cut_gpu()])
    fake.fail(call, 999)
    report = read(fake)
    problem = only_problem(report)
    assert problem.code == "gpu_unreadable"
    assert "MIG devices" in problem.message
    (gpu,) = report.gpus
    assert gpu.instances_complete
    assert [one.profile for one in gpu.gpu_instances] == ["3g.40gb", "1g.10gb"]  # from the profile list
    assert all(ci.uuid is None for gi in gpu.gpu_instances for ci in gi.compute_instances)


def test_one_instance_that_fails_hides_no_other() -> None:
    class OneGone(FakePynvml):
        def _nvmlGpuInstanceGetInfo(self, handle: object) -> object:  # noqa: N802
            if handle[1].id == 2:  # type: ignore[index]
                self.fail("nvmlGpuInstanceGetInfo", 6)
                return self.nvmlGpuInstanceGetInfo(handle)
            return super()._nvmlGpuInstanceGetInfo(handle)

    fake = OneGone([cut_gpu()])
    report = read(fake)
    (gpu,) = report.gpus
    assert [one.id for one in gpu.gpu_instances] == [7]
    assert "GPU instances of profile 9" in only_problem(report).message


def test_what_compute_instances_a_profile_may_have_is_asked_once() -> None:
    gpu = FakeGpu(mig=(1, 1), instances=[FakeGi(7 + n, 19, n, 1, [FakeCi(0)]) for n in range(7)])
    fake = FakePynvml([gpu])
    read(fake)
    assert fake.calls.count("nvmlGpuInstanceGetComputeInstanceProfileInfo") == 12
