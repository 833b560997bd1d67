"""What a decision of Check looks at, and where it is written down."""

from collections.abc import Callable
from dataclasses import dataclass, field

from services.router.core.circuits import Circuits
from services.router.core.endings import Ended
from services.router.core.endpoints import Endpoints
from services.router.core.experience import Experience
from services.router.core.flow import FlowControl
from services.router.core.hedging import Hedging
from services.router.core.outliers import Outliers
from services.router.core.requests import Decision, Requests
from services.router.core.salts import CacheSalts
from services.router.core.saturation import Saturation
from services.router.core.tenants import PolicyView
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
    budgeting: Budgeting = field(default_factory=no_budgeting)

    def __post_init__(self) -> None:
        self.requests.freed = self._freed

    def _freed(self, decision: Decision, ended: Ended | None) -> None:
        self.budgeting.freed(decision, ended)
        self.line.freed(decision, ended)
