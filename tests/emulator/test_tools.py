# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line, the installation into a node, and the library under load, threads and forks."""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pynvml as n
import pytest
from emulator import install, wire
from emulator.__main__ import main
from emulator.conftest import Python, Start
from emulator.nvml_helpers import mig_devices
from emulator.testing import DriverError, EmulatedDriver

TESTS = Path(__file__).resolve().parent.parent


def emulator(*arguments: str, package_parent: Path = TESTS, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-S", "-m", "emulator", *arguments],
        env={**os.environ, **environment, "PYTHONPATH": str(package_parent)},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


# -- command line ----------------------------------------------------------------------------------------------------


def test_the_command_line_does_what_the_test_class_does(
    start: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    driver = start("a100-40,h100-80=3g.40gb:1g.10gb", init=False)

    def run(*arguments: str) -> str:
        assert main(list(arguments)) == 0
        return capsys.readouterr().out

    shown = json.loads(run("show", "--json"))
    assert shown == driver.show()
    first = shown["gpus"][1]["gpu_instances"][0]["id"]
    run("busy", f"1/{first}/0", str(os.getpid()))
    run("busy", "0", str(os.getpid()))
    picture = run("show")
    assert "GPU 1  0000:43:00.0  minor 1  NVIDIA H100 80GB HBM3  MIG on" in picture
    assert f"busy: [{os.getpid()}]" in picture
    assert "3g.40gb" in picture
    run("idle", f"1/{first}/0")
    run("idle", "0")
    run("fault", "nvmlDeviceGetName", "--error", "IN_USE", "--times", "3", "--gpu", "0")
    run("fault", "nvmlInit*", "--kill")
    run("fault", "nvmlInit*", "--kill", "after", "--skip", "2")
    run("fault", "nvmlShutdown", "--hang")
    faults = json.loads(run("faults", "show"))
    assert [(fault["kind"], fault["times"], fault["skip"], fault["gpu"]) for fault in faults] == [
        ("error", 3, 0, 0),
        ("kill-before", 1, 0, None),
        ("kill-after", 1, 2, None),
        ("hang", None, 0, None),
    ]
    assert "fault" in run("show")
    run("faults", "clear")
    run("lose", "0")
    assert "LOST" in run("show")
    run("reboot")
    run("reset", shown["gpus"][0]["uuid"])
    run("stage", "--root", str(tmp_path))
    assert (tmp_path / "sys/bus/pci/devices/0000:43:00.0").is_dir()
    run("unstage", "--root", str(tmp_path))
    assert not (tmp_path / "sys/bus/pci").exists()


def test_the_picture_tells_a_pending_mode_and_boards_without_mig(start: Start) -> None:
    driver = start("a100-40,t4")
    n.nvmlDeviceSetMigMode(n.nvmlDeviceGetHandleByIndex(0), 1)
    picture = emulator("--socket", str(driver.socket), "show").stdout
    assert "MIG off, change waits for a reset" in picture
    assert "Tesla T4  no MIG" in picture


def test_a_mistake_is_one_line(tmp_path: Path) -> None:
    missing = emulator("--socket", str(tmp_path / "none"), "show")
    assert missing.returncode == 1
    assert missing.stderr.startswith(f"emulated driver: no emulated driver answers at {tmp_path}/none")
    assert missing.stderr.count("\n") == 1
    bad = emulator("serve", "--gpus", "h999", "--socket", str(tmp_path / "s"))
    assert bad.returncode == 1
    assert "unknown board 'h999'" in bad.stderr
    assert bad.stderr.count("\n") == 1


def test_a_socket_is_served_once_and_a_left_one_is_taken_over(start: Start, tmp_path: Path) -> None:
    driver = start("h100-80", init=False)
    second = emulator("serve", "--gpus", "a30", "--socket", str(driver.socket))
    assert second.returncode == 1
    assert "serves" in second.stderr
    driver.process.kill()
    driver.process.wait()
    assert driver.socket.is_socket()
    with subprocess.Popen(
        [sys.executable, "-S", "-m", "emulator", "serve", "--gpus", "a30", "--socket", str(driver.socket)],
        env={**os.environ, "PYTHONPATH": str(TESTS)},
    ) as other:
        deadline = time.monotonic() + 10
        while emulator("--socket", str(driver.socket), "show").returncode:
            assert time.monotonic() < deadline
        other.terminate()
        assert other.wait(timeout=10) == 0
    assert not driver.socket.exists()


def test_only_its_owner_and_root_control_the_driver() -> None:
    if os.getuid():
        pytest.skip("becoming another user needs root")
    with EmulatedDriver("h100-80") as driver:
        driver.socket.parent.chmod(0o755)
        # A fork and no new program: the other user may not be able to read the files of this one.
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            os.setuid(65534)
            try:
                driver.control("reboot")
            except DriverError as error:
                os.write(writer, str(error).encode())
            os._exit(0)
        os.close(writer)
        os.waitpid(child, 0)
        with os.fdopen(reader) as answer:
            said = answer.read()
        assert "user 65534 may not control" in said
        assert driver.show()["boots"] == 1


# -- installation ----------------------------------------------------------------------------------------------------


def test_an_installed_driver_runs_from_where_it_was_put(tmp_path: Path) -> None:
    node = tmp_path / "node"
    (node / "etc").mkdir(parents=True)
    install.install(node, "8xa100-40=1g.5gb*7", ["--shuffle-minors", "--numa", "0-3"])
    install.install(node, "8xa100-40=1g.5gb*7", ["--shuffle-minors", "--numa", "0-3"])
    unit = (node / "etc/systemd/system/emulated-gpu.service").read_text()
    assert "Type=notify" in unit
    assert "Before=slurmd.service" in unit
    wanted = node / "etc/systemd/system/multi-user.target.wants/emulated-gpu.service"
    assert str(wanted.readlink()) == "/etc/systemd/system/emulated-gpu.service"
    assert (node / "usr/local/lib/libnvidia-ml.so.1").stat().st_mode & 0o777 == 0o644
    config = (node / "etc/emulated-gpu.conf").read_text()
    assert config == "EMULATED_GPUS=8xa100-40=1g.5gb*7\nEMULATED_GPU_ARGUMENTS=--shuffle-minors --numa 0-3\n"
    package = node / "opt/emulated-gpu"
    assert not list((package / "emulator").glob("test_*"))
    assert not (package / "emulator/conftest.py").exists()

    notify = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(notify))
        systemd.settimeout(20)
        served = tmp_path / "s"
        with subprocess.Popen(
            [sys.executable, "-S", "-m", "emulator", "serve", "--gpus", "a30", "--socket", str(served)],
            env={**os.environ, "PYTHONPATH": str(package), "NOTIFY_SOCKET": str(notify)},
        ) as daemon:
            assert systemd.recv(64) == b"READY=1"
            assert served.is_socket()
            daemon.terminate()
            assert daemon.wait(timeout=10) == 0

    install.uninstall(node)
    assert not [path for path in node.rglob("*") if path.is_file() or path.is_symlink()]


def test_an_installation_refuses_what_it_can_not_write_down(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown board"):
        install.install(tmp_path, "h999")
    with pytest.raises(ValueError, match="without spaces or quotes, found 'a b'"):
        install.install(tmp_path, "a30", ["a b"])
    assert list(tmp_path.iterdir()) == []


def test_a_daemon_that_can_not_start_says_why() -> None:
    with (
        pytest.raises(DriverError, match=r"driver 470.1 is too old"),
        EmulatedDriver("h100-80", driver_version="470.1"),
    ):
        pass
    with pytest.raises(DriverError, match="expected a CPU list"), EmulatedDriver("h100-80", numa=["x"]):
        pass


# -- the library -----------------------------------------------------------------------------------------------------


def test_a_round_trip_is_quick(start: Start) -> None:
    start("8xh100-80=1g.10gb*7")
    device = n.nvmlDeviceGetHandleByIndex(7)
    times = []
    for _ in range(1000):
        before = time.perf_counter()
        n.nvmlDeviceGetMinorNumber(device)
        times.append(time.perf_counter() - before)
    assert statistics.median(times) < 0.0002


def test_56_instances_are_created_and_read_in_time(start: Start, tmp_path: Path) -> None:
    start("8xh100-80=", root=tmp_path)
    before = time.monotonic()
    for index in range(8):
        device = n.nvmlDeviceGetHandleByIndex(index)
        for _ in range(7):
            n.nvmlGpuInstanceCreateComputeInstance(n.nvmlDeviceCreateGpuInstance(device, 19), 0)
    names = [n.nvmlDeviceGetUUID(mig) for index in range(8) for mig in mig_devices(n.nvmlDeviceGetHandleByIndex(index))]
    assert len(set(names)) == 56
    assert len(list((tmp_path / "dev/nvidia-caps").iterdir())) == 2 + 2 * 56
    assert time.monotonic() - before < 5


def test_threads_have_connections_of_their_own(start: Start) -> None:
    start("8xh100-80")
    wrong: list[Any] = []

    def ask(index: int) -> None:
        device = n.nvmlDeviceGetHandleByIndex(index)
        for _ in range(200):
            if n.nvmlDeviceGetIndex(device) != index or n.nvmlDeviceGetMinorNumber(device) != index:
                wrong.append(index)

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_forked_child_does_not_share_its_parents_connection(start: Start, python: Python) -> None:
    driver = start("4xh100-80")
    script = """
import os, signal
signal.alarm(15)
devices = [n.nvmlDeviceGetHandleByIndex(index) for index in range(4)]
children = []
for index in range(4):
    child = os.fork()
    if child == 0:
        signal.alarm(15)  # a parent's is not inherited
        os._exit(0 if all(n.nvmlDeviceGetIndex(devices[index]) == index for _ in range(200)) else 1)
    children.append(child)
assert all(n.nvmlDeviceGetIndex(device) == index for _ in range(50) for index, device in enumerate(devices))
assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
"""
    done = python(driver, script)
    assert done.returncode == 0, done.stderr


def test_bytes_that_are_no_request_harm_nobody(start: Start) -> None:
    driver = start("h100-80")
    for garbage in (
        b"\xff\xff\xff\xff",
        b"\1\0\0\0\0",
        b"\2\0\0\0\x09x",
        b"\0\0\0\0",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\5",
    ):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(driver.socket))
            connection.sendall(garbage)
    for name, payload in (
        ("nvmlDeviceGetName", b"x"),
        ("nvmlNoSuchFunction", b""),
        ("nvmlDeviceGetHandleByUUID", b"\xff"),
    ):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(driver.socket))
            connection.sendall(wire.request(name, payload))
            assert connection.recv(64)
    assert n.nvmlDeviceGetCount() == 1
