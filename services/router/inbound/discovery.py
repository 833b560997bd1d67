"""Serves the data plane to Envoy: aggregated discovery (ADS), state of the world.

The conversation, after Envoy's xDS protocol: Envoy subscribes to a type by naming it, we answer
with its resources, a version and a nonce; Envoy acknowledges with both, or refuses with an error
and keeps what it had. Each change of a type is one answer more. A type's version is a digest of
its content, so a router that starts again changes nothing for an Envoy that runs on.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import structlog
from envoy.service.discovery.v3 import discovery_pb2 as pb
from envoy.service.discovery.v3.ads_pb2_grpc import AggregatedDiscoveryServiceServicer
from google.protobuf.any_pb2 import Any as AnyMessage

from services.router.core.snapshot import Snapshot
from services.router.inbound.resources.build import (
    CLUSTERS,
    LOAD_ASSIGNMENTS,
    TYPES,
    Resources,
    resources_of,
)

_log = structlog.get_logger(__name__)


class Discovery(AggregatedDiscoveryServiceServicer):  # type: ignore[misc] # untyped
    """Give it a snapshot whenever it changes; every Envoy that is connected follows."""

    def __init__(self) -> None:
        self._published: Published | None = None
        self._conversations: set[Conversation] = set()
        self._hearing: set[asyncio.Task[None]] = set()
        self.refusals = 0  # answers that an Envoy did not accept

    def publish(self, snapshot: Snapshot) -> None:
        """Sends each Envoy the types that changed. Before the first call, Envoys wait."""
        self._published = Published.of(resources_of(snapshot))
        for conversation in self._conversations:
            conversation.offer(self._published)

    @property
    def connected(self) -> int:
        """Envoys whose streams are open."""
        return len(self._conversations)

    async def StreamAggregatedResources(  # noqa: N802 - gRPC's name
        self, request_iterator: AsyncIterator[Any], context: Any
    ) -> None:
        conversation = Conversation()
        if self._published is not None:
            conversation.offer(self._published)
        self._conversations.add(conversation)
        try:
            async with asyncio.TaskGroup() as tasks:
                answering = tasks.create_task(_answer(conversation, context))
                hearing = tasks.create_task(self._hear(conversation, request_iterator))
                self._hearing.add(hearing)
                hearing.add_done_callback(self._hearing.discard)
                hearing.add_done_callback(lambda _: answering.cancel())
        finally:
            self._conversations.discard(conversation)

    def close(self) -> None:
        """Ends all streams, so that a drain need not wait for those that have no end."""
        for each in self._hearing:
            each.cancel()

    async def _hear(self, conversation: "Conversation", requests: AsyncIterator[Any]) -> None:
        async for request in requests:
            if conversation.hear(request):
                self.refusals += 1


async def _answer(conversation: "Conversation", context: Any) -> None:
    while True:
        await conversation.news.wait()
        conversation.news.clear()
        for answer in conversation.due():
            await context.write(answer)


@dataclass(frozen=True, slots=True)
class Published:
    """Resources and, by type, the version that their content gives them."""

    resources: Resources
    versions: Mapping[str, str]

    @classmethod
    def of(cls, resources: Resources) -> "Published":
        return cls(resources, {url: _digest(named) for url, named in resources.items()})


def _digest(named: Mapping[str, bytes]) -> str:
    digest = hashlib.sha256()
    for name, message in sorted(named.items()):
        digest.update(f"{name} {len(message)} ".encode())
        digest.update(message)
    return digest.hexdigest()[:16]


@dataclass(slots=True)
class _Subscription:
    names: frozenset[str] = frozenset()  # empty: all
    nonce: str = ""  # of the last answer; a request with another one is about an older answer
    version: str = ""  # of the last answer; empty: the next is due


class Conversation:
    """One Envoy's stream: what it asked for, what it was told."""

    def __init__(self) -> None:
        self.news = asyncio.Event()  # set when `due` may have something
        self._published: Published | None = None
        self._subscriptions: dict[str, _Subscription] = {}
        self._answers = 0
        self._node = ""

    def offer(self, published: Published) -> None:
        self._published = published
        self.news.set()

    def hear(self, request: Any) -> bool:
        """Takes a subscription, an acknowledgement or a refusal; true if it is a refusal."""
        self._node = request.node.id or self._node  # Envoy names itself once
        subscription = self._subscriptions.setdefault(request.type_url, _Subscription())
        if request.response_nonce != subscription.nonce:
            return False
        refused: bool = request.HasField("error_detail")
        if refused:
            _log.error(
                "discovery.refused",
                node=self._node,
                type=request.type_url,
                version=subscription.version,
                message=request.error_detail.message,
            )
        names = frozenset(request.resource_names)
        if names != subscription.names or not subscription.nonce:
            subscription.names = names
            subscription.version = ""
            self.news.set()
        return refused

    def due(self) -> list[Any]:
        """Answers to send now, in an order in which nothing refers to what is not yet there."""
        if self._published is None:
            return []
        changed = [url for url in TYPES if self._is_due(url, self._published)]
        if CLUSTERS in changed and LOAD_ASSIGNMENTS in self._subscriptions:
            # A cluster that changed waits for its endpoints, even if these are the same.
            changed = [url for url in TYPES if url in changed or url == LOAD_ASSIGNMENTS]
        return [self._answer(url, self._published) for url in changed]

    def _is_due(self, url: str, published: Published) -> bool:
        subscription = self._subscriptions.get(url)
        return subscription is not None and subscription.version != published.versions[url]

    def _answer(self, url: str, published: Published) -> Any:
        subscription = self._subscriptions[url]
        self._answers += 1
        subscription.nonce = str(self._answers)
        subscription.version = published.versions[url]
        return pb.DiscoveryResponse(
            type_url=url,
            version_info=subscription.version,
            nonce=subscription.nonce,
            resources=[
                AnyMessage(type_url=url, value=message)
                for name, message in published.resources[url].items()
                if not subscription.names or name in subscription.names
            ],
        )
