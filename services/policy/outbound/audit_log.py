"""The audit log: whatever is told meanwhile goes to the disk together, in a thread of its own, so
that no call waits for a disk on the event loop, and a hundred calls wait for one sync.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import structlog

from evenflow.audit_lines import Said
from services.policy.core.audit import AuditUnavailable, Deed, Spooled, Wanted
from services.policy.outbound.audit_chain import AuditChain, said
from services.policy.outbound.audit_reading import Written, batches, decisions_since

CHECKPOINT_S = 60.0
_DAY_S = 86_400
_log = structlog.get_logger(__name__)


class AuditLog:
    """An Audit. `version`: of the policy that is in force. `keep_days`: how long entries are kept;
    0: for ever."""

    def __init__(
        self,
        chain: AuditChain,
        *,
        now_unix_us: Callable[[], int],
        version: Callable[[], str] = lambda: "",
        keep_days: Callable[[], int] = lambda: 0,
    ) -> None:
        self._chain = chain
        self._now_unix_us = now_unix_us
        self.version = version
        self.keep_days = keep_days
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="audit")
        self._told: deque[tuple[Said | Spooled, Future[None]]] = deque()
        self._missed = 0  # notes that could not be written; the next one that can says so
        self._failing = False
        self._missing = threading.Lock()  # guards _missed, which two threads count

    async def record(self, deed: Deed) -> None:
        await self._wait(self._tell(self._said(deed)))

    def note(self, deed: Deed) -> None:
        """For what happens whether it can be written down or not: where not, it is counted, and
        the log says how many it lacks as soon as it can be written again."""
        self._tell(self._said(deed)).add_done_callback(self._noted)

    async def append(self, spooled: Spooled) -> None:
        """Durable when it returns, each entry once. Raises AuditUnavailable."""
        await self._wait(self._tell(spooled))

    def position(self, spool: str) -> int:
        """The last entry of it that is in the log."""
        return self._chain.position(spool)

    async def keep(self) -> None:
        """Signs what was written, every minute, and removes what is too old. Never ends."""
        while True:
            await asyncio.sleep(CHECKPOINT_S)
            await asyncio.get_running_loop().run_in_executor(self._thread, self._sign)

    def close(self) -> None:
        """Blocks until all that was told is written, and signs it."""
        self._thread.submit(self._sign).result()
        self._thread.shutdown()
        self._chain.close()

    def read(self, wanted: Wanted) -> Iterator[Sequence[bytes]]:
        """Lines that are in the log by now. Blocks. Raises AuditUnavailable."""
        last, size = self._chain.end
        return batches(Written(self._chain.folder, last, size), wanted)

    def decisions_since(self, unix_s: float) -> Iterator[Mapping[str, str]]:
        """Those that are in the log by now. Blocks."""
        last, size = self._chain.end
        return decisions_since(Written(self._chain.folder, last, size), unix_s)

    def _said(self, deed: Deed) -> Said:
        return said(deed, self._now_unix_us(), policy=self.version())

    def _tell(self, told: Said | Spooled) -> "Future[None]":
        done: Future[None] = Future()
        self._told.append((told, done))
        self._thread.submit(self._write)
        return done

    async def _wait(self, done: "Future[None]") -> None:
        """Who is cancelled meanwhile has told it all the same."""
        await asyncio.shield(asyncio.wrap_future(done))

    def _write(self) -> None:
        """All that was told by now; whoever told it later finds nothing left to do."""
        told = [self._told.popleft() for _ in range(len(self._told))]
        if not told:
            return
        missed = self._missed
        try:
            self._chain.append([*self._gap(missed), *(each for each, _ in told)])
            self._written(missed)
            for _, done in told:
                done.set_result(None)
        except OSError as error:
            if not self._failing:
                self._failing = True
                _log.error("audit.unavailable", problem=str(error))
        finally:  # whatever it was, nobody waits for ever
            for done in (done for _, done in told if not done.done()):
                done.set_exception(AuditUnavailable("the audit log can't be written"))
        if not self._failing and self._chain.due():
            self._sign()

    def _gap(self, missed: int) -> Sequence[Said]:
        if not missed:
            return ()
        facts = {"missing": str(missed)}
        deed = Deed(actor="policy", action="audit.gap", subject="policy", facts=facts)
        return [self._said(deed)]

    def _written(self, missed: int) -> None:
        if self._failing:
            self._failing = False
            _log.warning("audit.written_again", missing=missed)
        with self._missing:
            self._missed -= missed

    def _noted(self, done: "Future[None]") -> None:
        if done.exception() is not None:
            with self._missing:
                self._missed += 1

    def _sign(self) -> None:
        """Later, where the disk takes nothing now."""
        self._write()
        try:
            self._chain.checkpoint()
            if days := self.keep_days():
                self._chain.remove_before(self._now_unix_us() - days * _DAY_S * 1_000_000)
        except OSError as error:
            _log.warning("audit.unsigned", problem=str(error))
