"""`evenflow audit`: what it prints, and returns to the shell."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from evenflow.audit_verifying import SEGMENTS
from tests import processes
from tests.unit.audit.logs import SIGNER, deed, made, opened, write
from tests.unit.audit.test_servicer import request, serving
from tests.unit.client.test_command import evenflow

Ended = subprocess.CompletedProcess[str]


def _process(home: Path, *arguments: str) -> Ended:
    """One of its own: the service that it calls logs to our standard output."""
    command = (sys.executable, "-c", "from evenflow.cli.main import main; main()")
    environ = {**os.environ, "EVENFLOW_HOME": str(home), "PYTHONPATH": ".:client"}
    return processes.ended(*command, *arguments, environ=environ)


def asked(folder: Path, *arguments: str) -> Ended:
    """Of a policy service that has two deeds and three requests in its log."""

    async def scenario() -> Ended:
        async with serving(folder) as served:
            served.identities.service("operator")
            (folder / "certs").symlink_to(folder / "service")
            await served.log.record(deed(1))
            await served.append([request(1, 2, 3)])
            await served.log.record(deed(2, tenant="globex"))
            port = ("--policy-port", served.where.rpartition(":")[2])
            return await asyncio.to_thread(_process, folder, "audit", *arguments, *port)

    return asyncio.run(scenario())


def test_list_shows_the_last_ones(tmp_path: Path) -> None:
    result = asked(tmp_path, "list", "--json", "--action", "request.", "--last", "2")

    assert [each["number"] for each in json.loads(result.stdout)["entries"]] == [3, 4]


def test_list_is_a_table_for_people(tmp_path: Path) -> None:
    result = asked(tmp_path, "list", "--tenant", "globex")

    assert result.returncode == 0
    assert "tenant" in result.stdout
    assert "spiffe://" not in result.stdout  # what tells actors apart is enough
    assert "globex" in result.stdout
    assert "acme/web" not in result.stdout


@pytest.mark.parametrize("since", ["2026-11-18", "2026-11-18T11:06:40Z"])
def test_an_export_verifies_without_a_mesh(tmp_path: Path, since: str) -> None:
    exported = asked(tmp_path, "export", "--since", since)
    (tmp_path / "export.jsonl").write_text(exported.stdout)
    (tmp_path / "key.pem").write_bytes(SIGNER.public_pem)

    trusted = ("--public-key", str(tmp_path / "key.pem"))
    file = str(tmp_path / "export.jsonl")
    result = evenflow("audit", "verify", "--file", file, *trusted, home=tmp_path)

    assert result.stdout.startswith("good: entries 1 to 5, ")


def test_the_key_is_printed(tmp_path: Path) -> None:
    assert asked(tmp_path, "key").stdout.encode() == SIGNER.public_pem


def test_a_time_that_is_none_is_refused(tmp_path: Path) -> None:
    assert "must be as in" in evenflow("audit", "list", "--since", "soon", home=tmp_path).output


def test_the_first_broken_entry_is_named(tmp_path: Path) -> None:
    made(tmp_path / "audit")
    first = min((tmp_path / "audit").glob(SEGMENTS))
    first.write_bytes(first.read_bytes().replace(b'"at":"4"', b'"at":"5"'))

    result = evenflow("audit", "verify", home=tmp_path)
    scripted = evenflow("audit", "verify", "--json", home=tmp_path)

    assert (result.exit_code, scripted.exit_code) == (1, 1)
    said = f"broken: entry 4 in {first.name}: hash: its hash is of another content\n"
    assert result.stdout == said
    assert json.loads(scripted.stdout)["number"] == 4


def test_a_log_that_is_good_and_one_that_is_empty(tmp_path: Path) -> None:
    empty = evenflow("audit", "verify", home=tmp_path)
    with opened(tmp_path / "audit") as chain:
        nothing = evenflow("audit", "verify", home=tmp_path)
        write(chain, 1, 3)
        chain.checkpoint()
        write(chain, 4, 5)
    good = evenflow("audit", "verify", "--json", home=tmp_path)

    assert empty.exit_code != 0
    assert (nothing.exit_code, nothing.stdout) == (
        1,
        "broken: entry 1: missing: there is no entry\n",
    )
    assert json.loads(good.stdout)["signed_to"] == 3
