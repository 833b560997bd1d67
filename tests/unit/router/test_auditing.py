"""Each decision is written down before it is heard of; high-risk requests go only if it is."""

from collections.abc import Sequence

import pytest

from evenflow.policy.v1 import audit_service_pb2 as pb
from services.router.core.demands import WorkloadClass
from services.router.core.requests import Request
from services.router.inbound.answers import Answer
from services.router.inbound.asked import Question
from services.router.inbound.auditing import Auditing
from services.router.inbound.check import Check
from services.router.inbound.mesh import Mesh
from tests.unit.router import values
from tests.unit.router.values import KEY, LIMITS, WEB, check_request, generate, on_front_end

CLASSES = frozenset(WorkloadClass)
STALE_S = 60.0


class FakeSpool:
    def __init__(self) -> None:
        self.entries: list[pb.SpooledEntry] = []
        self.is_full = False
        self.waits = True

    @property
    def last(self) -> int:
        return len(self.entries)

    def append(self, content: bytes) -> None:
        if self.is_full:
            raise OSError("no space left on device")
        self.entries.extend(pb.AppendRequest.FromString(content).entries)


class Audited:
    """A router's Check over a spool, at a time that the test says."""

    def __init__(self) -> None:
        self.spool = FakeSpool()
        self.now_s = 10.0
        known = values.mesh(values.tenant(workload_classes=CLASSES))
        self.audit = Auditing(
            self.spool,
            now_unix_ns=lambda: 5_000_000_001,
            version=lambda: known.policy.version,
            stale_after_s=STALE_S,
        )
        self.mesh = Mesh(
            known.policy,
            known.endpoints,
            known.requests,
            known.salts,
            known.circuits,
            audit=self.audit,
        )
        self._check = Check(self.mesh, LIMITS, grace_s=5.0, clock=lambda: self.now_s)

    def ask(self, question: Question) -> Answer:
        answer = self._check(question)
        assert isinstance(answer, Answer)
        return answer

    @property
    def told(self) -> Sequence[tuple[str, str]]:
        return [(each.action, each.outcome) for each in self.spool.entries]


def question(workload_class: int = 0, **said: str) -> Question:
    return check_request(generate(workload_class=workload_class, text=PROMPT), **said)


HIGH_RISK = 3
PROMPT = "a secret of acme"


def test_an_admission_says_who_what_and_by_which_policy() -> None:
    audited = Audited()

    audited.ask(question(traceparent=f"00-{'ab' * 16}-{'cd' * 8}-00"))

    (entry,) = audited.spool.entries
    assert (entry.actor, entry.action, entry.outcome) == (WEB, "request.admitted", "done")
    assert (entry.tenant, entry.subject, entry.policy_version) == ("acme", "r1", "v1")
    assert (entry.request.model, entry.request.workload_class) == ("small", "interactive")
    assert entry.request.trace_id == "ab" * 16
    assert (entry.sequence, entry.at.seconds, entry.at.nanos) == (1, 5, 1)


def test_no_prompt_and_no_key_is_in_it() -> None:
    audited = Audited()

    audited.ask(question())
    audited.ask(on_front_end(question()))

    text = b"".join(each.SerializeToString() for each in audited.spool.entries)
    assert PROMPT.encode() not in text
    assert KEY.encode() not in text
    assert audited.spool.entries[1].actor.startswith("key:acme/")


def test_a_refusal_is_in_it_with_its_reason() -> None:
    audited = Audited()

    audited.ask(check_request(generate(model="unknown")))
    audited.ask(check_request(peer="spiffe://evenflow.local/tenant/nobody/web"))

    assert audited.told == [
        ("request.refused", "MODEL_NOT_FOUND"),
        ("request.refused", "UNKNOWN_IDENTITY"),
    ]
    assert audited.spool.entries[1].actor.endswith("/tenant/nobody/web")


def test_a_high_risk_request_is_refused_when_it_can_not_be_written_down() -> None:
    audited = Audited()
    audited.spool.is_full = True

    answer = audited.ask(question(HIGH_RISK))

    assert reason(answer) == "AUDIT_UNAVAILABLE"
    assert audited.mesh.requests.running() == 0


def test_others_go_and_what_is_missing_is_told_when_it_is_over() -> None:
    audited = Audited()
    audited.spool.is_full = True
    answers = [audited.ask(question(x_request_id=f"r{at}")) for at in range(3)]
    audited.spool.is_full = False

    audited.ask(question(x_request_id="r4"))

    assert {each.status for each in answers} == {200}
    assert [each.action for each in audited.spool.entries] == ["audit.gap", "request.admitted"]
    assert dict(audited.spool.entries[0].facts) == {"missing": "3"}


def test_a_high_risk_request_is_refused_when_policy_is_silent_too_long() -> None:
    audited = Audited()
    audited.ask(question(HIGH_RISK))
    audited.now_s += STALE_S
    in_time = audited.ask(question(HIGH_RISK, x_request_id="r2"))
    audited.now_s += 1.0

    late = audited.ask(question(HIGH_RISK, x_request_id="r3"))
    other = audited.ask(question(x_request_id="r4"))
    audited.audit.heard(audited.now_s)
    again = audited.ask(question(HIGH_RISK, x_request_id="r5"))

    assert (in_time.status, reason(late), other.status) == (200, "AUDIT_UNAVAILABLE", 200)
    assert again.status == 200
    assert audited.told[2] == ("request.refused", "AUDIT_UNAVAILABLE")


@pytest.mark.parametrize(
    ("workload_class", "ends"), [(WorkloadClass.HIGH_RISK, 1), (WorkloadClass.BATCH, 0)]
)
def test_how_a_high_risk_request_ended_is_in_it(workload_class: WorkloadClass, ends: int) -> None:
    audited = Audited()
    request = Request(values.decision(workload_class=workload_class))

    audited.audit.ended(request, values.ended(grpc_code=0), now_s=1.0)

    assert audited.told == [("request.ended", "done")] * ends


def reason(answer: Answer) -> str:
    return dict(answer.headers)["x-evenflow-reason"]
