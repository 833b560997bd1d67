"""What a decision of Check looks at, and where it is written down."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from services.router.core.attempts import LostAttempt
from services.router.core.circuits import Circuits
from services.router.core.endings import Ended
from services.router.core.endpoints import Endpoints
from services.router.core.experience import Experience
from services.router.core.flow import FlowControl
from services.router.core.hedging import Hedging
from services.router.core.limits import Limiting
from services.router.core.outliers import Outliers
from services.router.core.prompts import Prompts
from services.router.core.requests import Decision, Requests
from services.router.core.salts import CacheSalts
from services.router.core.saturation import Saturation
from services.router.core.shadow import Shadow
from services.router.core.tenants import NO_LIMITS, Limits, PolicyView
from services.router.inbound.auditing import Auditing, no_auditing
from services.router.inbound.budgeting import Budgeting, no_budgeting
from services.router.inbound.caching import Caching, no_caching
from services.router.inbound.line import Line


@dataclass(frozen=True, slots=True)
class Mesh:
    policy: PolicyView
    endpoints: Endpoints
    requests: Requests
    salts: CacheSalts
    circuits: Circuits
    revoked: Callable[[str], bool] = lambda _: False  # by the serial of a certificate
    line: Line = field(default_factory=lambda: Line(FlowControl(Saturation())))
    outliers: Outliers = field(default_factory=Outliers)
    hedging: Hedging = field(default_factory=lambda: Hedging(0.0))
    experience: Experience = field(default_factory=Experience)
    caching: Caching = field(default_factory=no_caching)
    audit: Auditing = field(default_factory=no_auditing)
    shadow: Shadow = field(default_factory=Shadow)
    prompts: Prompts = field(default_factory=Prompts)
    budgeting: Budgeting = field(default_factory=no_budgeting)
    limiting: Limiting = field(default_factory=Limiting)

    def __post_init__(self) -> None:
        self.requests.freed = self._freed
        self.requests.lost = self._lost
        self.limiting.limits_of = self._limits_of

    def _freed(self, decision: Decision, ended: Ended | None) -> None:
        self.budgeting.freed(decision, ended)
        self.line.freed(decision, ended)
        if decision.request_id in self.limiting:
            self.limiting.ended(decision.request_id, ended, asyncio.get_running_loop().time())

    def _lost(self, attempt: LostAttempt) -> None:
        if attempt.request_id in self.limiting:
            self.limiting.lost(attempt, asyncio.get_running_loop().time())

    def _limits_of(self, tenant_id: str) -> Limits:
        tenants = self.policy.latest
        tenant = tenants.by_id(tenant_id) if tenants is not None else None
        return tenant.limits if tenant is not None else NO_LIMITS
