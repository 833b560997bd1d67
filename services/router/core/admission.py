"""Admission: may this request go now, and to which endpoints in which order?

Cheap refusals first; what a caller may not use it learns nothing about, save that it exists.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from services.router.core.demands import Demand, WorkloadClass
from services.router.core.endpoints import Endpoint
from services.router.core.inflight import Load
from services.router.core.picking import Candidate, ranked, usable
from services.router.core.tenants import Tenant
from services.router.core.verdicts import Admitted, Reason, Refused

_COME_BACK_S = 1.0  # a lost runtime is back within seconds or not at all
_DEFAULT_OUTPUT_TOKENS = 512  # what the runtimes write at most when nobody says


@dataclass(frozen=True, slots=True)
class TimeLimits:
    default_s: Mapping[WorkloadClass, float]  # for callers who set no deadline
    longest_s: float  # deadlines above it are lowered to it

    def timeout_s(self, workload_class: WorkloadClass, remaining_s: float | None) -> float:
        default_s = self.default_s[workload_class]
        return min(default_s if remaining_s is None else remaining_s, self.longest_s)


@dataclass(frozen=True, slots=True)
class Pool:
    """The runtimes, and what is under way at each, as one request sees them."""

    endpoints: Sequence[Endpoint]
    load: Callable[[str], Load]
    is_open: Callable[[str], bool] = lambda _address: False  # its circuit

    def candidates(self, model: str) -> Sequence[Candidate]:
        """Circuits count only while some endpoint is without: a try is better than a refusal."""
        seen = [self._candidate(each, model) for each in self.endpoints]
        closed = [self._unless_open(each) for each in seen]
        return ranked(closed if usable(closed) else seen)

    def _candidate(self, endpoint: Endpoint, model: str) -> Candidate:
        there = self.load(endpoint.address)
        return Candidate(endpoint.address, endpoint.left_out(model), there.tokens, there.requests)

    def _unless_open(self, candidate: Candidate) -> Candidate:
        if candidate.left_out or not self.is_open(candidate.address):
            return candidate
        return replace(candidate, left_out="circuit open")

    def lacks(self, model: str) -> bool:
        """No runtime serves it, for sure: just started, or cut off from all, nobody knows."""
        if any(each.announced(model) for each in self.endpoints):
            return False
        seen = any(each.state is not None for each in self.endpoints)
        return seen and all(each.tried for each in self.endpoints)


def decide(
    demand: Demand, tenant: Tenant, pool: Pool, *, remaining_s: float | None, limits: TimeLimits
) -> Admitted | Refused:
    """`remaining_s`: what is left of the caller's deadline; None: it set none."""
    workload_class = demand.workload_class or tenant.default_workload_class
    refused = barred(demand, tenant, pool, remaining_s=remaining_s)
    if refused:
        return refused
    candidates = pool.candidates(demand.model)
    addresses = usable(candidates)
    if not addresses:
        return _nowhere(demand.model, candidates, workload_class)
    return Admitted(
        workload_class=workload_class,
        candidates=candidates,
        endpoints=addresses,
        prompt_tokens=demand.prompt.tokens,
        output_tokens=_output_tokens(demand, tenant),
        timeout_s=limits.timeout_s(workload_class, remaining_s),
    )


def barred(
    demand: Demand, tenant: Tenant, pool: Pool, *, remaining_s: float | None
) -> Refused | None:
    """What refuses a request whoever would answer it, an engine or the response cache."""
    return (
        _late(remaining_s)
        or _unknown_model(demand.model, pool)
        or _not_allowed(demand, tenant, demand.workload_class or tenant.default_workload_class)
        or _too_much(demand, tenant)
    )


def _late(remaining_s: float | None) -> Refused | None:
    if remaining_s is None or remaining_s > 0:
        return None
    return Refused(Reason.DEADLINE, "the deadline had passed when the request arrived")


def _unknown_model(model: str, pool: Pool) -> Refused | None:
    if not pool.lacks(model):
        return None
    return Refused(Reason.MODEL_NOT_FOUND, f"no runtime serves the model {_quoted(model)}", "model")


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


def _nowhere(model: str, candidates: Sequence[Candidate], workload_class: WorkloadClass) -> Refused:
    draining = any(each.left_out == "draining" for each in candidates)
    reason = Reason.DRAINING if draining else Reason.NO_ENDPOINT
    what = "the runtimes that serve it are draining" if draining else "no runtime is ready"
    return Refused(
        reason,
        f"the model {_quoted(model)} can't be served now: {what}",
        retry_after_s=_COME_BACK_S,
        candidates=candidates,
        workload_class=workload_class,
    )


def _output_tokens(demand: Demand, tenant: Tenant) -> int:
    if demand.output is None:
        return 0
    unsaid = min(_DEFAULT_OUTPUT_TOKENS, tenant.max_output_tokens or _DEFAULT_OUTPUT_TOKENS)
    return demand.output.at_most_tokens or unsaid


def _quoted(model: str) -> str:
    """A caller's own text in a message: bounded, and without control characters."""
    return ascii(model[:100])
