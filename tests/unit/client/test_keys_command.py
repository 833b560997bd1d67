"""`evenflow keys` against a policy service that runs: what is printed where, and the exit codes."""

import asyncio
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from typer.testing import Result

from services.policy.core.keys import hashed
from tests.unit.client.test_command import evenflow
from tests.unit.policy.served import KEY_SECRET, serving


@dataclass(frozen=True)
class Ran:
    results: Sequence[Result]
    hashes: frozenset[bytes]  # of the keys in force, in the end


def keys(folder: Path, *commands: Sequence[str]) -> Ran:
    """`evenflow keys` with each of these arguments, in turn, on 2027-01-15."""

    async def scenario() -> Ran:
        async with serving(folder) as served:
            home = folder / "home"
            operator = served.identities.service("operator").certificate.parent
            shutil.copytree(operator, home / "certs/operator", symlinks=True)
            port = ("--policy-port", served.where.rpartition(":")[2])
            results = [
                await asyncio.to_thread(evenflow, "keys", *each, *port, home=home)
                for each in commands
            ]
            in_force = frozenset(
                secret.hmac_sha256
                for key in served.servicer.keys.all
                for secret in (key.secret, key.former)
                if secret is not None
            )
            return Ran(results, in_force)

    with capture_logs() as logs:  # they would go to the command's standard output
        ran = asyncio.run(scenario())
    secrets = [each.stdout.strip() for each in ran.results if each.stdout.startswith("evf_")]
    assert not any(secret in str(logs) for secret in secrets)
    return ran


CREATE = ("create", "acme", "--workload", "web", "--id", "web-2")


def test_the_secret_alone_goes_to_standard_output(tmp_path: Path) -> None:
    ran = keys(tmp_path, (*CREATE, "--expires", "90d"))

    (made,) = ran.results
    assert made.exit_code == 0
    assert ran.hashes == {hashed(KEY_SECRET, made.stdout.removesuffix("\n"))}
    assert made.stderr == (
        "acme/web-2, workload web, good until 2027-04-15 08:00 UTC. "
        "Its secret is shown this once.\n"
    )


def test_a_rotated_key_has_another_secret_and_keeps_the_old_one_as_long_as_was_said(
    tmp_path: Path,
) -> None:
    ran = keys(tmp_path, CREATE, ("rotate", "acme", "web-2", "--overlap", "24h"))

    made, rotated = ran.results
    assert rotated.exit_code == 0
    assert ran.hashes == {
        hashed(KEY_SECRET, each.stdout.removesuffix("\n")) for each in (made, rotated)
    }
    assert "The secret before is good until 2027-01-16 08:00 UTC." in rotated.stderr


def test_without_an_overlap_the_old_secret_is_good_no_more(tmp_path: Path) -> None:
    ran = keys(tmp_path, CREATE, ("rotate", "acme", "web-2"))

    _, rotated = ran.results
    assert ran.hashes == {hashed(KEY_SECRET, rotated.stdout.removesuffix("\n"))}
    assert "The secret before is good no more." in rotated.stderr


def test_a_revoked_key_is_gone(tmp_path: Path) -> None:
    ran = keys(tmp_path, CREATE, ("revoke", "acme", "web-2"), ("revoke", "acme", "web-2"))

    _, revoked, again = ran.results
    assert not ran.hashes
    assert revoked.exit_code == 0
    assert revoked.stdout.startswith("revoked acme/web-2; ")
    assert again.exit_code == 1
    assert "KEY_NOT_FOUND" in again.stderr


def test_keys_are_listed_within_80_columns(tmp_path: Path) -> None:
    *_, listed = keys(tmp_path, (*CREATE, "--expires", "90d"), ("list",)).results

    rows = [line.split() for line in listed.stdout.splitlines() if "/" in line]
    assert rows == [
        ["acme/web-1", "web", "file", "good", "-", "-"],
        ["acme/web-2", "web", "created", "good", "2027-04-15", "08:00", "-"],
    ]
    assert max(map(len, listed.stdout.splitlines())) <= 80


def test_scripts_get_json(tmp_path: Path) -> None:
    ran = keys(tmp_path, CREATE, ("list", "acme", "--json"), ("list", "globex", "--json")).results

    assert json.loads(ran[1].stdout)["keys"][1] == {
        "tenant": "acme",
        "id": "web-2",
        "workload": "web",
        "source": "created",
        "state": "good",
        "created_at": "2027-01-15T08:00:00Z",
        "expires_at": None,
        "rotated_at": None,
        "former_until": None,
    }
    assert json.loads(ran[2].stdout) == {"keys": []}


def test_no_secret_is_ever_listed(tmp_path: Path) -> None:
    made, *listed = keys(tmp_path, CREATE, ("list",), ("list", "--json")).results

    assert not any(made.stdout.strip() in each.output for each in listed)


def test_a_refusal_names_the_field(tmp_path: Path) -> None:
    (refused,) = keys(tmp_path, ("create", "globex", "--workload", "web")).results

    assert refused.exit_code == 1
    assert "FIELD_INVALID (tenant)" in refused.stderr
    assert not refused.stdout


@pytest.mark.parametrize("wrong", ["90", "d", "1.5h", "-1d", "1w", "9999999999s"])
def test_a_duration_that_cannot_be_read_is_said(tmp_path: Path, wrong: str) -> None:
    (result,) = keys(tmp_path, (*CREATE, f"--expires={wrong}")).results

    assert result.exit_code == 2
    assert "must be like 90d" in " ".join(result.stderr.replace("│", " ").split())
