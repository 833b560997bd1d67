"""Whether a stream may be carried on, and what one that is carried on counts as.

Its tokens of before are read like a prompt, and count against the limit of output as what they
are: else each resumption would be a new answer's worth of it.
"""

from dataclasses import replace

from services.router.core.demands import Demand
from services.router.core.tenants import ClassRules
from services.router.core.verdicts import Admitted, Reason, Refused, Verdict


def may_break(demand: Demand, rules: ClassRules) -> bool:
    """Its stream may be carried on should it break."""
    return rules.resume and demand.resumed_tokens is not None


def carried_on(admitted: Admitted, demand: Demand, rules: ClassRules) -> Verdict:
    """`admitted` as if it began at its beginning."""
    resumed = demand.resumed_tokens
    if not resumed:
        return admitted
    if not rules.resume:
        return _not_allowed(admitted)
    if resumed > admitted.output_tokens:
        return Refused(
            Reason.FIELD_INVALID,
            f"must be at most the {admitted.output_tokens} output tokens, got {resumed}",
            "resume.token_ids",
            workload_class=admitted.workload_class,
        )
    return replace(
        admitted,
        prompt_tokens=admitted.prompt_tokens + resumed,
        output_tokens=admitted.output_tokens - resumed,
    )


def _not_allowed(admitted: Admitted) -> Refused:
    name = admitted.workload_class.value
    return Refused(
        Reason.RESUME_NOT_ALLOWED,
        f"streams of the class {name} are not carried on",
        "resume",
        workload_class=admitted.workload_class,
    )
