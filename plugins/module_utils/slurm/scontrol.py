# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ask and tell ``slurmctld``, through ``scontrol`` and ``squeue``, with patience for one that is just restarting.

Works on the controller and on every node. Commands enter as a callable, as in :mod:`.control`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .control import Completed, Runner
from .hostlist import expand
from .states import HOLDING, Job, Node, StateError, parse_jobs, parse_node, parse_nodes

# What the commands print when no controller answers, be it that it starts, or that a reconfigured one takes over.
_SILENT = (
    "Unable to contact slurm controller",
    "Socket timed out",
    "Connection refused",
    "Connection reset by peer",
    "Zero Bytes were transmitted",
    "Slurm backup controller in standby mode",
    "Transport endpoint is not connected",
)
# What it says to a resume of a node that it has not heard of since it started itself (UNKNOWN+DRAIN), and of one that
# is not drained.
_NOT_YET = "Invalid node state specified"
_PAUSE_S = 1.0


class ScontrolError(Exception):
    """Slurm did not do as asked, or does not answer; the text says what was asked and what came back."""


@dataclass(frozen=True)
class Scontrol:
    """*patience_s*: for how long a controller that does not answer is asked again. The last two are for tests."""

    run: Runner
    patience_s: float = 60.0
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def node(self, name: str) -> Node:
        """How the controller has the node *name*.

        :raises ScontrolError: it does not answer, or knows no such node.
        """
        try:
            return parse_node(self._ask(["scontrol", "show", "node", name, "--json"]), name)
        except StateError as error:
            raise ScontrolError(str(error)) from error

    def jobs(self, name: str) -> list[Job]:
        """The jobs that hold a part of the node *name*, suspended and completing ones included.

        :raises ScontrolError: see there.
        """
        try:
            return parse_jobs(self._ask(["squeue", f"--nodelist={name}", f"--states={','.join(HOLDING)}", "--json"]))
        except StateError as error:
            raise ScontrolError(str(error)) from error

    def nodes(self) -> dict[str, Node]:
        """All nodes by name, as the controller has them.

        :raises ScontrolError: see there.
        """
        try:
            return parse_nodes(self._ask(["scontrol", "show", "nodes", "--json"]))
        except StateError as error:
            raise ScontrolError(str(error)) from error

    def nodes_with_jobs(self) -> set[str]:
        """The nodes of which jobs hold a part.

        :raises ScontrolError: see there.
        """
        said = self._ask(["squeue", "--noheader", f"--states={','.join(HOLDING)}", "--format=%N"])
        try:
            return {node for line in said.split() for node in expand(line)}
        except ValueError as error:
            raise ScontrolError(f"expected host lists from squeue, found {error}") from error

    def answers(self) -> bool:
        """Whether a controller answers now. It is asked once."""
        done = self.run(["scontrol", "ping"])
        return " is UP" in done.stdout

    def drain(self, name: str, reason: str) -> None:
        """Let no new job start there. Running ones go on.

        :raises ScontrolError: see there.
        """
        self._ask(["scontrol", "update", f"NodeName={name}", "State=DRAIN", f"Reason={reason}"])

    def resume(self, name: str) -> None:
        """Let jobs start there again. A controller that just started may have to hear of the node first.

        :raises ScontrolError: see there.
        """
        end = self.clock() + self.patience_s
        while True:
            try:
                self._ask(["scontrol", "update", f"NodeName={name}", "State=RESUME"])
                return
            except ScontrolError as error:
                if _NOT_YET not in str(error) or self.clock() >= end:
                    raise
            if not self.node(name).drained:
                return  # it had been done, and the answer was lost
            self.sleep(_PAUSE_S)

    def reconfigure(self) -> None:
        """Have the controller, and each ``slurmd`` that answers, read the configuration again.

        In Slurm 24.11 that starts each daemon anew in its place. A controller that cannot start with the new
        configuration goes on with the old one, and the command fails. Running jobs are not touched.

        :raises ScontrolError: see there; why the controller refused is in its log.
        """
        self._ask(["scontrol", "reconfigure"])

    def wait_until_answers(self) -> None:
        """Wait for a controller that has just been told to start anew.

        :raises ScontrolError: none answers.
        """
        self._ask(["scontrol", "show", "config"])

    def _ask(self, command: Sequence[str]) -> str:
        end = self.clock() + self.patience_s
        while True:
            done = self.run(command)
            if done.rc == 0:
                return done.stdout
            if not any(phrase in done.stderr for phrase in _SILENT):
                raise ScontrolError(f"{' '.join(command)} failed with exit code {done.rc}: {_told(done)}")
            if self.clock() >= end:
                raise ScontrolError(
                    f"{' '.join(command)}: no controller answered for {self.patience_s:.0f} s: {_told(done)}. "
                    "Is slurmctld running and reachable from here (scontrol ping)?"
                )
            self.sleep(_PAUSE_S)  # there is no event for "the controller is back"


def _told(done: Completed) -> str:
    lines = [line.strip() for line in f"{done.stdout}\n{done.stderr}".splitlines() if line.strip()]
    return lines[-1] if lines else "no message"
