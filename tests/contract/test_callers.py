"""Every RPC of every service, tried by everybody: who is not named here for it is refused.

The RPCs are those of the contracts themselves, so one that nobody has thought of fails here.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import empty_pb2

import evenflow
from services.chassis.environ import address
from services.chassis.identity import TlsFiles, channel
from services.policy.inbound import auditing, ledger, prompts
from services.policy.inbound.auditing import AuditServicer
from services.policy.inbound.ledger import LedgerServicer
from services.policy.inbound.prompt_news import PromptNews
from services.policy.inbound.prompts import PromptServicer
from services.policy.outbound.audit_chain import AuditChain
from services.policy.outbound.audit_log import AuditLog
from services.policy.outbound.books import Books
from services.policy.outbound.database import Database
from services.policy.outbound.prompts import StoredPrompts
from services.policy.served import Served
from services.router.core.limits import Limiting
from services.router.inbound.peers import PeerServicer
from services.router.servers import operator_server
from services.runtime.core.simulation import Behaviour
from services.runtime.outbound.simulated import SimulatedEngine
from services.telemetry.inbound.caches import CacheServicer
from services.telemetry.inbound.endpoints import EndpointServicer
from services.telemetry.inbound.records import RecordServicer
from services.telemetry.inbound.spans import TraceServicer
from services.telemetry.main import build_server as telemetry_server
from tests.fakes.collector import FakeSink
from tests.fakes.kept_audit import KeptAudit
from tests.fakes.runtime_mesh import refusal
from tests.fakes.runtime_mesh import running as runtime_running
from tests.identities import TRUST_DOMAIN, Identities
from tests.unit.audit.logs import SIGNER
from tests.unit.policy.served import FIRST
from tests.unit.policy.served import serving as policy_serving
from tests.unit.router.values import mesh

CALLERS = ("gateway", "router", "policy", "runtime", "telemetry", "operator")
TENANT = "a tenant"
# What each service lets whom call. An RPC that is not here fails the first test.
RULES: Mapping[str, tuple[str, Mapping[str, frozenset[str]]]] = {
    "evenflow.inference.v1.InferenceService": (
        "runtime",
        {
            **dict.fromkeys(("Generate", "Tokenize", "CountTokens"), frozenset({"gateway"})),
            "ListModels": frozenset(),  # the router's, on Envoy's own socket
        },
    ),
    "evenflow.openai.v1.ChatService": (
        "runtime",
        dict.fromkeys(("CreateChatCompletion", "StreamChatCompletion"), frozenset({"gateway"})),
    ),
    "evenflow.runtime.v1.RuntimeService": (
        "runtime",
        {
            **dict.fromkeys(
                ("WatchState", "WatchAttempts", "WatchAnswers", "CutAttempts"),
                frozenset({"router"}),
            ),
            "Drain": frozenset({"router", "operator"}),
        },
    ),
    "evenflow.router.v1.RouterService": (
        "router",
        dict.fromkeys(("Explain", "ListEndpoints", "DrainEndpoint"), frozenset({"operator"})),
    ),
    "evenflow.router.v1.PeerService": ("router", {"WatchServed": frozenset({"router"})}),
    "evenflow.telemetry.v1.RecordService": (
        "telemetry",
        {"ReportRequests": frozenset({"router"})},
    ),
    "evenflow.telemetry.v1.EndpointService": (
        "telemetry",
        {"ReportEndpoints": frozenset({"router"})},
    ),
    "evenflow.telemetry.v1.CacheService": ("telemetry", {"ReportCache": frozenset({"router"})}),
    "evenflow.policy.v1.TenantService": (
        "policy",
        {"WatchTenants": frozenset({"router", "operator"})},
    ),
    "evenflow.policy.v1.PolicyService": (
        "policy",
        dict.fromkeys(("CheckPolicy", "DiffPolicy"), frozenset({"operator"})),
    ),
    "evenflow.policy.v1.VersionService": (
        "policy",
        dict.fromkeys(
            ("ListVersions", "GetVersion", "RollBack", "ReleasePin"), frozenset({"operator"})
        ),
    ),
    "evenflow.policy.v1.ShadowService": (
        "policy",
        {
            **dict.fromkeys(("SetShadow", "ClearShadow", "GetShadow"), frozenset({"operator"})),
            **dict.fromkeys(("WatchShadow", "ReportShadow"), frozenset({"router"})),
        },
    ),
    "evenflow.policy.v1.LedgerService": (
        "policy",
        {
            "Lease": frozenset({"router"}),
            "Settle": frozenset({"runtime"}),
            **dict.fromkeys(("ListBudgets", "ForgetRuntime"), frozenset({"operator"})),
        },
    ),
    "evenflow.policy.v1.AuditService": (
        "policy",
        {
            "Append": frozenset({"router"}),
            **dict.fromkeys(("ReadAudit", "GetAuditKey"), frozenset({"operator"})),
        },
    ),
    "evenflow.policy.v1.PromptService": (
        "policy",
        {
            **dict.fromkeys(
                (
                    "CreatePromptVersion",
                    "GetPromptVersion",
                    "ListPrompts",
                    "SetLabel",
                    "RollBackLabel",
                ),
                frozenset({"operator"}),
            ),
            "WatchPrompts": frozenset({"router", "runtime"}),
        },
    ),
    "evenflow.policy.v1.KeyService": (
        "policy",
        dict.fromkeys(("CreateKey", "RotateKey", "RevokeKey", "ListKeys"), frozenset({"operator"})),
    ),
}
# Of the contracts, but on no port: who knows them finds nothing.
UNSERVED = frozenset(
    {
        "evenflow.openai.v1.ModelsService",  # on Envoy's own socket
    }
)
METHODS = [
    (f"/{service}/{method}", server, allowed)
    for service, (server, methods) in RULES.items()
    for method, allowed in methods.items()
]


def contracts() -> set[str]:
    """Every RPC of every contract, as "/package.Service/Method"."""
    root = Path(evenflow.__path__[0])
    found: set[str] = set()
    for file in root.glob("*/v1/*_pb2.py"):
        module = import_module(
            ".".join(("evenflow", *file.relative_to(root).with_suffix("").parts))
        )
        for service in module.DESCRIPTOR.services_by_name.values():
            found.update(f"/{service.full_name}/{method.name}" for method in service.methods)
    return found


def unserved() -> set[str]:
    return {each for each in contracts() if each.split("/")[1] in UNSERVED}


def test_every_rpc_has_a_rule() -> None:
    ruled = {method for method, _, _ in METHODS}

    assert ruled | unserved() == contracts()
    assert not ruled & unserved()


@contextmanager
def policys_other_parts(folder: Path) -> Iterator[Sequence[Served]]:
    with ExitStack() as stack:
        database = Database(f"sqlite:///{folder}/policy.db")
        database.migrate()
        stack.callback(database.close)
        books = Books(database)
        leasing = LedgerServicer(books, FIRST, now_unix_s=lambda: 0.0, heartbeat_s=5.0)
        registry = StoredPrompts(database)
        news = PromptNews(registry, heartbeat_s=5.0)
        prompting = PromptServicer(registry, news, KeptAudit(), now_unix_s=lambda: 0.0)
        log = AuditLog(
            AuditChain(folder / "audit", SIGNER, now_unix_us=lambda: 0), now_unix_us=lambda: 0
        )
        stack.callback(log.close)
        auditor = AuditServicer(log, SIGNER.public_pem, SIGNER.id)
        yield [ledger.served(leasing), prompts.served(prompting), auditing.served(auditor)]


@asynccontextmanager
async def servers(folder: Path) -> AsyncIterator[tuple[Identities, Mapping[str, str]]]:
    """Every service that listens for others, at its address."""
    async with AsyncExitStack() as stack:
        besides = stack.enter_context(policys_other_parts(folder))
        policy = await stack.enter_async_context(policy_serving(folder, besides=besides))
        known = policy.identities
        engine = SimulatedEngine(Behaviour())
        runtime = await stack.enter_async_context(runtime_running(folder, engine, identities=known))
        router = operator_server(
            mesh(),
            known.service("router"),
            lambda _: None,
            PeerServicer("router-1", mesh().line.flow.queues, Limiting()),
        )
        telemetry = telemetry_server(
            known.service("telemetry"),
            RecordServicer(lambda _: None, lambda _: None),
            TraceServicer(FakeSink()),
            followed=EndpointServicer(),
            kept=CacheServicer(),
        )
        at = {"policy": policy.where, "runtime": runtime.where}
        for name, server in (("router", router), ("telemetry", telemetry)):
            tls = known.service(name)
            at[name] = f"127.0.0.1:{server.listen(address('127.0.0.1:0'), tls)}"
            await server.grpc.start()
            stack.push_async_callback(server.grpc.stop, None)
        yield known, at


async def outcome(
    calls: grpc.aio.Channel, method: str, *, within_s: float = 20.0
) -> tuple[grpc.StatusCode, str]:
    """Of a message without fields, which any method takes; as a stream, which any server takes."""
    call: Any = calls.stream_stream(
        method,
        request_serializer=empty_pb2.Empty.SerializeToString,
        response_deserializer=lambda _: None,
    )(iter([empty_pb2.Empty()]), timeout=within_s)
    try:
        await call.read()
    except grpc.aio.AioRpcError as error:
        return error.code(), refusal(error).reason if error.trailing_metadata() else ""
    finally:
        call.cancel()
    return grpc.StatusCode.OK, ""


def identity(known: Identities, caller: str) -> TlsFiles:
    return known.tenant("acme") if caller == TENANT else known.service(caller)


def test_nobody_calls_what_no_rule_lets_them(tmp_path: Path) -> None:
    async def scenario() -> list[str]:
        wrong = []
        async with servers(tmp_path) as (known, at):
            for caller in (*CALLERS, TENANT):
                for name, where in at.items():
                    async with channel(where, identity(known, caller), server=name) as calls:
                        wrong += [
                            f"{caller} {each}" for each in await misjudged(calls, caller, name)
                        ]
        return wrong

    assert asyncio.run(scenario()) == []


async def misjudged(calls: grpc.aio.Channel, caller: str, name: str) -> list[str]:
    """What this server let this caller do and should not, or the other way round."""
    found = []
    for method, server, allowed in METHODS:
        if server == name:
            may = caller in allowed
            said = await outcome(calls, method, within_s=_BEGUN_S if may else 20.0)
            if (said == _REFUSED) is may:
                found.append(f"{method}: {said}")
    for method in unserved():
        code, _ = await outcome(calls, method)
        if code is not grpc.StatusCode.UNIMPLEMENTED:
            found.append(f"{method}: {code}")
    return found


_REFUSED = (grpc.StatusCode.PERMISSION_DENIED, "CALLER_NOT_ALLOWED")
_BEGUN_S = 0.3  # some streams say nothing until there is something to say


@pytest.mark.parametrize("name", ["policy", "router", "runtime", "telemetry"])
def test_nobody_gets_in_without_a_certificate(tmp_path: Path, name: str) -> None:
    async def scenario() -> set[grpc.StatusCode]:
        async with servers(tmp_path) as (known, at):
            authorities = known.service(name).read().authorities
            credentials = grpc.ssl_channel_credentials(root_certificates=authorities)
            options = [("grpc.ssl_target_name_override", f"{name}.{TRUST_DOMAIN}")]
            async with grpc.aio.secure_channel(at[name], credentials, options) as calls:
                methods = [method for method, server, _ in METHODS if server == name]
                return {(await outcome(calls, each))[0] for each in methods}

    assert asyncio.run(scenario()) == {grpc.StatusCode.UNAVAILABLE}
