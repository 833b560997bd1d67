"""A policy service with a registry of prompts that runs, over real mTLS connections."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evenflow.inference.v1 import inference_service_pb2 as inference_pb
from evenflow.policy.v1 import prompt_service_pb2 as pb
from evenflow.policy.v1.prompt_service_pb2_grpc import PromptServiceStub
from services.chassis.environ import address
from services.chassis.identity import TlsFiles, channel
from services.policy.core.audit import AuditUnavailable, Deed
from services.policy.inbound import prompts
from services.policy.inbound.prompt_news import PromptNews
from services.policy.inbound.prompts import PromptServicer
from services.policy.main import build_server
from services.policy.outbound.database import Database
from services.policy.outbound.prompts import StoredPrompts
from tests.identities import Identities

AT_UNIX_S = 1_700_000_000.0


@dataclass
class Remembered:
    """An Audit in memory."""

    deeds: list[Deed] = field(default_factory=list)
    away: bool = False

    async def record(self, deed: Deed) -> None:
        if self.away:
            raise AuditUnavailable("away")
        self.deeds.append(deed)


@dataclass(frozen=True, slots=True)
class Registry:
    where: str
    identities: Identities
    audit: Remembered

    @asynccontextmanager
    async def called_by(self, service: str) -> AsyncIterator[Any]:
        async with channel(self.where, self.tls(service), server="policy") as calls:
            yield PromptServiceStub(calls)

    def tls(self, service: str) -> TlsFiles:
        return self.identities.service(service)


@asynccontextmanager
async def registry(
    folder: Path,
    *,
    port: int = 0,
    heartbeat_s: float = 0.05,
    identities: Identities | None = None,
) -> AsyncIterator[Registry]:
    """Again in the same folder: the same registry, restarted."""
    identities = identities or Identities(folder)
    tls = identities.service("policy")
    database = Database(f"sqlite:///{folder}/policy.db")
    database.migrate()
    stored, audit = StoredPrompts(database), Remembered()
    news = PromptNews(stored, heartbeat_s=heartbeat_s)
    servicer = PromptServicer(stored, news, audit, now_unix_s=lambda: AT_UNIX_S)
    server = build_server([prompts.served(servicer)], tls)
    port = server.listen(address(f"127.0.0.1:{port}"), tls)
    await server.grpc.start()
    try:
        async with asyncio.TaskGroup() as tasks:
            following = tasks.create_task(news.follow())
            yield Registry(f"127.0.0.1:{port}", identities, audit)
            following.cancel()
    finally:
        news.close()
        await server.grpc.stop(None)
        database.close()


def content(text: str = "Where is {{city}}?", **fields: Any) -> pb.PromptContent:
    message = pb.TemplateMessage(role=inference_pb.ROLE_USER, content=text)
    variables = []
    if "{{city}}" in text:
        kind = pb.VARIABLE_TYPE_STRING
        variables = [pb.PromptVariable(name="city", type=kind, max_length=50)]
    return pb.PromptContent(**{"messages": [message], "variables": variables, **fields})


def create(text: str = "Where is {{city}}?", **fields: Any) -> pb.CreatePromptVersionRequest:
    values = {"tenant": "acme", "name": "trip", "content": content(text), **fields}
    return pb.CreatePromptVersionRequest(**values)


def label(*shares: tuple[int, int], **fields: Any) -> pb.SetLabelRequest:
    said = [pb.VersionShare(version=version, percent=percent) for version, percent in shares]
    return pb.SetLabelRequest(
        **{"tenant": "acme", "name": "trip", "label": "production", "shares": said, **fields}
    )
