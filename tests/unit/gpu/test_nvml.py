# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The session with the driver: how each kind of failure comes out, and that it always ends."""

from __future__ import annotations

import sys

import pytest
from ansible_collections.hpc.compute.plugins.module_utils.gpu import nvml
from ansible_collections.hpc.compute.plugins.module_utils.gpu.nvml import NvmlCode, NvmlError, PynvmlMissing
from unit.gpu.fake_pynvml import FakeGpu, FakePynvml, NVMLLibraryMismatchError


def test_a_session_begins_and_ends() -> None:
    fake = FakePynvml()
    with nvml.session(lambda: fake) as library:
        assert library.call("nvmlDeviceGetCount") == 1
    assert fake.calls == ["nvmlInit", "nvmlDeviceGetCount", "nvmlShutdown"]


def test_a_session_that_can_not_begin_is_not_ended() -> None:
    fake = FakePynvml()
    fake.fail("nvmlInit", 9)
    with pytest.raises(NvmlError) as caught, nvml.session(lambda: fake):
        pytest.fail("the body must not run")
    assert (caught.value.call, caught.value.code, caught.value.text) == ("nvmlInit", 9, "Driver Not Loaded")
    assert fake.calls == ["nvmlInit"]


def test_a_session_ends_whatever_happens_in_it() -> None:
    fake = FakePynvml()
    with pytest.raises(RuntimeError, match="mine"), nvml.session(lambda: fake):
        raise RuntimeError("mine")
    assert fake.calls == ["nvmlInit", "nvmlShutdown"]


def test_a_failing_end_does_not_hide_what_went_wrong_before() -> None:
    fake = FakePynvml()
    fake.fail("nvmlDeviceGetCount", 999)
    fake.fail("nvmlShutdown", 999)
    with pytest.raises(NvmlError, match="nvmlDeviceGetCount"), nvml.session(lambda: fake) as library:
        library.call("nvmlDeviceGetCount")


def test_a_failing_end_is_told() -> None:
    fake = FakePynvml()
    fake.fail("nvmlShutdown", 999)
    told = r"nvmlShutdown failed with NVML error 999 \(Unknown Error\)"
    with pytest.raises(NvmlError, match=told), nvml.session(lambda: fake):
        fake.calls.clear()
    assert fake.calls == ["nvmlShutdown"]


def test_a_missing_pynvml_is_told_with_the_reason_of_the_import(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(PynvmlMissing, match="pynvml"), nvml.session():
        pytest.fail("the body must not run")


def test_the_installed_pynvml_is_found() -> None:
    assert nvml.load_pynvml() is sys.modules["pynvml"]


def test_a_function_that_pynvml_lacks_and_one_that_the_library_lacks_are_both_missing() -> None:
    fake = FakePynvml(lacks=("nvmlDeviceGetUUID",))
    fake.fail("nvmlDeviceGetName", 13)
    fake.fail("nvmlDeviceGetMinorNumber", NVMLLibraryMismatchError("versions differ"))
    with nvml.session(lambda: fake) as library:
        handle = library.call("nvmlDeviceGetHandleByIndex", 0)
        texts = {}
        for call in ("nvmlDeviceGetUUID", "nvmlDeviceGetName", "nvmlDeviceGetMinorNumber"):
            with pytest.raises(NvmlError) as caught:
                library.call(call, handle)
            assert caught.value.code == NvmlCode.FUNCTION_NOT_FOUND
            texts[call] = caught.value.text
    assert texts == {
        "nvmlDeviceGetUUID": "this python3-pynvml is too old to know the function",
        "nvmlDeviceGetName": "Function Not Found",
        "nvmlDeviceGetMinorNumber": "versions differ",
    }


def test_a_pynvml_before_mig_lacks_the_types_of_instances() -> None:
    class Old(FakePynvml):
        def __getattr__(self, name: str) -> object:
            if name.startswith("c_nvml"):
                raise AttributeError(name)
            return super().__getattr__(name)

    with nvml.session(lambda: Old()) as library:
        handle = library.call("nvmlDeviceGetHandleByIndex", 0)
        with pytest.raises(NvmlError, match="c_nvmlGpuInstance_t") as caught:
            library.gpu_instances(handle, 19)
    assert caught.value.code == NvmlCode.FUNCTION_NOT_FOUND


def test_bytes_become_text_and_bytes_that_are_none_a_failure() -> None:
    fake = FakePynvml([FakeGpu(name=b"NVIDIA A30")])
    with nvml.session(lambda: fake) as library:
        handle = library.call("nvmlDeviceGetHandleByIndex", 0)
        assert library.call("nvmlDeviceGetName", handle) == "NVIDIA A30"
        fake.fail("nvmlDeviceGetName", UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"))
        with pytest.raises(NvmlError, match="bytes that are no text"):
            library.call("nvmlDeviceGetName", handle)
