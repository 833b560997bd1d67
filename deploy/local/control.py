"""Asks a running supervisord about the mesh's programs, and has it stop and start them."""

import xmlrpc.client
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any, cast

from supervisor.xmlrpc import SupervisorTransport

SOCKET = "supervisor.sock"  # in the run folder


@dataclass(frozen=True, slots=True)
class ProgramState:
    name: str
    status: str  # supervisord's: STARTING, RUNNING, BACKOFF, EXITED, FATAL, STOPPING, STOPPED
    pid: int  # 0: none
    group: str


class NoSupervisor(ConnectionError):
    """supervisord does not answer on its socket: it starts, ends, or was never there."""


class Control:
    def __init__(self, socket: Path) -> None:
        self._socket = socket

    def states(self) -> dict[str, ProgramState]:
        """By program. Raises NoSupervisor."""
        try:
            with self._rpc() as rpc:
                found = cast(list[dict[str, Any]], rpc.getAllProcessInfo())
        except (OSError, HTTPException, xmlrpc.client.Error) as error:
            raise NoSupervisor(f"nobody answers on {self._socket}: {error}") from error
        return {
            each["name"]: ProgramState(each["name"], each["statename"], each["pid"], each["group"])
            for each in found
        }

    def stop(self, name: str) -> None:
        """Returns when it has ended; killed, if it takes longer than it may."""
        full_name = self._full_name(name)
        with self._rpc() as rpc:
            rpc.stopProcess(full_name)

    def start(self, name: str) -> None:
        """Returns at once: supervisord waits seconds before it says RUNNING."""
        full_name = self._full_name(name)
        with self._rpc() as rpc:
            rpc.startProcess(full_name, False)

    def signal(self, name: str, signal_name: str) -> None:
        """`signal_name`: HUP, for example."""
        full_name = self._full_name(name)
        with self._rpc() as rpc:
            rpc.signalProcess(full_name, signal_name)

    def _full_name(self, name: str) -> str:
        return f"{self.states()[name].group}:{name}"

    @contextmanager
    def _rpc(self) -> Iterator[Any]:
        # Afresh each time: the transport keeps a connection that has failed.
        transport = SupervisorTransport(serverurl=f"unix://{self._socket}")
        try:
            yield xmlrpc.client.ServerProxy("http://localhost", transport=transport).supervisor
        finally:
            transport.close()
