"""Keys in a whole mesh: what `evenflow keys` does, and what callers of Envoy's front end meet."""

import json
import time
from collections.abc import Iterator

import httpx
import pytest
from typer.testing import CliRunner

from evenflow.cli.commands import app
from tests.integration.whole.mesh import Mesh, running

KNOWN_WITHIN_S = 2.0
CUT_WITHIN_S = 2.0
SLACK_S = 2.0  # for a machine that is busy
TOKENS = 1000  # or until the simulation has no more to say, in 15 s


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    environ = {"RUNTIME_SIMULATED_STEP_S": "0.1"}
    with running(command="simulate", model="simulated", environ=environ) as started:
        yield started


def keys(mesh: Mesh, *arguments: str) -> str:
    """What it prints to standard output."""
    port = ("--policy-port", str(mesh.ports("policy")[0]), "--home", str(mesh.home))
    result = CliRunner().invoke(app, ["keys", *arguments, *port])
    assert result.exit_code == 0, result.output
    return result.stdout.strip()


def reason(mesh: Mesh, key: str) -> str:
    """Why a short request is refused; empty: it is answered."""
    answer = httpx.post(
        f"{mesh.frontend}/v1/chat/completions",
        headers={"authorization": f"Bearer {key}"},
        json={**_asked(mesh, 1), "stream": False},
        trust_env=False,
    )
    return "" if answer.status_code == 200 else str(answer.json()["error"]["code"])


def _asked(mesh: Mesh, tokens: int) -> dict[str, object]:
    return {
        "model": mesh.model,
        "stream": True,
        "max_completion_tokens": tokens,
        "messages": [{"role": "user", "content": "hi"}],
    }


def until(mesh: Mesh, key: str, wanted: str, *, within_s: float) -> float:
    """Seconds until requests with it are refused so."""
    since_s = time.monotonic()
    while (seen := reason(mesh, key)) != wanted:
        assert time.monotonic() < since_s + within_s, seen
    return time.monotonic() - since_s


class Streaming:
    """One long stream that has begun."""

    def __init__(self, mesh: Mesh, key: str) -> None:
        self._client = httpx.Client(trust_env=False, timeout=30)
        request = self._client.build_request(
            "POST",
            f"{mesh.frontend}/v1/chat/completions",
            headers={"authorization": f"Bearer {key}"},
            json=_asked(mesh, TOKENS),
        )
        answer = self._client.send(request, stream=True)
        assert answer.status_code == 200
        self._lines = answer.iter_lines()
        next(self._lines)

    def end(self) -> str:
        """Reads on to its end; why it ended, as far as its last event says so."""
        last = ""
        try:
            for line in self._lines:
                last = line or last
        except httpx.RemoteProtocolError as error:
            return repr(error)
        finally:
            self._client.close()
        said = json.loads(last.removeprefix("data: ")) if last.startswith("data: {") else {}
        return str(said.get("error", {}).get("code", last))


def test_a_key_lives_from_the_command_on_and_its_streams_end_with_it(mesh: Mesh) -> None:
    key = keys(mesh, "create", "acme", "--workload", "web", "--id", "k")
    created_s = until(mesh, key, "", within_s=KNOWN_WITHIN_S + SLACK_S)
    fresh = keys(mesh, "rotate", "acme", "k", "--overlap", "1h")
    until(mesh, fresh, "", within_s=KNOWN_WITHIN_S + SLACK_S)
    assert reason(mesh, key) == ""
    streams = [Streaming(mesh, each) for each in (key, fresh)]

    keys(mesh, "revoke", "acme", "k")

    since_s = time.monotonic()
    revoked_s = until(mesh, fresh, "UNKNOWN_IDENTITY", within_s=KNOWN_WITHIN_S + SLACK_S)
    ends = [each.end() for each in streams]
    cut_s = time.monotonic() - since_s
    print(f"good after {created_s:.2f} s, refused after {revoked_s:.2f} s, cut after {cut_s:.2f} s")
    assert ["KEY_REVOKED" in each for each in ends] == [True, True], ends
    assert cut_s < KNOWN_WITHIN_S + CUT_WITHIN_S + SLACK_S


def test_a_key_ends_at_its_time_with_its_streams(mesh: Mesh) -> None:
    key = keys(mesh, "create", "acme", "--workload", "web", "--id", "short", "--expires", "5s")
    made_s = time.monotonic()
    until(mesh, key, "", within_s=KNOWN_WITHIN_S + SLACK_S)
    stream = Streaming(mesh, key)

    end = stream.end()

    took_s = time.monotonic() - made_s
    print(f"a key of 5 s: its stream ended after {took_s:.2f} s")
    assert "KEY_REVOKED" in end
    assert 4.0 < took_s < 5.0 + CUT_WITHIN_S + SLACK_S
    assert reason(mesh, key) == "KEY_EXPIRED"
