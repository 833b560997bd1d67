"""Policy as the router sees it: says what the test tells it to."""

import asyncio
from collections.abc import AsyncGenerator

from services.router.outbound.policy import PolicyWord


class FakePolicy:
    """`say` a word; `stop` ends the stream."""

    def __init__(self, *words: PolicyWord) -> None:
        self._words: asyncio.Queue[PolicyWord | None] = asyncio.Queue()
        for word in words:
            self.say(word)

    def say(self, word: PolicyWord) -> None:
        self._words.put_nowait(word)

    def stop(self) -> None:
        self._words.put_nowait(None)

    async def words(self) -> AsyncGenerator[PolicyWord, None]:
        while (word := await self._words.get()) is not None:
            yield word
