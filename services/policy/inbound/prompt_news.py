"""What there is in the registry of prompts, as routers and runtimes hear of it: in memory, in
order, read from the database after each change and every second.

So what the database holds is what is told, also where a caller left before its change was done, or
where another process made it.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence

import structlog

from evenflow.policy.v1 import prompt_service_pb2 as pb
from services.policy.core.registry import Change, Registry, RegistryUnreachable
from services.policy.inbound.changes import Changes, set_within
from services.policy.inbound.prompt_messages import news

_LOOK_EVERY_S = 1.0
_MOST_BYTES = 1 << 20  # of one message, where what it holds is not larger by itself

_log = structlog.get_logger(__name__)


class PromptNews:
    def __init__(self, registry: Registry, *, heartbeat_s: float) -> None:
        self._registry = registry
        self._told: list[tuple[pb.PromptNews, pb.PromptNews]] = []  # without templates, and with
        self._revision = 0
        self._loaded = False
        self._stirred = asyncio.Event()
        self._changes = Changes(heartbeat_s)
        self._closed = False

    def stir(self) -> None:
        """Something may have changed."""
        self._stirred.set()

    def close(self) -> None:
        """Ends all streams, so that a drain need not wait for those that have no end."""
        self._closed = True
        self._changes.wake()

    async def follow(self) -> None:
        """Until it is cancelled."""
        reachable = True
        while True:
            self._stirred.clear()
            try:
                while not await self._read():
                    pass
                reachable = True
            except RegistryUnreachable as error:
                if reachable:
                    _log.warning("prompts.unread", problem=str(error))
                reachable = False
            await set_within(self._stirred, _LOOK_EVERY_S)

    async def watch(self, *, templates: bool) -> AsyncIterator[pb.WatchPromptsResponse]:
        """Until `close`."""
        at = 0
        while not self._closed:
            mark = self._changes.mark()
            batch = self._next(at, templates=templates)
            at += len(batch)
            whole = at == len(self._told)
            yield pb.WatchPromptsResponse(news=batch, complete=whole and self._loaded)
            if whole:
                await self._changes.since(mark)

    async def _read(self) -> bool:
        """Whether that was all. Raises RegistryUnreachable."""
        found = await self._registry.changes(self._revision)
        if found.changes:
            self._told += await asyncio.to_thread(_encoded, found.changes)
        self._revision = found.revision
        if found.changes or (found.whole and not self._loaded):
            self._loaded = self._loaded or found.whole
            self._changes.wake()
        return found.whole

    def _next(self, at: int, *, templates: bool) -> Sequence[pb.PromptNews]:
        batch: list[pb.PromptNews] = []
        room_bytes = _MOST_BYTES
        while at < len(self._told):
            told = self._told[at][templates]
            room_bytes -= told.ByteSize()
            if batch and room_bytes < 0:
                break
            batch.append(told)
            at += 1
        return batch


def _encoded(changes: Sequence[Change]) -> list[tuple[pb.PromptNews, pb.PromptNews]]:
    return [(news(each, templates=False), news(each, templates=True)) for each in changes]
