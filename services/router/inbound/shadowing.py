"""Judges each request by the candidate policy as well, after it was decided. Nothing that happens
here reaches the request."""

from collections.abc import Callable

import structlog

from services.chassis.status import way
from services.router.core.shadow import Judgement, Shadow
from services.router.core.tenants import Caller, Tenants
from services.router.core.verdicts import Refused
from services.router.inbound.asked import Asked
from services.router.inbound.judgements import Judged

Owner = Callable[[Asked, Tenants], Caller | None]

_log = structlog.get_logger(__name__)


def compare(shadow: Shadow, question: Asked, judged: Judged, *, owner: Owner, now_s: float) -> None:
    """`owner`: how the live path finds who asks."""
    candidate = shadow.candidate(now_s)
    if candidate is None:
        return
    verdict, caller = judged.verdict, judged.caller
    judgement = Judgement(
        question.request_id,
        verdict.reason if isinstance(verdict, Refused) else None,
        caller.tenant.id if caller else "",
        judged.demand,
    )
    try:
        shadow.compare(judgement, owner(question, candidate))
    except Exception as error:  # noqa: BLE001 - a candidate may fail, who is served may not
        shadow.failed += 1
        if shadow.failed == 1:
            _log.error("shadow.bug", error=type(error).__name__, trace=way(error))
