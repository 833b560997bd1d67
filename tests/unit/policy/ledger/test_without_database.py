"""The ledger without its database says so and goes on; what it gives up, it says by account."""

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
from structlog.testing import capture_logs

from evenflow.policy.v1.ledger_service_pb2_grpc import LedgerServiceStub
from services.chassis.environ import address
from services.chassis.identity import channel
from services.policy.core.booking import Lease
from services.policy.core.ledger import Account
from services.policy.core.settling import Report
from services.policy.inbound import ledger
from services.policy.inbound.ledger import LedgerServicer
from services.policy.main import build_server
from services.policy.outbound.books import Books
from services.policy.outbound.database import Database
from services.policy.outbound.upkeep import Upkeep, keep_up, release
from tests.identities import Identities
from tests.unit.policy.ledger.test_ledger_servicer import DAILY, NOW, POLICY, asks, ending_of

UPKEEP = Upkeep(longest_request_s=60.0, keep_s=100.0)
NOWHERE = "postgresql+psycopg://nobody@127.0.0.1:1/none"


def test_what_is_given_up_is_said_by_router_and_account(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/policy.db")
    database.migrate()
    books = Books(database)
    account, later = Account("acme/daily", 1_799_971_200), NOW + 100.0

    async def scenario() -> None:
        for router in ("r1", "r2"):
            wants = {account: 5} if router == "r1" else {}
            asked = Lease(router=router, sequence=1, wants=wants, returns={})
            await books.lease(asked, {"acme/daily": DAILY}, float(NOW))
        told = Report(journal="j1", endpoint="a:1", told_until_unix_s=later)
        await books.settle(told, later)
        await release(books, UPKEEP, later)

    with capture_logs() as lines:
        asyncio.run(scenario())

    database.close()
    (line,) = lines
    assert (line["event"], line["router"]) == ("holdings.released", "r1")
    assert line["units"] == {"acme/daily@1799971200": 5}


def test_without_the_database_it_is_tried_again() -> None:
    database = Database(NOWHERE)

    async def scenario() -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(1):
                await keep_up(Books(database), UPKEEP, lambda: float(NOW))

    with capture_logs() as lines:
        asyncio.run(scenario())

    database.close()
    assert [each["event"] for each in lines] == ["upkeep.failed"]


def test_without_the_database_streams_end_with_their_reason(tmp_path: Path) -> None:
    identities, database = Identities(tmp_path), Database(NOWHERE)
    tls = identities.service("policy")

    async def scenario() -> tuple[grpc.StatusCode, str]:
        servicer = LedgerServicer(
            Books(database), POLICY, now_unix_s=lambda: float(NOW), heartbeat_s=5.0
        )
        server = build_server([ledger.served(servicer)], tls)
        port = server.listen(address("127.0.0.1:0"), tls)
        await server.grpc.start()
        router = identities.service("router")
        async with channel(f"127.0.0.1:{port}", router, server="policy") as made:
            stub: Any = LedgerServiceStub(made)
            leasing = stub.Lease()
            await leasing.write(asks(1, 5))
            code, _ = await ending_of(leasing)
            reason = dict(await leasing.trailing_metadata())["x-evenflow-reason"]
        await server.grpc.stop(None)
        return code, reason

    assert asyncio.run(scenario()) == (grpc.StatusCode.UNAVAILABLE, "DATABASE_UNREACHABLE")
    database.close()
