# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a person sees of a long run: one line for each step, with the time it really took."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager


def started() -> float:
    """When the whole command began, on the monotonic clock: ``./run`` may have installed packages before."""
    return time.monotonic() - float(os.environ.get("RIG_SECONDS_BEFORE", "0"))


class Step:
    """A step under way. *note* is put behind its time when it ends."""

    def __init__(self, text: str) -> None:
        self.note = ""
        self._text = text
        self._live = sys.stdout.isatty()
        self._start = time.monotonic()
        self.show("")

    def show(self, detail: str) -> None:
        """Tell what is being done right now; only on a terminal, where the line can be taken back."""
        if self._live:
            line = f"  .. {self._text}" + (f": {detail}" if detail else "")
            sys.stdout.write("\r\033[K" + line[: shutil.get_terminal_size().columns - 1])
            sys.stdout.flush()

    def end(self, mark: str) -> float:
        seconds = time.monotonic() - self._start
        start = "\r\033[K" if self._live else ""
        print(
            f"{start}  {mark:<4} {self._text:<58} {seconds:6.1f} s{f'  {self.note}' if self.note else ''}", flush=True
        )
        return seconds


@contextmanager
def step(text: str) -> Iterator[Step]:
    """Show *text* as a step for the time of a ``with`` block; an exception marks it as failed and goes on."""
    under_way = Step(text)
    try:
        yield under_way
    except BaseException:
        under_way.end("FAIL")
        raise
    under_way.end("ok")


def heading(text: str) -> None:
    bold = ("\033[1m", "\033[0m") if sys.stdout.isatty() else ("", "")
    print(f"\n{bold[0]}{text}{bold[1]}", flush=True)


def shown(command: str, output: str) -> None:
    """A command and what it said, as a person would have seen it."""
    print(f"    $ {command}")
    for line in output.rstrip().splitlines():
        print(f"    {line}")
    print(flush=True)
