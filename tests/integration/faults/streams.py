"""Steady load on a mesh: streams that follow each other, and what became of each."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from evenflow.client import Client, chat_request
from evenflow.errors import EvenflowError, StreamLost
from evenflow.inference.v1 import inference_service_pb2 as pb

DEADLINE_S = 30.0
_LOOK_EVERY_S = 0.02
_AFTER_ERROR_S = 0.05  # else nothing but refusals would be counted
_ON_ITS_WAY_S = 0.25  # we are busy with forty streams ourselves
_APART_S = 0.037  # so that at each moment some streams begin, wait, and end


@dataclass(slots=True)
class Stream:
    """One request. Times are the event loop's."""

    begun_s: float
    first_token_s: float | None = None
    ended_s: float | None = None
    endpoint: str = ""
    request_id: str = ""
    tokens: int = 0
    error: EvenflowError | None = None

    def began_within(self, from_s: float, to_s: float) -> bool:
        return from_s <= self.begun_s < to_s

    def streamed_at(self, moment_s: float) -> bool:
        """Its first token had come; its end had not, nor was it on its way to us."""
        if self.first_token_s is None or self.first_token_s >= moment_s:
            return False
        if self.ended_s is None or self.error is not None:
            return self.ended_s is None or self.ended_s >= moment_s
        return self.ended_s >= moment_s + _ON_ITS_WAY_S

    def lost_at(self, moment_s: float) -> bool:
        """It broke, and had a token then, or one was on its way to us."""
        first_s = self.first_token_s
        broke = isinstance(self.error, StreamLost)
        return broke and first_s is not None and first_s < moment_s + _ON_ITS_WAY_S

    def waited_at(self, moment_s: float) -> bool:
        """It was under way and had no token."""
        first_s = self.first_token_s
        return self.begun_s < moment_s and (first_s is None or first_s >= moment_s)


class Load:
    """`address` is Envoy's; `tenant` a certificate folder."""

    def __init__(
        self,
        address: str,
        tenant: Path,
        model: str,
        *,
        tokens: int,
        deadline_s: float = DEADLINE_S,
    ) -> None:
        self._address = address
        self._deadline_s = deadline_s
        self._tenant = tenant
        self._request = chat_request(
            model, "hi", sampling=pb.Sampling(max_output_tokens=tokens, ignore_eos=True)
        )
        self.streams: list[Stream] = []
        self._stopping = False

    @asynccontextmanager
    async def running(self, workers: int) -> AsyncIterator["Load"]:
        """Ends when the streams under way have."""
        async with asyncio.TaskGroup() as tasks:
            for worker in range(workers):
                tasks.create_task(self._work(after_s=worker * _APART_S))
            try:
                yield self
            finally:
                self.stop()

    async def until_used(self, endpoint: str, *, since_s: float, within_s: float) -> float:
        """When the first stream that began since then got a token from there."""
        async with asyncio.timeout(within_s):
            while not (used := [s for s in self._from(endpoint) if s.begun_s >= since_s]):  # noqa: ASYNC110 - it can only be asked
                await asyncio.sleep(_LOOK_EVERY_S)
        return min(stream.first_token_s or 0.0 for stream in used)

    def stop(self) -> None:
        """Streams under way go on; no other begins."""
        self._stopping = True

    async def answered(self, *, since_s: float, within_s: float) -> float:
        """When the first answer to a request that began since then was complete."""
        async with asyncio.timeout(within_s):
            while not (ends := [*self._answered(since_s)]):  # noqa: ASYNC110 - it can only be asked
                await asyncio.sleep(_LOOK_EVERY_S)
        return min(ends)

    async def until_streaming(self, workers: int, *, within_s: float) -> None:
        """Returns when so many streams are between their first token and their end."""
        clock = asyncio.get_running_loop().time
        async with asyncio.timeout(within_s):
            while sum(each.streamed_at(clock()) for each in self.streams) < workers:  # noqa: ASYNC110 - it can only be asked
                await asyncio.sleep(_LOOK_EVERY_S)

    async def until_over(self, *, within_s: float) -> None:
        async with asyncio.timeout(within_s):
            while any(stream.ended_s is None for stream in self.streams):  # noqa: ASYNC110 - it can only be asked
                await asyncio.sleep(_LOOK_EVERY_S)

    def _from(self, endpoint: str) -> Iterator[Stream]:
        return (stream for stream in self.streams if stream.endpoint == endpoint)

    def _answered(self, since_s: float) -> Iterator[float]:
        for each in self.streams:
            if each.begun_s >= since_s and each.ended_s is not None and each.error is None:
                yield each.ended_s

    async def _work(self, *, after_s: float) -> None:
        await asyncio.sleep(after_s)
        # A connection each, as callers have: one connection's trouble is not all the others'.
        async with Client(self._address, certificate_folder=self._tenant) as client:
            while not self._stopping:
                await self._ask(client)

    async def _ask(self, client: Client) -> None:
        clock = asyncio.get_running_loop().time
        stream = Stream(clock())
        self.streams.append(stream)
        try:
            async for event in client.generate(self._request, deadline_s=self._deadline_s):
                if isinstance(event, pb.Started):
                    stream.first_token_s = clock()
                    stream.endpoint, stream.request_id = event.endpoint, event.request_id
                elif isinstance(event, pb.Delta):
                    stream.tokens += event.tokens
        except EvenflowError as error:
            stream.error = error
        stream.ended_s = clock()
        if stream.error is not None:
            await asyncio.sleep(_AFTER_ERROR_S)
