# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A started emulated driver with pynvml initialised on it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pynvml
import pytest
from emulator.testing import EmulatedDriver

Start = Callable[..., EmulatedDriver]
Python = Callable[[EmulatedDriver, str], subprocess.CompletedProcess[str]]


@pytest.fixture
def start() -> Iterator[Start]:
    """``start(SPEC, **options)``: a driver and, unless ``init=False``, an initialised pynvml, for one test."""
    with ExitStack() as stack:

        def begin(gpus: str, *, init: bool = True, **options: Any) -> EmulatedDriver:
            driver = stack.enter_context(EmulatedDriver(gpus, **options))
            if init:
                pynvml.nvmlInit()
                stack.callback(pynvml.nvmlShutdown)
            return driver

        yield begin


@pytest.fixture
def python() -> Python:
    """Run a script in another process that sees the driver's GPUs, with ``n`` for an initialised pynvml."""

    def run(driver: EmulatedDriver, script: str) -> subprocess.CompletedProcess[str]:
        code = f"import pynvml as n\nn.nvmlInit()\n{script}"
        return subprocess.run(
            [sys.executable, "-c", code],
            env=driver.environment(),
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )

    return run
