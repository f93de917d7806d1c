# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run commands of the host, with a failure that says what a person needs to know."""

from __future__ import annotations

import shlex
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from .paths import CACHE

Completed = subprocess.CompletedProcess[str]


class RigError(Exception):
    """The rig cannot go on; the message, which needs no traceback, says what was expected and found and what to do."""


def run(
    command: Sequence[str | Path],
    *,
    check: bool = True,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    log: Path | None = None,
    stdin: str | None = None,
    timeout: float | None = None,
    called: str | None = None,
) -> Completed:
    """Run *command* and return its result; standard output and error are text.

    :param log: append both outputs to this file as they come (the result's ``stdout`` is then empty), so that a long
        step can be followed and its end be shown when it fails.
    :param stdin: text for standard input; nothing (``/dev/null``) when absent, so that no command waits for a person.
    :param called: what messages call the command; the command itself when absent.
    :raises RigError: the command is missing, took longer than *timeout* seconds, or failed while *check* is set.
    """
    words = [str(word) for word in command]
    called = called or shlex.join(words)
    feed = {"input": stdin} if stdin is not None else {"stdin": subprocess.DEVNULL}
    try:
        if log is None:
            done: Completed = subprocess.run(
                words, cwd=cwd, env=env, text=True, capture_output=True, check=False, timeout=timeout, **feed
            )
        else:
            with log.open("a", encoding="utf-8") as sink:
                sink.write(f"$ {shlex.join(words)}\n")
                sink.flush()
                done = subprocess.run(
                    words, cwd=cwd, env=env, text=True, stdout=sink, stderr=sink, check=False, timeout=timeout, **feed
                )
    except FileNotFoundError as error:
        raise RigError(f"the command {words[0]!r} is needed and is not installed ({error})") from error
    except subprocess.TimeoutExpired as error:
        raise RigError(f"{called} took longer than {timeout:.0f} s{log_end(log)}") from error
    if check and done.returncode != 0:
        told = log_end(log) if log else ":\n" + indented((done.stderr or "") + (done.stdout or ""))
        raise RigError(f"{called} failed with exit code {done.returncode}{told}")
    return done


def follow(
    command: Sequence[str | Path], *, log: Path, on_line: Callable[[str], None], env: Mapping[str, str], cwd: Path
) -> int:
    """Run *command*, append what it says to *log*, hand each line to *on_line* as it comes; return the exit code."""
    words = [str(word) for word in command]
    with log.open("a", encoding="utf-8") as sink:
        sink.write(f"$ {shlex.join(words)}\n")
        with subprocess.Popen(
            words,
            cwd=cwd,
            env=env,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as process:
            for line in process.stdout or ():
                sink.write(line)
                sink.flush()
                on_line(line.rstrip("\n"))
    return process.returncode


def log_for(name: str) -> Path:
    """A new, empty log file for the long step *name*; that of the run before is overwritten."""
    log = CACHE / "logs" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("", encoding="utf-8")
    return log


def log_end(log: Path | None, lines: int = 30) -> str:
    """The last lines of a step's log and where the rest is, to be put after a failure's first sentence."""
    if log is None or not log.exists():
        return ""
    text = log.read_text(encoding="utf-8", errors="replace")
    return f"; the end of {log}:\n{indented(text, lines)}"


def indented(text: str, lines: int = 30) -> str:
    """The last *lines* lines of *text*, set off from the message around them."""
    return "\n".join(f"    {line}" for line in text.strip().splitlines()[-lines:])


def wait_for(what: str, condition: Callable[[], bool], seconds: float, every: float = 0.1) -> None:
    """Wait until *condition* is true, asking every *every* seconds.

    :raises RigError: it was still false after *seconds*; the message names *what* was awaited.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise RigError(f"waited {seconds:.0f} s for {what}, in vain")
        time.sleep(every)
