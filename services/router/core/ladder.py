"""The degradation ladder: which rungs a request takes, in the order of the policy's file.

Each rung is judged for the request as the rungs before it have left it, once: it is taken if its
trigger holds then and it makes the request another one. So rungs add up, a trigger that a rung has
answered calls for no further one, and the walk ends. `refuse` ends it at once.

After graceful degradation by brownout: C. Klein et al., Brownout: Building More Robust Cloud
Applications (ICSE 2014).
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from services.router.core.demands import Demand, Output, WorkloadClass
from services.router.core.rungs import (
    UNDEGRADED,
    Degradation,
    Degraded,
    FallbackModel,
    Refuse,
    Rung,
    SmallerContext,
    SmallerOutput,
    Trigger,
    Triggers,
)
from services.router.core.tenants import Tenant
from services.router.core.value import value

_SURELY = 2  # a prompt has at most so many times the tokens that it is estimated at, as a rule

Look = Callable[[Demand], Triggers]
"""What holds for a request, were it to go now."""


@value
class Case:
    """Whose request it is, and what holds for it."""

    tenant: Tenant
    workload_class: WorkloadClass
    look: Look


@value
class Climb:
    """What a ladder made of a request."""

    demand: Demand
    degraded: Degraded = UNDEGRADED
    refused: bool = False  # by the one rung that `degraded` names


def climbed(demand: Demand, ladder: Sequence[Rung], case: Case) -> Climb:
    """A request that writes nothing is left as it is: it costs little, and its tokens are exact. So
    is one that carries a stream on: it goes on as it began."""
    climb = Climb(demand)
    if not ladder or demand.output is None or demand.resumed_tokens:
        return climb
    triggers = case.look(demand)
    for rung in ladder:
        if not triggers.hold(rung.when):
            continue
        if isinstance(rung, Refuse):
            only = Degraded((_degradation(rung),), climb.degraded.skipped)
            return Climb(demand, only, refused=True)
        after = _after(rung, climb, case)
        climb = _noted(climb, rung, after)
        if not isinstance(after, str):
            triggers = case.look(climb.demand)
    return climb


def _noted(before: Climb, rung: Rung, after: Climb | str) -> Climb:
    known, name = before.degraded, _degradation(rung)
    if isinstance(after, str):
        return replace(
            before, degraded=replace(known, skipped=(*known.skipped, f"{name}: {after}"))
        )
    return replace(after, degraded=replace(after.degraded, taken=(*known.taken, name)))


def _after(rung: Rung, climb: Climb, case: Case) -> Climb | str:
    """The request after a rung; or why it can't be taken."""
    if case.workload_class is WorkloadClass.HIGH_RISK:
        return "high_risk is answered in full or refused"  # whatever the policy's file says
    if isinstance(rung, FallbackModel):
        return _with_another_model(rung, climb, case)
    if isinstance(rung, SmallerOutput):
        return _with_smaller_output(rung, climb, case.tenant)
    assert isinstance(rung, SmallerContext), rung
    return _with_smaller_context(rung, climb)


def _with_another_model(rung: FallbackModel, climb: Climb, case: Case) -> Climb | str:
    if rung.model == climb.demand.model:
        return "that is the model already"
    if not case.tenant.may_use(rung.model):
        return f"tenant {case.tenant.id} may not use {rung.model}"
    if climb.demand.prompt.exact:
        return "token ids are of the model that was asked for"
    demand = replace(climb.demand, model=rung.model)
    there = case.look(demand)
    if there.model_unhealthy:
        return f"no runtime can answer for {rung.model} either"
    if rung.when is not Trigger.BUDGET_LOW and there.hold(rung.when):
        return f"{rung.when.value} holds for {rung.model} too"
    return replace(climb, demand=demand)


def _with_smaller_output(rung: SmallerOutput, climb: Climb, tenant: Tenant) -> Climb | str:
    output = climb.demand.output
    assert output is not None, "looked at before"
    asked = output.most(tenant.max_output_tokens)
    if asked <= rung.max_tokens:
        return f"at most {asked} tokens are written anyway"
    demand = replace(climb.demand, output=Output(rung.max_tokens, output.field))
    caps = replace(climb.degraded.caps, output_tokens=rung.max_tokens)
    return replace(climb, demand=demand, degraded=replace(climb.degraded, caps=caps))


def _with_smaller_context(rung: SmallerContext, climb: Climb) -> Climb | str:
    """An estimate is none to cut by: the runtime counts, and says whether it has cut anything."""
    prompt, known = climb.demand.prompt, climb.degraded.caps
    if not prompt.chat:
        return "only chats have turns to leave out"
    if 0 < known.prompt_tokens <= rung.max_tokens:
        return f"it is cut to {known.prompt_tokens} tokens already"
    if prompt.tokens * _SURELY <= rung.max_tokens:
        return f"the prompt has about {prompt.tokens} tokens"
    fewer = replace(prompt, tokens=min(prompt.tokens, rung.max_tokens))
    caps = replace(known, prompt_tokens=rung.max_tokens)
    return replace(
        climb,
        demand=replace(climb.demand, prompt=fewer),
        degraded=replace(climb.degraded, caps=caps),
    )


def _degradation(rung: Rung) -> Degradation:
    return Degradation(rung.name, rung.when.value)
