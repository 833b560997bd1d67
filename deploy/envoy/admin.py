"""Asks a running Envoy, on its admin socket, which one it is and whether it serves."""

import http.client
import json
import socket
from dataclasses import dataclass
from pathlib import Path

ANSWERS_WITHIN_S = 1.0


@dataclass(frozen=True, slots=True)
class Running:
    epoch: int  # 0 for the first of a family, one more for each that took over
    live: bool  # it has its configuration and listens


def running(admin: Path) -> Running | None:
    """The Envoy that holds the admin socket; None if none answers."""
    try:
        answer = json.loads(_get(admin, "/server_info"))
    except (OSError, http.client.HTTPException, json.JSONDecodeError):
        return None
    return Running(
        epoch=answer["command_line_options"].get("restart_epoch", 0),
        live=answer["state"] == "LIVE",
    )


def _get(admin: Path, path: str) -> bytes:
    with socket.socket(socket.AF_UNIX) as connected:
        connected.settimeout(ANSWERS_WITHIN_S)
        connected.connect(str(admin))
        connection = http.client.HTTPConnection("envoy")
        connection.sock = connected
        connection.request("GET", path)
        return connection.getresponse().read()
