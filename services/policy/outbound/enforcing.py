"""Puts policies into force: the file's as it changes, or an earlier one that is pinned; and keeps
the books about it.

The file's policy waits for no database: what came into force is written down when there is one.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn, Protocol

import structlog

from services.policy.core.audit import Audit, AuditUnavailable, Deed
from services.policy.core.nodes import InvalidPolicy
from services.policy.core.tenants import Policy
from services.policy.core.versions import (
    POLICY_ITSELF,
    Cause,
    Enforced,
    FileChanged,
    Pin,
    VersionInvalid,
)
from services.policy.outbound.database import DatabaseUnreachable

_TRY_AGAIN_S = 1.0
_MOST_PENDING = 100  # changes while the database is away; then the oldest is forgotten

_log = structlog.get_logger(__name__)


class Versions(Protocol):
    """The books. Each call raises DatabaseUnreachable."""

    async def record(self, each: Enforced, content: bytes) -> None:
        """It came into force, and nothing is pinned."""

    async def latest(self, most: int) -> Sequence[Enforced]:
        """The latest first."""

    async def content(self, name: str) -> tuple[str, bytes]:
        """Raises VersionNotFound."""

    async def pin(self, pin: Pin, each: Enforced) -> None:
        """It is pinned, and came into force by that."""

    async def pinned(self) -> Pin | None: ...


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Of what puts policies into force."""

    read: Callable[[bytes], Policy]  # as the file is read; raises InvalidPolicy
    publish: Callable[[Policy], None]  # to the routers
    audit: Audit
    now_unix_s: Callable[[], float]
    repinned: Callable[[], None]  # told when what is pinned may be another


class InForce:
    def __init__(
        self, versions: Versions, around: Surroundings, file: tuple[Policy, bytes]
    ) -> None:
        """`file`: what it says, and its bytes."""
        self._versions = versions
        self._around = around
        self._file, self._content = file
        self.policy = self._file
        self.pin: Pin | None = None
        self._unrecorded: deque[tuple[Enforced, bytes]] = deque(maxlen=_MOST_PENDING)
        self._unaudited: deque[Deed] = deque(maxlen=_MOST_PENDING)
        self._added = asyncio.Event()
        self._turn = asyncio.Lock()  # of those who write in the books

    @property
    def file_version(self) -> str:
        return self._file.version

    async def begin(self) -> None:
        """Publishes what is to be served at first. Raises DatabaseUnreachable: whether a version is
        pinned is not known then."""
        pin = await self._versions.pinned()
        if pin is not None and pin.holds(self._file.version) and await self._repin(pin):
            return
        known = await self._versions.latest(1)
        if not known or known[0].version != self._file.version:
            self._write_down(self._enforced(self._file, Cause.FILE), self._content)
        self._around.publish(self._file)

    def took(self, policy: Policy, content: bytes) -> None:
        """The file is another. Ends a pin, unless it says again what it said then."""
        self._file, self._content = policy, content
        if self.pin is not None and self.pin.holds(policy.version):
            return
        self._put(policy, None)
        self._write_down(self._enforced(policy, Cause.FILE), content)

    async def roll_back(self, name: str, actor: str) -> str:
        """The version that is in force now. Durable once it returns.

        Raises VersionNotFound, VersionInvalid, FileChanged, DatabaseUnreachable, AuditUnavailable.
        """
        async with self._turn:
            await self._record()
            version, content = await self._versions.content(name)
            if version == self._file.version:
                return await self._follow(actor)
            policy = await asyncio.to_thread(self._read_again, version, content)
            enforced = self._enforced(policy, Cause.ROLL_BACK, actor)
            pin = Pin(version, self._file.version, enforced.since_unix_s, actor)
            await self._audit(actor, "policy.rolled_back", version)
            await self._versions.pin(pin, enforced)
            if not pin.holds(self._file.version):  # its entry is on its way, and ends the pin
                raise FileChanged("the policy's file was changed meanwhile, and is in force")
            self._put(policy, pin)
            _log.warning("policy.pinned", version=version, file=pin.file_version, actor=actor)
            return version

    async def follow(self, actor: str) -> str:
        """The file's version, which is in force now.

        Raises DatabaseUnreachable, AuditUnavailable.
        """
        async with self._turn:
            await self._record()
            return await self._follow(actor)

    async def keep_books(self) -> NoReturn:
        """Writes down what came into force. Ends by cancellation alone."""
        while True:
            await self._added.wait()
            self._added.clear()
            async with self._turn:
                written = await self._wrote()
            if not written:
                await asyncio.sleep(_TRY_AGAIN_S)
                self._added.set()

    async def _wrote(self) -> bool:
        try:
            await self._record()
            while self._unaudited:
                await self._around.audit.record(self._unaudited[0])
                self._unaudited.popleft()
        except (DatabaseUnreachable, AuditUnavailable) as error:
            _log.warning("policy.unrecorded", problem=str(error), versions=len(self._unrecorded))
            return False
        return True

    async def _record(self) -> None:
        while self._unrecorded:
            enforced, content = self._unrecorded[0]
            await self._versions.record(enforced, content)
            self._unrecorded.popleft()
            facts = {"cause": enforced.cause.value, "tenants": str(enforced.tenants)}
            deed = Deed(
                actor=POLICY_ITSELF,
                action="policy.changed",
                subject=enforced.version,
                facts=facts,
            )
            self._unaudited.append(deed)
            self._added.set()

    async def _follow(self, actor: str) -> str:
        if self.pin is None:
            return self._file.version
        policy, content = self._file, self._content
        await self._audit(actor, "policy.pin_released", self.pin.version)
        await self._versions.record(self._enforced(policy, Cause.FOLLOW, actor), content)
        self._put(self._file, None)
        _log.info("policy.unpinned", version=self._file.version, actor=actor)
        return self._file.version

    async def _repin(self, pin: Pin) -> bool:
        """False: it can't be used any more."""
        try:
            _, content = await self._versions.content(pin.version)
            policy = await asyncio.to_thread(self._read_again, pin.version, content)
        except (LookupError, VersionInvalid) as error:
            _log.error("policy.pin_lost", version=pin.version, problem=str(error))
            return False
        self._put(policy, pin)
        _log.warning("policy.pinned", version=pin.version, file=pin.file_version, actor=pin.actor)
        return True

    def _read_again(self, version: str, content: bytes) -> Policy:
        try:
            return self._around.read(content)
        except InvalidPolicy as error:
            raise VersionInvalid(f"{version} can't be used any more: {error}") from error

    def _put(self, policy: Policy, pin: Pin | None) -> None:
        self.policy, self.pin = policy, pin
        self._around.publish(policy)
        self._around.repinned()

    def _write_down(self, enforced: Enforced, content: bytes) -> None:
        self._unrecorded.append((enforced, content))
        self._added.set()

    async def _audit(self, actor: str, action: str, subject: str) -> None:
        facts = {"before": self.policy.version, "file": self._file.version}
        deed = Deed(actor=actor, action=action, subject=subject, facts=facts)
        await self._around.audit.record(deed)

    def _enforced(self, policy: Policy, cause: Cause, actor: str = POLICY_ITSELF) -> Enforced:
        now_unix_s = self._around.now_unix_s()
        return Enforced(policy.version, now_unix_s, cause, actor, len(policy.tenants))
