"""Whole answers on their way to the routers that want to keep them, which get them as a stream.

Nothing waits for a router: what it does not take in time is dropped, and so is what nobody watches
for. Answers hold output text, which is in memory only until it is sent.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Sequence

from google.protobuf.message import Message

from evenflow.inference.v1.inference_service_pb2 import Usage
from evenflow.runtime.v1 import runtime_service_pb2 as pb
from services.runtime.core.engine import Step
from services.runtime.inbound.reports import MOST_ANSWER_BYTES, Report

_MOST_WAITING_BYTES = 8 << 20  # for one router
_MOST_MESSAGE_BYTES = 2 << 20  # gRPC's clients take 4 MiB
_GATHER_S = 0.05  # answers wait for company: each message costs a router 0.3 ms of its core


class Answers:
    def __init__(self) -> None:
        self._watching: dict[str, _Watch] = {}

    def wanted(self, report: Report) -> Step | None:
        """All that was written, as one step; None: nobody watches for it, or it can't be kept."""
        if not report.owner.cache_key or self._router(report) not in self._watching:
            return None
        return report.whole()

    def offer(self, report: Report, messages: Sequence[Message]) -> None:
        """`messages`: the method's, without what names one request."""
        watch = self._watching.get(self._router(report))
        if watch is None:
            return
        answer = pb.Answer(
            key=report.owner.cache_key.partition(".")[2],
            model_version=report.model_version,
            usage=Usage(
                prompt_tokens=report.prompt_tokens,
                cached_prompt_tokens=report.cached_tokens,
                output_tokens=report.output_tokens,
            ),
            messages=[each.SerializeToString() for each in messages],
        )
        if answer.ByteSize() <= MOST_ANSWER_BYTES:
            watch.put(answer)

    async def watch(self, router: str) -> AsyncGenerator[pb.WatchAnswersResponse, None]:
        """Until `close`. A router that watches twice is sent each answer on its later stream."""
        watch = self._watching[router] = _Watch()
        try:
            while await watch.some():
                await asyncio.sleep(_GATHER_S)
                yield pb.WatchAnswersResponse(answers=watch.take())
        finally:
            if self._watching.get(router) is watch:
                del self._watching[router]

    def close(self) -> None:
        """Ends every stream."""
        for watch in self._watching.values():
            watch.close()

    def _router(self, report: Report) -> str:
        return report.owner.cache_key.partition(".")[0]


class _Watch:
    def __init__(self) -> None:
        self._waiting: deque[pb.Answer] = deque()
        self._bytes = 0
        self._some = asyncio.Event()
        self._closed = False

    def close(self) -> None:
        self._closed = True
        self._some.set()

    def put(self, answer: pb.Answer) -> None:
        if self._bytes + answer.ByteSize() > _MOST_WAITING_BYTES:
            return
        self._waiting.append(answer)
        self._bytes += answer.ByteSize()
        self._some.set()

    async def some(self) -> bool:
        """Waits for an answer; False: no more will come."""
        while not self._waiting and not self._closed:
            self._some.clear()
            await self._some.wait()
        return bool(self._waiting)

    def take(self) -> Sequence[pb.Answer]:
        """At least one, and no more than fit a message."""
        taken: list[pb.Answer] = []
        room_bytes = _MOST_MESSAGE_BYTES
        while self._waiting and (not taken or self._waiting[0].ByteSize() <= room_bytes):
            taken.append(self._waiting.popleft())
            room_bytes -= taken[-1].ByteSize()
            self._bytes -= taken[-1].ByteSize()
        return taken
