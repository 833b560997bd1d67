"""Envoy asks: may this request go, and where to? Once per request, so this path is kept lean.

Decode, decide, write down, answer, without an await, so each decision sees the whole effect of the
one before. A span only when the trace is sampled. What has to wait is judged anew at its turn: its
tenant, its certificate or the endpoints may be others by then.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from services.router.core.admission import (
    TimeLimits,
    class_of,
    never,
    place,
    stepped_down,
)
from services.router.core.demands import Demand, InvalidDemand
from services.router.core.flow import Queueing
from services.router.core.ladder import Climb
from services.router.core.outliers import most_ejected
from services.router.core.picking import Filter, Picker
from services.router.core.pressure import degrading
from services.router.core.prompts import PromptNotFound, PromptsUnknown
from services.router.core.requests import Decision
from services.router.core.spending import Lacking
from services.router.core.verdicts import Admitted, Hit, Reason, Refused
from services.router.inbound.answers import FAILED, Answer, let_go, refusal
from services.router.inbound.asked import Asked, Question, asked
from services.router.inbound.auditing import UNAUDITED
from services.router.inbound.bodies import InvalidBody, demand_of
from services.router.inbound.caching import Consulted, Repeating
from services.router.inbound.judgements import Judged, Request, begun, decision_of, ended, slot_of
from services.router.inbound.line import Held, Turn
from services.router.inbound.mesh import Mesh
from services.router.inbound.orders import identity, orders, reservation, route
from services.router.inbound.owners import (
    CERTIFICATE_REVOKED,
    KEY_EXPIRED,
    POLICY_STALE,
    UNKNOWN_IDENTITY,
    owner_of,
)
from services.router.inbound.placing import Placing
from services.router.inbound.shadowing import compare
from services.router.inbound.sight import Asking, Known, Sight


class Check:
    """`grace_s`: how long after its deadline a slot waits for the access log's word."""

    def __init__(
        self, mesh: Mesh, limits: TimeLimits, *, grace_s: float, clock: Callable[[], float]
    ) -> None:
        self._mesh = mesh
        self._picker = Picker(
            mesh.endpoints,
            mesh.requests.in_flight,
            mesh.requests.expectations,
            weights=mesh.requests.weights,
            filters=(Filter(mesh.circuits.open), Filter(mesh.outliers.out, most_ejected)),
        )
        self._placing = Placing(mesh, self._picker, limits)
        self._limits = limits
        self._grace_s = grace_s
        self._clock = clock

    def __call__(self, from_envoy: Question) -> Answer | Held:
        now_s = self._clock()
        question = asked(from_envoy, self._is_known)
        request = Request(question, begun(question), now_s)
        judged = self._judge(question, now_s)
        if judged.queueing is not None:
            return self._hold(request, judged)
        if judged.lacking is not None:
            return self._wait_for_policy(_without_body(request), judged, judged.lacking)
        return self._conclude(request, judged, self._clock())

    def _is_known(self, request_id: str, received_unix_s: float) -> bool:
        mesh, requests = self._mesh, self._mesh.requests
        if requests.is_over(request_id, received_unix_s):
            return False
        if requests.knows(request_id) or mesh.line.flow.holds(request_id):
            return True
        return mesh.budgeting.holds(request_id)

    def _judge(self, question: Asked, now_s: float) -> Judged:
        known = self._known(question, now_s)
        if isinstance(known, Refused):
            return Judged(None, None, known)
        try:
            tenant, prompts = known.caller.tenant.id, self._mesh.prompts
            choose = partial(prompts.choose, tenant, question.request_id)
            demand = demand_of(question.method, question.body, choose)
            if demand is None:
                return Judged(known.caller, None, None)
            return self._decide(Asking(question, known, now_s, question.remaining_s()), demand)
        except InvalidDemand as error:
            refused = Refused(Reason.FIELD_INVALID, str(error), error.field)
        except InvalidBody as error:
            refused = Refused(Reason.BODY_INVALID, str(error))
        except PromptNotFound as error:
            refused = Refused(Reason.PROMPT_NOT_FOUND, str(error), error.field)
        except PromptsUnknown:
            refused = POLICY_STALE
        return Judged(known.caller, None, refused)

    def _known(self, question: Asked, now_s: float) -> Known | Refused:
        if question.serial and self._mesh.revoked(question.serial):
            return CERTIFICATE_REVOKED
        tenants = self._mesh.policy.current(now_s)
        if tenants is None:
            return POLICY_STALE
        caller = owner_of(question, tenants)
        if caller is None:
            return UNKNOWN_IDENTITY
        if caller.key is not None and not caller.key.is_good(question.received_unix_s):
            return KEY_EXPIRED
        return Known(caller, tenants)

    def _decide(self, asking: Asking, demand: Demand) -> Judged:
        mesh, tenant = self._mesh, asking.tenant
        remaining_s = asking.remaining_s
        pool = self._placing.pool(asking.caller, demand, asking.now_s)
        # Nothing of the body stays alive while it waits.
        kept = demand if demand.repeatable is None else replace(demand, repeatable=None)
        corrected = mesh.experience.estimates.corrected(kept)
        refused = never(corrected, tenant, pool, remaining_s=remaining_s)
        refused = refused or mesh.limiting.too_often(tenant, asking.now_s)
        if refused or demand.output is None:  # counting tokens takes no engine's place
            timeout_s = self._limits.of(class_of(demand, tenant), remaining_s)
            verdict = refused or place(Climb(corrected), tenant, pool, timeout_s=timeout_s)
            return Judged(asking.caller, demand, verdict)
        consulted = self._consulted(asking, demand)
        judged = Judged(asking.caller, kept, None, consulted=consulted)
        if consulted.answer is not None:
            workload_class = class_of(demand, tenant)
            timeout_s = self._limits.of(workload_class, remaining_s)
            judged.verdict = Hit(workload_class, consulted.answer, timeout_s)
            return judged
        sight = Sight(mesh, self._picker, self._limits, asking)
        climb = self._climb(asking, corrected, sight)
        if isinstance(climb, Refused):
            judged.verdict = climb
            return judged
        return self._line_up(asking, judged, climb, sight)

    def _consulted(self, asking: Asking, demand: Demand) -> Consulted:
        wanted = Repeating(asking.question.method, demand, asking.caller)
        mesh = self._mesh
        return mesh.caching.consult(wanted, asking.known.tenants, mesh.endpoints, asking.now_s)

    def _climb(self, asking: Asking, demand: Demand, sight: Sight) -> Climb | Refused:
        paces, tenant = self._mesh.experience.paces, asking.tenant
        low = bool(tenant.budgets) and self._mesh.budgeting.is_low(asking.caller)
        degrade = degrading(asking.known.tenants, tenant, sight.outlook, paces, budget_low=low)
        return stepped_down(
            demand, asking.tenant, degrade, remaining_s=asking.remaining_s, limits=self._limits
        )

    def _line_up(self, asking: Asking, judged: Judged, climb: Climb, sight: Sight) -> Judged:
        """It goes, waits, or is refused for want of a place to wait."""
        waiting = sight.waiting(climb.demand)
        judged.climb, judged.waiting = climb, waiting
        held_back = self._placing.held_back(judged, asking.tenant, asking.now_s)
        if held_back is not None:
            judged.verdict = replace(held_back, degraded=climb.degraded)
            return judged
        if sight.passes(climb.demand):
            self._placing.place(judged, asking.question.request_id, asking.known, asking.now_s)
            return judged
        offered = self._mesh.line.flow.offer(waiting, asking.now_s)
        if isinstance(offered, Queueing):
            judged.queueing = offered
        else:
            judged.verdict = replace(offered, degraded=climb.degraded)
        return judged

    def _hold(self, request: Request, judged: Judged) -> Held:
        assert judged.waiting is not None, "what waits was offered"
        return self._mesh.line.hold(judged.waiting, self._turn(_without_body(request), judged))

    def _turn(self, request: Request, judged: Judged) -> Turn:
        return Turn(
            go=partial(self._again, request, judged),
            refuse=partial(self._refuse, request, judged),
            leave=partial(self._leave, request, judged),
        )

    def _wait_for_policy(self, request: Request, judged: Judged, lacking: Lacking) -> Held:
        request_id = request.question.request_id
        return self._mesh.budgeting.hold(request_id, lacking, self._turn(request, judged))

    def _again(self, request: Request, judged: Judged, now_s: float) -> Answer | Held:
        """Its turn has come, in the queue or at the ledger."""
        known = self._known(request.question, now_s)
        if isinstance(known, Refused):
            return self._refuse(request, judged, known, now_s)
        judged.caller, has_waited = known.caller, judged.lacking is not None
        judged.verdict = self._never(judged, now_s)
        if judged.verdict is not None:
            return self._conclude(request, judged, now_s)
        lacking = self._placing.place(judged, request.question.request_id, known, now_s)
        if lacking is not None:
            if not has_waited:
                return self._wait_for_policy(request, judged, lacking)
            judged.hedge = None
            judged.verdict = self._mesh.budgeting.refuse(lacking, known.caller, now_s)
        return self._conclude(request, judged, now_s)

    def _never(self, judged: Judged, now_s: float) -> Refused | None:
        """Others may serve the model by now, and its tenant's limits be others."""
        caller, climb, waiting = judged.caller, judged.climb, judged.waiting
        assert caller is not None, "nobody unknown waits"
        assert climb is not None, "what waits was looked at"
        assert waiting is not None, "what waits was looked at"
        pool = self._placing.pool(caller, climb.demand, now_s)
        remaining_s = waiting.deadline_s - now_s
        refused = never(climb.demand, caller.tenant, pool, remaining_s=remaining_s)
        refused = refused or self._mesh.limiting.too_often(caller.tenant, now_s)
        return refused or self._placing.held_back(judged, caller.tenant, now_s)

    def _refuse(self, request: Request, judged: Judged, refused: Refused, now_s: float) -> Answer:
        judged.verdict = refused
        return self._conclude(request, judged, now_s)

    def _leave(self, request: Request, judged: Judged, now_s: float) -> None:
        decision = decision_of(request, judged, now_s)
        ended(request.span, decision, None)
        self._mesh.audit.left(request.question, judged, decision, now_s)
        self._mesh.requests.note(decision)

    def _conclude(self, request: Request, judged: Judged, now_s: float) -> Answer:
        decision = decision_of(request, judged, now_s)
        if not self._mesh.audit.decided(request.question, judged, decision, now_s):
            self._mesh.budgeting.given_up(decision.request_id)
            judged.verdict, judged.hedge, judged.reservation = UNAUDITED, None, None
            decision = decision_of(request, judged, now_s)
        if self._mesh.shadow.version:
            compare(self._mesh.shadow, request.question, judged, owner=owner_of, now_s=now_s)
        answer = self._answer(judged, decision, now_s)
        ended(request.span, decision, judged.verdict)
        return answer

    def _answer(self, judged: Judged, decision: Decision, now_s: float) -> Answer:
        if isinstance(judged.verdict, Admitted):
            if self._mesh.requests.is_over(decision.request_id, decision.received_unix_s):
                self._mesh.budgeting.given_up(decision.request_id)
                return FAILED  # nobody hears it
            return self._let_go(judged, judged.verdict, decision, now_s)
        self._mesh.requests.note(decision)
        if judged.verdict is None:
            return let_go(identity(decision))
        if isinstance(judged.verdict, Hit):
            assert judged.caller is not None, "nobody unknown is answered"
            self._mesh.limiting.let_go(decision.request_id, judged.caller.tenant, None, now_s)
            promised = self._mesh.caching.promise(decision, judged.verdict, now_s)
            return let_go((*identity(decision), *promised))
        return refusal(judged.verdict, decision.request_id)

    def _let_go(
        self, judged: Judged, admitted: Admitted, decision: Decision, now_s: float
    ) -> Answer:
        mesh = self._mesh
        slot = slot_of(admitted, now_s + admitted.timeout_s + self._grace_s)
        mesh.requests.admit(decision, slot)
        mesh.hedging.let_go(decision.request_id, decision.plan, now_s)
        mesh.circuits.sent(slot.address, now_s)
        if judged.waiting is not None:
            mesh.line.flow.sent(judged.waiting, slot.address, now_s)
        assert judged.caller is not None, "nobody unknown is admitted"
        tenant = judged.caller.tenant
        mesh.limiting.let_go(decision.request_id, tenant, judged.wish, now_s)
        salt = mesh.salts.of(judged.caller, admitted.workload_class)
        said = orders(decision, admitted, tenant, salt)
        consulted = judged.consulted
        if admitted.degraded.taken:  # another answer than it would have had
            consulted = replace(consulted, key="")
        kept = mesh.caching.sent(consulted, tenant, until_s=slot.expires_at_s)
        routed = route(admitted, decision.plan, judged.reservation)
        paid = reservation(mesh.budgeting.router, judged.reservation)
        return let_go((*identity(decision), *said, *routed, *paid, *kept))


def _without_body(request: Request) -> Request:
    """It may wait for minutes, and a body be large."""
    return replace(request, question=replace(request.question, body=b""))
