"""What becomes of a request that may go now: where to, when a second time, who pays for it."""

from dataclasses import replace

from services.router.core.admission import Pool, TimeLimits, class_of, place, pool_of
from services.router.core.demands import Demand
from services.router.core.hedging import Hedgeable, HedgePlan, NotHedged
from services.router.core.picking import Picker
from services.router.core.resuming import carried_on, may_break
from services.router.core.saturation import Vacancies
from services.router.core.spending import Lacking
from services.router.core.tenants import NO_LIMITS, Caller, Tenant
from services.router.core.verdicts import Admitted, Refused, Verdict
from services.router.core.wishes import wish_of
from services.router.inbound.budgeting import Spending
from services.router.inbound.judgements import Judged
from services.router.inbound.mesh import Mesh
from services.router.inbound.sight import Known

_NOT_LOOKED_AT = Vacancies()


class Placing:
    def __init__(self, mesh: Mesh, picker: Picker, limits: TimeLimits) -> None:
        self._mesh = mesh
        self._picker = picker
        self._limits = limits

    def place(self, judged: Judged, request_id: str, known: Known, now_s: float) -> Lacking | None:
        """Fills in the judgement of one that was looked at. Lacking: it may be paid for once policy
        has answered, and is to be placed anew then."""
        judged.verdict = verdict = self._placed(judged, known, now_s)
        judged.lacking = None
        if isinstance(verdict, Admitted):
            judged.hedge = self._hedge(verdict, now_s)
            if known.caller.tenant.budgets:
                self._pay(judged, request_id, Spending(known.caller, known.tenants, verdict), now_s)
        return judged.lacking

    def pool(
        self, caller: Caller, demand: Demand, now_s: float, vacancies: Vacancies = _NOT_LOOKED_AT
    ) -> Pool:
        salt = self._mesh.salts.of(caller, class_of(demand, caller.tenant))
        return Pool(self._picker, now_s, salt, vacancies)

    def held_back(self, judged: Judged, tenant: Tenant, now_s: float) -> Refused | None:
        """By its tenant's limits, since others of it were let go. Asked before it waits, and when
        it may go."""
        judged.wish = None
        if tenant.limits is NO_LIMITS:
            return None
        assert judged.climb is not None, "what needs a place was looked at"
        demand = judged.climb.demand
        kv_cache = self._picker.eligible(demand.model, pool_of(demand, tenant)).kv_cache
        judged.wish = wish_of(demand, tenant, kv_cache)
        return self._mesh.limiting.refused(judged.wish, now_s)

    def _placed(self, judged: Judged, known: Known, now_s: float) -> Verdict:
        waiting, climb, tenant = judged.waiting, judged.climb, known.caller.tenant
        assert waiting is not None, "what needs a place was looked at"
        assert climb is not None, "what needs a place was looked at"
        workload_class = class_of(climb.demand, tenant)
        rules = known.tenants.rules(workload_class)
        placed = place(
            climb,
            tenant,
            self.pool(known.caller, climb.demand, now_s, self._mesh.line.flow.vacancies(waiting)),
            timeout_s=self._limits.of(workload_class, waiting.deadline_s - now_s),
            resumable=may_break(climb.demand, rules),
        )
        if isinstance(placed, Refused):
            return placed
        return carried_on(placed, climb.demand, rules)

    def _hedge(self, admitted: Admitted, now_s: float) -> HedgePlan | NotHedged:
        wanted = Hedgeable(
            model=admitted.model,
            workload_class=admitted.workload_class,
            uncached_prompt_tokens=admitted.prompt_tokens - admitted.candidates[0].cached_tokens,
            output_tokens=admitted.output_tokens,
            endpoints=admitted.endpoints,
            timeout_s=admitted.timeout_s,
        )
        is_free, saturation = self._mesh.endpoints.is_free, self._mesh.line.flow.saturation

        def begins_at_once(address: str) -> bool:
            return is_free(address) and saturation.takes(address, admitted.tokens, now_s)

        return self._mesh.hedging.decide(wanted, begins_at_once, now_s)

    def _pay(self, judged: Judged, request_id: str, spending: Spending, now_s: float) -> None:
        paid = self._mesh.budgeting.spend(request_id, spending, now_s)
        if isinstance(paid, Refused):
            judged.verdict = replace(paid, degraded=spending.admitted.degraded)
            judged.hedge = None
        elif isinstance(paid, Lacking):
            judged.lacking = paid
        elif paid is not None:
            judged.reservation = paid
            if paid.attempts == 1 and isinstance(judged.hedge, HedgePlan):
                judged.hedge = NotHedged.TENANT_BUDGET
