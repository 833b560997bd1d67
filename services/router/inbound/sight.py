"""What one request has before it, were it to go now: its ladder asks, and then the line."""

from itertools import islice

from services.router.core.admission import TimeLimits, class_of, output_tokens, pool_of
from services.router.core.bands import band_of
from services.router.core.demands import Demand
from services.router.core.lanes import Lane
from services.router.core.picking import Picker
from services.router.core.pressure import Outlook, outlook
from services.router.core.queue import Waiting
from services.router.core.tenants import Caller, Tenant, Tenants
from services.router.core.value import value
from services.router.inbound.asked import Asked
from services.router.inbound.mesh import Mesh


@value
class Known:
    caller: Caller
    tenants: Tenants  # as they were when it was told apart


@value
class Asking:
    question: Asked
    known: Known
    now_s: float
    remaining_s: float | None  # until the caller's deadline; None: it set none

    @property
    def caller(self) -> Caller:
        return self.known.caller

    @property
    def tenant(self) -> Tenant:
        return self.known.caller.tenant


class Sight:
    """Of one request, at one time; what was looked at last is not looked at again."""

    def __init__(self, mesh: Mesh, picker: Picker, limits: TimeLimits, asking: Asking) -> None:
        self._mesh = mesh
        self._picker = picker
        self._limits = limits
        self._asking = asking
        self._demand: Demand | None = None  # that `_waiting` is of
        self._waiting: Waiting | None = None
        self._passes: bool | None = None  # None: nobody has asked

    def outlook(self, demand: Demand) -> Outlook:
        mesh, asking = self._mesh, self._asking
        eligible = self._picker.eligible(demand.model, pool_of(demand, asking.tenant)).addresses
        shut = mesh.circuits.open(asking.now_s)
        if shut:
            eligible = tuple(islice((each for each in eligible if each not in shut), 1))
        waiting = self.waiting(demand)
        seen = outlook(waiting, eligible, mesh.line.flow, asking.now_s)
        if eligible:
            self._passes = not seen.triggers.saturated
        return seen

    def passes(self, demand: Demand) -> bool:
        """It need not wait."""
        waiting = self.waiting(demand)
        if self._passes is None:
            self._passes = self._mesh.line.flow.may_pass(waiting, self._asking.now_s)
        return self._passes

    def waiting(self, demand: Demand) -> Waiting:
        """As it would wait."""
        if self._waiting is None or demand is not self._demand:
            self._demand, self._waiting, self._passes = demand, self._as_waiting(demand), None
        return self._waiting

    def _as_waiting(self, demand: Demand) -> Waiting:
        tenant, now_s = self._asking.tenant, self._asking.now_s
        workload_class = class_of(demand, tenant)
        band = band_of(workload_class)
        limit_s = self._limits.of(workload_class, self._asking.remaining_s)
        return Waiting(
            request_id=self._asking.question.request_id,
            lane=Lane(demand.model, pool_of(demand, tenant)),
            tenant=tenant.id,
            weight=tenant.weight,
            band=band,
            prompt_tokens=demand.prompt.tokens,
            output_tokens=output_tokens(demand, tenant),
            since_s=now_s,
            deadline_s=now_s + limit_s,
            until_s=now_s + self._mesh.line.flow.limits.longest_s[band],
        )
