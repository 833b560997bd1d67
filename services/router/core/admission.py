"""Admission: may this request go now, and to which endpoints in which order?

Cheap refusals first; what a caller may not use it learns nothing about, save that it exists. Then
the ladder of its class, and then the pick; in between it may have to wait.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from services.router.core.demands import Demand, WorkloadClass
from services.router.core.ladder import Climb
from services.router.core.picking import Pick, Picker, Wanted
from services.router.core.prefixes import block_keys
from services.router.core.rungs import Degraded
from services.router.core.saturation import Vacancies
from services.router.core.tenants import Tenant
from services.router.core.value import value
from services.router.core.verdicts import Admitted, Reason, Refused

_LEAST_S = 0.001  # Envoy's timers count milliseconds: less would become more
_COME_BACK_S = 1.0  # a lost runtime is back within seconds or not at all

Degrade = Callable[[Demand, WorkloadClass, float], Climb]
"""Takes a request up the ladder of its class; the last is how many seconds it has."""


@dataclass(frozen=True, slots=True)
class TimeLimits:
    default_s: Mapping[WorkloadClass, float]  # for callers who set no deadline
    longest_s: float  # deadlines above it are lowered to it

    def of(self, workload_class: WorkloadClass, remaining_s: float | None) -> float:
        default_s = self.default_s[workload_class]
        return min(default_s if remaining_s is None else remaining_s, self.longest_s)


@value
class Pool:
    """The runtimes, and what is under way at each, as one request sees them."""

    picker: Picker
    now_s: float
    salt: str  # of the request's boundary; no two tenants share one
    vacancies: Vacancies = Vacancies()

    def pick(self, demand: Demand, tenant: Tenant) -> Pick:
        looked_at = demand.prompt.start if self.picker.looks_at_prompts else b""
        wanted = Wanted(
            demand.model,
            pool_of(demand, tenant),
            block_keys(looked_at, self.salt, demand.model),
            demand.prompt.tokens,
            output_tokens(demand, tenant),
            self.vacancies,
        )
        return self.picker.pick(wanted, self.now_s)

    def lacks(self, demand: Demand, tenant: Tenant) -> bool:
        """No runtime serves its model, for sure: just started, or cut off from all, nobody
        knows."""
        return self.picker.eligible(demand.model, pool_of(demand, tenant)).unknown


def never(
    demand: Demand, tenant: Tenant, pool: Pool, *, remaining_s: float | None
) -> Refused | None:
    """What no wait for an endpoint would change. `remaining_s`: what is left of the caller's
    deadline; None: it set none."""
    return _late(remaining_s) or _unknown_model(demand, tenant, pool) or forbidden(demand, tenant)


def forbidden(demand: Demand, tenant: Tenant) -> Refused | None:
    """What the policy alone refuses, wherever and whenever it is asked."""
    return _not_allowed(demand, tenant, class_of(demand, tenant)) or _too_much(demand, tenant)


def stepped_down(
    demand: Demand,
    tenant: Tenant,
    degrade: Degrade | None,
    *,
    remaining_s: float | None,
    limits: TimeLimits,
) -> Climb | Refused:
    """As the ladder of its class leaves it. `degrade` None: no class has one."""
    if degrade is None:
        return Climb(demand)
    workload_class = class_of(demand, tenant)
    climb = degrade(demand, workload_class, limits.of(workload_class, remaining_s))
    return _shed(climb, workload_class) if climb.refused else climb


def place(
    climb: Climb,
    tenant: Tenant,
    pool: Pool,
    *,
    timeout_s: float,
    resumable: bool = False,
) -> Admitted | Refused:
    """Where it goes, now. `resumable`: its stream may be carried on should it break."""
    demand, degraded = climb.demand, climb.degraded
    workload_class = class_of(demand, tenant)
    picked = pool.pick(demand, tenant)
    if not picked.addresses:
        return _nowhere(demand.model, picked, workload_class, degraded)
    return Admitted(
        workload_class=workload_class,
        candidates=picked.candidates,
        endpoints=picked.addresses,
        prompt_tokens=demand.prompt.tokens,
        output_tokens=output_tokens(demand, tenant),
        timeout_s=timeout_s,
        others=picked.others,
        prefix=picked.prefix,
        model=demand.model,
        degraded=degraded,
        resumable=resumable,
        exact=demand.prompt.exact,
    )


def class_of(demand: Demand, tenant: Tenant) -> WorkloadClass:
    return demand.workload_class or tenant.default_workload_class


def pool_of(demand: Demand, tenant: Tenant) -> str:
    """The one that it never leaves, whatever its ladder makes of it."""
    return tenant.pool_for(class_of(demand, tenant))


def output_tokens(demand: Demand, tenant: Tenant) -> int:
    """At most, as far as the router can know."""
    return demand.output.most(tenant.max_output_tokens) if demand.output else 0


def _late(remaining_s: float | None) -> Refused | None:
    if remaining_s is None or remaining_s >= _LEAST_S:
        return None
    return Refused(Reason.DEADLINE, "the deadline had passed when the request arrived")


def _unknown_model(demand: Demand, tenant: Tenant, pool: Pool) -> Refused | None:
    if not pool.lacks(demand, tenant):
        return None
    model = _quoted(demand.model)
    return Refused(Reason.MODEL_NOT_FOUND, f"no runtime serves the model {model}", "model")


def _not_allowed(demand: Demand, tenant: Tenant, workload_class: WorkloadClass) -> Refused | None:
    if not tenant.may_use(demand.model):
        return Refused(
            Reason.MODEL_NOT_ALLOWED,
            f"tenant {tenant.id} may not use the model {_quoted(demand.model)}",
            "model",
        )
    if workload_class not in tenant.workload_classes:
        return Refused(
            Reason.WORKLOAD_CLASS_NOT_ALLOWED,
            f"tenant {tenant.id} may not ask for the class {workload_class.value}",
            "workload_class",
        )
    return None


def _too_much(demand: Demand, tenant: Tenant) -> Refused | None:
    """Only what is sure without a tokenizer; the runtime counts the rest."""
    asked = demand.output.at_most_tokens if demand.output else None
    if demand.output and asked and 0 < tenant.max_output_tokens < asked:
        return Refused(
            Reason.OUTPUT_LIMIT,
            f"tenant {tenant.id} may ask for {tenant.max_output_tokens} output tokens at most,"
            f" got {asked}",
            demand.output.field,
        )
    least = demand.prompt.tokens + (asked or 1)
    if demand.prompt.exact and 0 < tenant.max_context_tokens < least:
        return Refused(
            Reason.CONTEXT_LIMIT,
            f"tenant {tenant.id} may use {tenant.max_context_tokens} tokens of context at most,"
            f" prompt and output need {least}",
            "input",
        )
    return None


def _nowhere(
    model: str, picked: Pick, workload_class: WorkloadClass, degraded: Degraded
) -> Refused:
    draining = "draining" in {*picked.others, *(each.left_out for each in picked.candidates)}
    reason = Reason.DRAINING if draining else Reason.NO_ENDPOINT
    what = "the runtimes that serve it are draining" if draining else "no runtime is ready"
    return Refused(
        reason,
        f"the model {_quoted(model)} can't be served now: {what}",
        retry_after_s=_COME_BACK_S,
        candidates=picked.candidates,
        workload_class=workload_class,
        others=picked.others,
        degraded=degraded,
    )


def _shed(climb: Climb, workload_class: WorkloadClass) -> Refused:
    (why,) = climb.degraded.taken
    return Refused(
        Reason.SHED,
        f"the ladder of {workload_class.value} refuses requests now: {why.reason}",
        retry_after_s=_COME_BACK_S,
        workload_class=workload_class,
        degraded=climb.degraded,
    )


def _quoted(model: str) -> str:
    """A caller's own text in a message: bounded, and without control characters."""
    return ascii(model[:100])
