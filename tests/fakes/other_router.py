"""Another router as this one sees it: says what the test tells it to."""

import asyncio
from collections.abc import AsyncGenerator

from services.router.core.exchange import PeerWord


class FakeRouter:
    """`say` a word; `stop` ends the stream."""

    def __init__(self, *words: PeerWord) -> None:
        self.address = "a:1"
        self._words: asyncio.Queue[PeerWord | None] = asyncio.Queue()
        for word in words:
            self.say(word)

    def say(self, word: PeerWord) -> None:
        self._words.put_nowait(word)

    def stop(self) -> None:
        self._words.put_nowait(None)

    async def words(self) -> AsyncGenerator[PeerWord, None]:
        while (word := await self._words.get()) is not None:
            yield word
