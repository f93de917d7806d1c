# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The daemon: one thread, one machine. Calls are served one after the other, as behind the kernel driver's big lock."""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import struct
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from . import calls_device, calls_memory, calls_mig, wire
from .call import CALLS, Context, Peer, subject
from .control import ControlError, Controls
from .errors import Code, NvmlError
from .machine import Machine

DEFAULT_SOCKET = Path("/run/emulated-gpu/driver.sock")
_REGISTERED = (calls_device, calls_memory, calls_mig)  # imported for what they register
_CREDENTIALS = struct.Struct("3i")
#: A client that does not take its answer must not hold up the others.
_SEND_TIMEOUT_S = 5.0


@dataclass(eq=False)
class Client:
    """A connected process. *hung* is the request a hang fault keeps unanswered."""

    connection: socket.socket
    peer: Peer
    received: bytearray = field(default_factory=bytearray)
    hung: bytes | None = None


class Server:
    """Serves one machine on a Unix socket.

    *privileged_uid* may manage MIG beside root; by default the daemon's own user, so that tests need no root.
    *sync* is called after every call that changed what the staged files should show, before the caller gets its answer.
    """

    def __init__(
        self,
        machine: Machine,
        path: Path,
        controls: Controls,
        sync: Callable[[], None] | None = None,
        privileged_uid: int | None = None,
    ) -> None:
        self.machine = machine
        self.path = path
        self._controls = controls
        self._sync = sync
        self._privileged = {0, os.getuid()} if privileged_uid is None else {privileged_uid}
        self._selector = selectors.DefaultSelector()
        self._clients: set[Client] = set()
        self._stopping = False
        self._listener = _listen(path)
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        self._wait_for_signals()

    def watch(self, descriptor: int) -> None:
        """End when *descriptor* is closed at its other end: a test's daemon must not outlive the test."""
        self._selector.register(descriptor, selectors.EVENT_READ, self._stop)

    def _wait_for_signals(self) -> None:
        """From here on SIGTERM and SIGINT are an orderly end, even before :meth:`run`."""
        wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_write)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        self._selector.register(wake_read, selectors.EVENT_READ, self._stop)

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT, then remove the socket."""
        while not self._stopping:
            for key, _ in self._selector.select():
                if isinstance(key.data, Client):
                    self._read(key.data)
                else:
                    key.data()
        self._listener.close()
        self.path.unlink(missing_ok=True)

    def _stop(self) -> None:
        self._stopping = True

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        connection.settimeout(_SEND_TIMEOUT_S)
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid, uid, _gid = _CREDENTIALS.unpack(credentials)
        client = Client(connection, Peer(pid, uid, uid in self._privileged))
        self._clients.add(client)
        self._selector.register(connection, selectors.EVENT_READ, client)

    def _drop(self, client: Client) -> None:
        self._selector.unregister(client.connection)
        client.connection.close()
        self._clients.discard(client)

    def _read(self, client: Client) -> None:
        try:
            chunk = client.connection.recv(wire.MAX_FRAME)
        except ConnectionError:
            chunk = b""
        if not chunk:
            self._drop(client)
            return
        client.received += chunk
        while len(client.received) >= wire.HEADER.size:
            (size,) = wire.HEADER.unpack_from(client.received)
            if size > wire.MAX_FRAME:
                self._drop(client)
                return
            if len(client.received) < wire.HEADER.size + size:
                return
            body = bytes(client.received[wire.HEADER.size : wire.HEADER.size + size])
            del client.received[: wire.HEADER.size + size]
            if not self._serve(client, body):
                return

    def _serve(self, client: Client, body: bytes) -> bool:
        """Answer one request; ``False`` when the client had to be dropped."""
        before = self.machine.revision
        answer = self._answer(client, body)
        if self._sync is not None and self.machine.revision != before:
            self._sync()
        if answer is None:
            return True
        try:
            client.connection.sendall(answer)
        except OSError:
            self._drop(client)
            return False
        return True

    def _answer(self, client: Client, body: bytes) -> bytes | None:
        """The reply frame, ``None`` to keep the caller waiting."""
        try:
            name, payload = wire.parse_request(body)
        except ValueError:
            return wire.reply(Code.INVALID_ARGUMENT)
        if name == wire.CONTROL:
            return self._control(client, payload)
        fault = self.machine.faults.strike(name, subject(self.machine, payload, name))
        if fault is not None:
            if fault.kind == "hang":
                client.hung = body
                return None
            if fault.kind == "error":
                return wire.reply(fault.code)
            if fault.kind == "kill-before":
                return wire.reply(wire.KILL)
        status, outs = self._call(client.peer, name, payload)
        return wire.reply(wire.KILL if fault is not None else status, outs)

    def _call(self, peer: Peer, name: str, payload: bytes) -> tuple[int, tuple[bytes, ...]]:
        call = CALLS.get(name)
        if call is None:
            return Code.FUNCTION_NOT_FOUND, ()
        try:
            return Code.SUCCESS, call.run(Context(self.machine, peer), payload)
        except NvmlError as error:
            return error.code, error.outs
        except Exception:  # a bug here must show, and must not take the other clients' driver away
            traceback.print_exc()
            return Code.UNKNOWN, ()

    def _control(self, client: Client, payload: bytes) -> bytes:
        result: object
        if not client.peer.privileged and client.peer.uid != os.getuid():
            return _json_reply({"error": f"user {client.peer.uid} may not control the emulated driver: be root"})
        try:
            request = json.loads(payload)
            result = {"result": self._controls.run(request)}
            if request.get("command") == "faults-clear":
                self._release()
        except (ControlError, ValueError, KeyError, TypeError) as error:
            result = {"error": str(error)}
        except NvmlError as error:
            result = {"error": str(error), "code": error.code.name}
        except OSError as error:
            result = {"error": f"{type(error).__name__}: {error}"}
        return _json_reply(result)

    def _release(self) -> None:
        """Let calls that hang go on."""
        for client in list(self._clients):
            body, client.hung = client.hung, None
            if body is not None:
                self._serve(client, body)


def _json_reply(value: object) -> bytes:
    return wire.reply(Code.SUCCESS, (json.dumps(value).encode(),))


def _listen(path: Path) -> socket.socket:
    """A listening socket that every user may connect to.

    :raises OSError: another daemon serves there already.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    if path.is_socket():
        try:
            listener.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()  # left by a daemon that was killed
        else:
            raise OSError(f"an emulated driver serves {path} already: stop it, or choose another socket")
        listener.close()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    listener.bind(str(path))
    path.chmod(0o666)
    listener.listen(128)
    return listener
