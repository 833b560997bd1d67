"""The parts that put policies into force, keep them, compare them and try them in the shadow."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from services.policy.core.audit import Audit
from services.policy.core.dry_run import Decisions
from services.policy.core.tenants import Policy
from services.policy.inbound import checking, shadow, versions
from services.policy.inbound.checking import PolicyServicer
from services.policy.inbound.diffing import Diffing
from services.policy.inbound.shadow import ShadowServicer
from services.policy.inbound.versions import VersionServicer
from services.policy.outbound import enforcing
from services.policy.outbound.database import Database
from services.policy.outbound.enforcing import InForce
from services.policy.outbound.versions import DatabaseVersions
from services.policy.served import Served


@dataclass(frozen=True, slots=True)
class Around:
    """What all of them need."""

    database: Database
    audit: Audit
    decisions: Decisions
    read: Callable[[bytes], Policy]  # as the file is read; raises InvalidPolicy
    publish: Callable[[Policy], None]  # to the routers
    repinned: Callable[[], None]  # told when what is pinned may be another
    now_unix_s: Callable[[], float]
    clock: Callable[[], float]  # monotonic
    heartbeat_s: float


@dataclass(frozen=True, slots=True)
class Policies:
    in_force: InForce
    shadow: ShadowServicer
    served: Sequence[Served]

    async def begin(self) -> None:
        """Before anything is served. Raises DatabaseUnreachable."""
        await self.in_force.begin()
        await self.shadow.begin()


def made(around: Around, file: tuple[Policy, bytes]) -> Policies:
    """`file`: what it says, and its bytes."""
    books = DatabaseVersions(around.database)
    enforced = enforcing.Surroundings(
        read=around.read,
        publish=around.publish,
        audit=around.audit,
        now_unix_s=around.now_unix_s,
        repinned=around.repinned,
    )
    in_force = InForce(books, enforced, file)
    shadowed = shadow.Surroundings(books, around.read, around.audit, around.now_unix_s)
    candidate = ShadowServicer(shadowed, heartbeat_s=around.heartbeat_s)
    diffing = Diffing(around.decisions, now_unix_s=around.now_unix_s, clock=around.clock)
    served = (
        checking.served(PolicyServicer(around.read, lambda: in_force.policy, diffing)),
        versions.served(VersionServicer(in_force, books)),
        shadow.served(candidate),
    )
    return Policies(in_force, candidate, served)
