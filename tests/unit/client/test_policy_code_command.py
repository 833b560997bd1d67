"""`evenflow policy diff`, `versions`, `show`, `rollback`, `follow` and `shadow`, as one uses them:
against a policy service that runs."""

import asyncio
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from structlog.testing import capture_logs
from typer.testing import Result

from evenflow.policy.v1 import shadow_service_pb2 as pb
from evenflow.policy.v1.shadow_service_pb2_grpc import ShadowServiceStub
from services.policy.core.dry_run import Decisions
from tests.unit.client.test_command import evenflow
from tests.unit.policy.policies import ACME, GLOBEX
from tests.unit.policy.served import NONE, Served, read, serving
from tests.unit.policy.test_diffing import Recorded, asked

OTHER = ACME.replace("512", "256")
V1, V2 = (read(each.encode()).version for each in (ACME, OTHER))


@dataclass
class Shell:
    """Runs commands against a policy service."""

    served: Served
    folder: Path

    async def says(self, *arguments: str, stdin: str = "") -> Result:
        port = self.served.where.rpartition(":")[2]
        home = self.folder / "home"
        if not home.exists():
            operator = self.served.identities.service("operator").certificate.parent
            shutil.copytree(operator, home / "certs/operator", symlinks=True)
        run = partial(evenflow, "policy", *arguments, "--policy-port", port)
        return await asyncio.to_thread(run, home=home, stdin=stdin)

    async def told(self, *arguments: str, stdin: str = "") -> Any:
        """What scripts are told."""
        return json.loads((await self.says(*arguments, "--json", stdin=stdin)).stdout)


def using(folder: Path, scenario: Callable[[Shell], Any], decisions: Decisions = NONE) -> Any:
    async def run() -> Any:
        async with serving(folder, ACME, decisions=decisions) as served:
            return await scenario(Shell(served, folder))

    with capture_logs():  # they would be among what the command prints
        return asyncio.run(run())


async def two_versions(shell: Shell) -> None:
    shell.served.file_says(OTHER)
    async with asyncio.timeout(10):
        while len((await shell.told("versions"))["versions"]) < 2:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)


def test_versions_are_shown_and_come_back(tmp_path: Path) -> None:
    async def scenario(shell: Shell) -> None:
        await two_versions(shell)
        listed = (await shell.says("versions")).stdout
        assert listed.index(V2[:12]) < listed.index(V1[:12])
        assert f"in force: {V2[:12]}, the file's" in listed
        assert (await shell.says("show", V1[:8])).stdout == ACME

        rolled = await shell.says("rollback", V1[:8])
        assert rolled.stdout == f"in force: {V1[:12]}, before: {V2[:12]}\n"
        assert "pinned by spiffe://evenflow.local/service/operator" in " ".join(
            (await shell.says("versions")).stdout.split()
        )
        told = await shell.told("versions")
        assert (told["in_force"], told["file"], told["pin"]["version"]) == (V1, V2, V1)
        assert told["versions"][0]["cause"] == "roll_back"

        followed = await shell.says("follow")
        assert followed.stdout == f"in force: {V2[:12]}, the file's, before: {V1[:12]}\n"
        assert (await shell.told("versions"))["pin"] is None

    using(tmp_path, scenario)


def test_an_unknown_version_is_said_to_be(tmp_path: Path) -> None:
    async def scenario(shell: Shell) -> Result:
        return await shell.says("rollback", "f" * 8)

    result = using(tmp_path, scenario)
    assert result.exit_code == 1
    assert "no version that is kept begins with ffffffff" in result.stderr


def test_a_diff_shows_fields_and_requests(tmp_path: Path) -> None:
    content = OTHER.replace("ab" * 32, "cd" * 32) + GLOBEX

    async def scenario(shell: Shell) -> tuple[str, Any]:
        said = await shell.says("diff", "-", stdin=content)
        return said.stdout, await shell.told("diff", "-", stdin=content)

    text, told = using(tmp_path, scenario, Recorded([asked(1, 400), asked(2, 100)]))
    assert "tenants.acme\n" in text
    assert "  ~ max_output_tokens: 512 -> 256\n" in text
    assert "  ~ api_keys.web-1.sha256: (secret)\n" in text
    assert "  + models: *\n" in text
    assert "of 2 requests since" in text
    assert "OUTPUT_LIMIT" in text
    assert told["dry_run"]["otherwise"] == [
        {
            "tenant": "acme",
            "old": "admitted",
            "new": "OUTPUT_LIMIT",
            "requests": 1,
            "examples": ["r-1"],
        }
    ]
    assert told["differences"][0]["change"] == "changed"


def test_a_diff_without_any_says_so(tmp_path: Path) -> None:
    async def scenario(shell: Shell) -> str:
        return (await shell.says("diff", "-", stdin=ACME)).stdout

    text = using(tmp_path, scenario)
    assert "no difference\n" in text
    assert "no decisions of the last day are recorded\n" in text


async def report(shell: Shell) -> None:
    difference = pb.ShadowDifference(
        live="", shadow="OUTPUT_LIMIT", tenant="acme", requests=2, examples=["r-1"]
    )
    told = pb.ReportShadowRequest(router="one", version=V2, judged=9, differences=[difference])
    async with shell.served.calls("router") as calls:
        await ShadowServiceStub(calls).ReportShadow(told, timeout=10)


def test_a_candidate_is_set_looked_at_and_cleared(tmp_path: Path) -> None:
    async def scenario(shell: Shell) -> None:
        assert (await shell.says("shadow", "status")).stdout == "there is no candidate\n"
        put = await shell.says("shadow", "set", "-", stdin=OTHER)
        assert put.stdout == f"candidate: {V2[:12]}, 1 tenants\n"
        await report(shell)
        status = (await shell.says("shadow", "status")).stdout
        assert "9 requests judged by 1 routers, 2 would be decided otherwise" in status
        assert "OUTPUT_LIMIT" in status
        (difference,) = (await shell.told("shadow", "status"))["differences"]
        assert (difference["live"], difference["shadow"]) == ("admitted", "OUTPUT_LIMIT")
        assert (await shell.says("shadow", "clear")).stdout == f"cleared: {V2[:12]}\n"
        assert (await shell.says("shadow", "clear")).stdout == "there was no candidate\n"

    using(tmp_path, scenario)


def test_a_bad_candidate_is_refused(tmp_path: Path) -> None:
    async def scenario(shell: Shell) -> Result:
        return await shell.says("shadow", "set", "-", stdin="tenants: 1")

    result = using(tmp_path, scenario)
    assert result.exit_code == 1
    assert "refused" in result.stderr
