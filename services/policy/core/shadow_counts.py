"""What routers tell about a candidate policy: how many requests it would have decided otherwise."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

MOST_KINDS = 1_000  # that are shown
MOST_EXAMPLES = 5
_MOST_ROUTERS = 256  # that are told apart; what those before them said is kept in one sum


@dataclass(frozen=True, slots=True)
class Shadow:
    """The candidate."""

    version: str
    since_unix_s: float
    actor: str
    tenants: int


@dataclass(frozen=True, slots=True)
class Kind:
    live: str  # what came of requests; empty: they were admitted
    shadow: str
    tenant: str


@dataclass(frozen=True, slots=True)
class Report:
    """All that one router has counted since it began with a candidate."""

    version: str
    judged: int = 0
    failed: int = 0
    requests: Mapping[Kind, int] = field(default_factory=dict)
    examples: Mapping[Kind, Sequence[str]] = field(default_factory=dict)


class ShadowCounts:
    """Of one candidate, over all routers."""

    def __init__(self, version: str) -> None:
        self._version = version
        self._reports: dict[str, Report] = {}  # by router, the one that spoke last at the end
        self._gone = Report(version)
        self._routers_gone = 0

    def heard(self, router: str, report: Report) -> None:
        """Saying it again counts nothing twice."""
        if report.version != self._version:
            return
        self._reports.pop(router, None)
        self._reports[router] = report
        if len(self._reports) > _MOST_ROUTERS:
            silent = self._reports.pop(next(iter(self._reports)))
            self._gone = _sum(self._version, (self._gone, silent))
            self._routers_gone += 1

    @property
    def routers(self) -> int:
        return self._routers_gone + len(self._reports)

    def total(self) -> Report:
        """Kinds with the most requests first."""
        return _sum(self._version, (self._gone, *self._reports.values()))


def _sum(version: str, reports: Sequence[Report]) -> Report:
    requests: Counter[Kind] = Counter()
    examples: dict[Kind, list[str]] = {}
    for each in reports:
        requests.update(each.requests)
        for kind, some in each.examples.items():
            known = examples.setdefault(kind, [])
            known.extend(some[: MOST_EXAMPLES - len(known)])
    return Report(
        version,
        judged=sum(each.judged for each in reports),
        failed=sum(each.failed for each in reports),
        requests=dict(requests.most_common()),
        examples=examples,
    )
