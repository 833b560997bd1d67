"""A hard budget over a whole mesh: spent to its end and no further, whoever dies meanwhile.

Real Envoy, router, runtimes and policy, and a real PostgreSQL under its ledger.
"""

import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from benchmarks import books
from benchmarks.watching import change_policy
from deploy.local.postgres import Postgres, postgres
from evenflow.connection import connection
from evenflow.errors import Refused, error_of
from evenflow.inference.v1 import inference_service_pb2 as pb
from evenflow.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from tests.integration.whole.mesh import Mesh, running
from tests.integration.whole.programs import Programs, until

ENVIRON = {"RUNTIME_SIMULATED_STEP_S": "0.002", "RUNTIME_SIMULATED_PREFILL_PER_TOKEN_S": "0.0001"}
TOKENS = 40  # of each answer
CALL_S = 20.0
WITHIN_S = 30.0
_BUDGET = """    default_workload_class: interactive
    budgets:
      - {{id: {name}, window: total, tokens: {tokens}}}
"""


@dataclass(frozen=True, slots=True)
class Budgeted:
    mesh: Mesh
    database: Postgres
    programs: Programs

    def budget(self, name: str, tokens: int) -> None:
        """From now on, acme has this one alone. Returns when the router knows."""

        def written(text: str) -> str:
            kept = [
                line
                for line in text.splitlines(keepends=True)
                if "budgets:" not in line and "{id:" not in line
            ]
            said = _BUDGET.format(name=name, tokens=tokens)
            return "".join(kept).replace("    default_workload_class: interactive\n", said, 1)

        change_policy(self._benched, written, within_s=WITHIN_S)

    def books(self) -> books.Books:
        found = books.read(self._benched, "acme")
        assert found is not None
        return found

    def is_settled(self) -> bool:
        """The ledger answers, and no router holds anything."""
        found = books.read(self._benched, "acme")
        return found is not None and not found.held

    def agree(self, used: int) -> None:
        """The ledger has what was used, and then nobody holds anything any more."""
        until(lambda: (now := books.read(self._benched, "acme")) is not None and now.spent == used)
        until(self.is_settled)

    def ask(self) -> tuple[int, str]:
        """Tokens that an answer took; or none, and why."""
        asked = pb.GenerateRequest(
            model="simulated",
            text="How far does a budget go?",
            sampling=pb.Sampling(max_output_tokens=TOKENS, ignore_eos=True),
        )
        reached = connection(self.mesh.address, self.mesh.tenant("acme"))
        with reached.blocking_channel() as channel:
            stub: Any = InferenceServiceStub(channel)
            try:
                for each in stub.Generate(asked, timeout=CALL_S):
                    last = each
            except grpc.RpcError as error:
                refused = error_of(error)  # type: ignore[arg-type] # what a call raises
                assert isinstance(refused, Refused)
                return 0, refused.reason
        usage = last.finished.usage
        return usage.prompt_tokens + usage.output_tokens, ""

    def ask_until_refused(self) -> tuple[int, str]:
        """Tokens in all, and the reason of the first refusal."""
        used = 0
        while True:
            tokens, reason = self.ask()
            if reason:
                return used, reason
            used += tokens

    @property
    def _benched(self) -> Any:
        """As benchmarks know a mesh."""
        return _Benched(self.mesh)


class _Benched:
    def __init__(self, mesh: Mesh) -> None:
        self.home = mesh.home
        self.ports = mesh.single_ports


@pytest.fixture(scope="module")
def mesh() -> Iterator[Budgeted]:
    with (
        tempfile.TemporaryDirectory(prefix="evf-pg-") as folder,
        postgres(Path(folder)) as server,
        running(
            command="simulate",
            model="simulated",
            environ={**ENVIRON, "POLICY_DATABASE": server.new_database()},
        ) as made,
    ):
        yield Budgeted(made, server, Programs(made.home))


def test_it_is_spent_to_its_end_and_no_further(mesh: Budgeted) -> None:
    mesh.budget("end", 1000)

    used, reason = mesh.ask_until_refused()

    assert reason == "BUDGET_EXHAUSTED"
    assert 500 < used <= 1000
    mesh.agree(used)


def test_openais_callers_are_told(mesh: Budgeted) -> None:
    mesh.budget("tiny", 10)

    with httpx.Client(base_url=mesh.mesh.frontend, trust_env=False) as client:
        answer = client.post(
            "/v1/chat/completions",
            headers={"authorization": f"Bearer {mesh.mesh.api_key('acme')}"},
            json={"model": "simulated", "messages": [{"role": "user", "content": "Hello"}]},
        )

    assert answer.status_code == 429
    assert answer.json()["error"]["code"] == "BUDGET_EXHAUSTED"
    assert answer.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("dead", [("policy",), ("database",), ("policy", "database")])
def test_who_keeps_the_books_dies(mesh: Budgeted, dead: tuple[str, ...]) -> None:
    """What is let go meanwhile is what the router holds, and the books agree afterwards."""
    mesh.budget("-and-".join(dead), 100_000)
    first, _ = mesh.ask()
    held = mesh.books().held
    if "policy" in dead:
        mesh.programs.control.stop("policy")
    if "database" in dead:
        mesh.database.kill()

    meanwhile, reason = mesh.ask_until_refused()

    if "database" in dead:
        mesh.database.start_again()
    if "policy" in dead:
        mesh.programs.control.start("policy")
    assert reason == "LEDGER_UNREACHABLE"
    assert meanwhile <= held
    until(lambda: mesh.ask()[1] == "")
    reasons = Counter(mesh.ask()[1] for _ in range(3))
    assert reasons == {"": 3}
    mesh.agree(first + meanwhile + 4 * first)
