"""Blocking calls to the llama.cpp server inside this process, over its private unix socket."""

import http.client
import json
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from services.runtime.core.engine import EngineFailed, InvalidInput

_TIMEOUT_S = 120.0  # longer than any step; only a hung engine takes it
_POLL_S = 0.005

Event = Mapping[str, Any]


def call(path: Path, method: str, target: str, body: Mapping[str, Any] | None = None) -> Any:
    """One request and its JSON answer. No message holds the body.

    Raises:
        EngineFailed, InvalidInput
    """
    connection = _UnixConnection(path)
    try:
        response = _ask(connection, method, target, body)
        return json.loads(response.read())
    except (OSError, http.client.HTTPException) as error:
        raise EngineFailed(f"llama.cpp does not answer {target}: {type(error).__name__}") from error
    finally:
        connection.close()


class Completion:
    """One streamed completion. `run` blocks a thread; `cancel` may be called from any other."""

    def __init__(
        self, path: Path, body: Mapping[str, Any], on_event: Callable[[Event], None]
    ) -> None:
        self._path = path
        self._body = body
        self._on_event = on_event
        self._connection = _UnixConnection(path)
        self._began = False
        self._cancelled = False

    def run(self) -> None:
        """Returns when the slot is free. Raises EngineFailed, InvalidInput, unless cancelled."""
        try:
            response = _ask(self._connection, "POST", "/completion", self._body)
            ended = self._read(response)
        except (OSError, http.client.HTTPException) as error:
            ended = False
            if not self._cancelled:
                raise EngineFailed(f"llama.cpp broke off: {type(error).__name__}") from error
        finally:
            self._connection.close()
        if not ended:
            self._wait_until_free(self._body["id_slot"])

    def cancel(self) -> None:
        """Frees the slot after at most two batches.

        The server notices that its reader has gone when a batch ends, by when it has begun the
        next one. Before its first event it may not have begun at all, and would do so later; then
        the reader breaks off as soon as it has.
        """
        self._cancelled = True
        if self._began:
            self._connection.break_off()

    def _read(self, response: http.client.HTTPResponse) -> bool:
        for line in response:
            if not line.startswith(b"data: "):
                continue
            event = json.loads(line[len(b"data: ") :])
            self._began = True
            if self._cancelled:
                self._connection.break_off()
                return False
            if "error" in event:
                raise EngineFailed("llama.cpp could not go on")
            self._on_event(event)
            if event["stop"]:
                return True
        if not self._cancelled:
            raise EngineFailed("llama.cpp ended its stream early")
        return False

    def _wait_until_free(self, slot: int) -> None:
        give_up_s = time.monotonic() + _TIMEOUT_S
        while call(self._path, "GET", "/slots")[slot]["is_processing"]:
            if time.monotonic() > give_up_s:
                raise EngineFailed(f"llama.cpp does not free slot {slot}")
            time.sleep(_POLL_S)  # noqa: TID251 - this thread is the job's own, and has only to wait


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))
        self._open = self.sock  # http.client forgets it once the response owns it

    def break_off(self) -> None:
        with suppress(OSError):  # it has ended meanwhile
            self._open.shutdown(socket.SHUT_RDWR)


def _ask(
    connection: http.client.HTTPConnection,
    method: str,
    target: str,
    body: Mapping[str, Any] | None,
) -> http.client.HTTPResponse:
    connection.request(
        method,
        target,
        None if body is None else json.dumps(body),
        {"Content-Type": "application/json", "Connection": "close"},
    )
    response = connection.getresponse()
    if response.status == http.HTTPStatus.BAD_REQUEST:
        # The request's fault and not the engine's, which another one would share.
        field = "json_schema" if body and "json_schema" in body else "prompt"
        raise InvalidInput(field, "llama.cpp can't work with it")
    if response.status != http.HTTPStatus.OK:
        raise EngineFailed(f"llama.cpp answered {target} with status {response.status}")
    return response
