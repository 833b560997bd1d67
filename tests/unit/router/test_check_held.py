"""Questions that are answered later: when there is room, when it is too late, or never."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from services.router.core.bands import Band
from services.router.core.circuits import OPENS_AFTER, TRIED_AGAIN_AFTER_S, Outcome
from services.router.core.flow import FlowControl
from services.router.core.queue_limits import QueueLimits
from services.router.core.requests import Decision
from services.router.core.saturation import Saturation
from services.router.core.tenants import Tenants
from services.router.core.verdicts import Reason
from services.router.inbound import judgements
from services.router.inbound.answers import FAILED, Answer
from services.router.inbound.asked import Question
from services.router.inbound.check import Check
from services.router.inbound.line import Held, Line, Turn
from services.router.inbound.mesh import Mesh
from tests import virtual_time
from tests.unit.router.test_check import headers, reason
from tests.unit.router.test_check_trace import TRACEPARENT
from tests.unit.router.test_queue import waiting
from tests.unit.router.values import LIMITS, A, B, check_request, ended, mesh, state, tenant

LIMIT_S = 30.0
OF_EACH = 2  # endpoints run one each, and get one more


@dataclass(slots=True)
class Caller:
    held: Held
    answers: list[Answer] = field(default_factory=list)
    at_s: float = 0.0

    def told(self, answer: Answer) -> None:
        self.answers.append(answer)
        self.at_s = asyncio.get_running_loop().time()

    @property
    def answer(self) -> Answer:
        (only,) = self.answers
        return only


class Router:
    """Both endpoints are full from the start, by requests "full0" to "full3"."""

    def __init__(self, of: Mesh) -> None:
        circuits = of.circuits
        flow = FlowControl(Saturation(circuits.is_open), QueueLimits())
        self.mesh = replace(of, line=Line(flow), revoked=lambda serial: serial in self.revoked)
        self.revoked: set[str] = set()
        self._clock = asyncio.get_running_loop().time
        self._check = Check(self.mesh, LIMITS, grace_s=5.0, clock=self._clock)
        for address in (A, B):
            self.heard(address)
        for at in range(2 * OF_EACH):
            assert isinstance(self.ask(check_request(x_request_id=f"full{at}")), Answer)

    def heard(self, address: str) -> None:
        self.mesh.endpoints.saw(address, state(max_running=1))
        self.mesh.line.saw(self.mesh.endpoints.get(address))

    def ask(self, question: Question) -> Answer | Held:
        return self._check(question)

    def held(self, request_id: str = "r1", **said: Any) -> Caller:
        held = self.ask(check_request(x_request_id=request_id, **said))
        assert isinstance(held, Held)
        caller = Caller(held)
        held.reply = caller.told
        return caller

    def end(self, request_id: str) -> None:
        self.mesh.requests.end(ended(request_id))

    def decision(self, request_id: str = "r1") -> Decision:
        decision = self.mesh.requests.find(request_id).decision
        assert decision is not None
        return decision


def run(scenario: Callable[[Router], Awaitable[None]], of: Mesh | None = None) -> None:
    async def within() -> None:
        # Endpoints speak five times a second.
        router = Router(of or mesh())
        await scenario(router)

    virtual_time.run(within())


async def passed(router: Router, seconds: float) -> None:
    """Time, in which runtimes that are reachable say that they are."""
    for _ in range(round(seconds / 0.1)):
        await asyncio.sleep(0.1)
        for each in router.mesh.endpoints.all():
            if each.reachable:
                said = state(
                    max_running=1, running=router.mesh.requests.load(each.address).requests
                )
                router.mesh.endpoints.saw(each.address, said)
                router.mesh.line.saw(router.mesh.endpoints.get(each.address))
    await asyncio.sleep(0)


def test_one_whose_end_is_known_takes_no_slot_at_its_turn() -> None:
    """Its caller left, and the access log was faster than the socket that Envoy closes."""

    async def scenario(router: Router) -> None:
        caller = router.held()
        router.mesh.requests.end(ended("r1", began_unix_s=1000.0))

        router.end("full0")
        await asyncio.sleep(0)

        assert caller.answer is FAILED
        assert router.mesh.requests.running() == 3
        assert len(router.mesh.line.flow) == 0

    run(scenario)


def test_it_goes_when_a_slot_is_freed_and_has_waited_as_long() -> None:
    async def scenario(router: Router) -> None:
        caller = router.held(grpc_timeout="20S")
        await passed(router, 4.0)
        assert caller.answers == []

        router.end("full0")
        await asyncio.sleep(0)

        assert headers(caller.answer)["x-evenflow-endpoints"] == f"{A},{B},{A}"
        assert headers(caller.answer)["grpc-timeout"] == "16000m"
        decision = router.decision()
        assert decision.queue_wait_s == pytest.approx(4.0)
        assert decision.queueing is not None
        assert (decision.queueing.reason, decision.queueing.ahead) == ("saturated", 0)
        assert router.mesh.requests.running() == 4

    run(scenario)


def test_who_has_waited_longest_for_as_late_a_deadline_goes_first() -> None:
    async def scenario(router: Router) -> None:
        first, second = router.held("r1"), router.held("r2")

        router.end("full0")
        await asyncio.sleep(0)
        assert (len(first.answers), len(second.answers)) == (1, 0)
        router.end("r1")
        await asyncio.sleep(0)
        assert len(second.answers) == 1

    run(scenario)


def test_one_that_fills_the_queue_while_an_endpoint_has_come_goes_there() -> None:
    async def scenario(router: Router) -> None:
        router.mesh.endpoints.lost(B)
        router.mesh.line.changed(router.mesh.endpoints.get(B))
        for request_id in ("full1", "full3"):
            router.end(request_id)
        caller = router.held()
        await passed(router, 1.0)
        assert caller.answers == []

        router.heard(B)
        await asyncio.sleep(0)

        assert headers(caller.answer)["x-evenflow-endpoints"] == f"{B},{A},{B}"

    run(scenario)


def test_who_leaves_takes_no_slot_and_can_be_explained() -> None:
    async def scenario(router: Router) -> None:
        leaver, stays = router.held("leaver"), router.held("stays")
        await passed(router, 2.0)
        leaver.held.left()
        leaver.held.left()

        router.end("full0")
        await asyncio.sleep(0)

        assert (leaver.answers, len(stays.answers)) == ([], 1)
        decision = router.decision("leaver")
        assert (decision.tenant, decision.refusal, decision.for_runtime) == ("acme", None, True)
        assert decision.queue_wait_s == pytest.approx(2.0)
        assert not router.mesh.line.flow

    run(scenario)


def test_a_request_id_that_waits_is_taken() -> None:
    async def scenario(router: Router) -> None:
        router.held("same")
        router.held("same")

        assert len(router.mesh.line.flow) == 2

    run(scenario)


async def tenant_gone(router: Router) -> None:
    other = tenant(id="globex", spiffe_ids=(), api_keys=())
    router.mesh.policy.replaced(Tenants("v2", [other]), asyncio.get_running_loop().time())


async def model_forbidden(router: Router) -> None:
    less = tenant(models=frozenset({"other"}))
    router.mesh.policy.replaced(Tenants("v2", [less]), asyncio.get_running_loop().time())


async def revoked(router: Router) -> None:
    router.revoked.add("77")


@pytest.mark.parametrize(
    ("meanwhile", "why"),
    [
        (tenant_gone, Reason.UNKNOWN_IDENTITY),
        (model_forbidden, Reason.MODEL_NOT_ALLOWED),
        (revoked, Reason.CERTIFICATE_REVOKED),
    ],
)
def test_at_its_turn_it_is_judged_anew_and_the_slot_goes_to_the_next(
    meanwhile: Callable[[Router], Awaitable[None]], why: Reason
) -> None:
    async def scenario(router: Router) -> None:
        caller = router.held(x_evenflow_serial="77")
        await meanwhile(router)

        router.end("full0")
        await asyncio.sleep(0)

        assert reason(caller.answer) == why.value
        assert router.decision().refusal is why
        assert router.mesh.requests.running() == 3
        assert not router.mesh.line.flow

    run(scenario)


def test_when_no_endpoint_is_left_it_is_refused() -> None:
    async def scenario(router: Router) -> None:
        caller = router.held()
        for address in (A, B):
            router.mesh.endpoints.lost(address)
            router.mesh.line.changed(router.mesh.endpoints.get(address))
        await asyncio.sleep(0)

        assert reason(caller.answer) == "NO_ENDPOINT"

    run(scenario)


def test_a_wait_that_is_too_long_is_refused_without_any_other_word() -> None:
    async def scenario(router: Router) -> None:
        caller = router.held()
        await asyncio.sleep(LIMIT_S + 1.0)

        assert reason(caller.answer) == "QUEUE_TIMEOUT"
        assert headers(caller.answer)["retry-after"] == "1"
        assert LIMIT_S <= caller.at_s <= LIMIT_S + 0.1

    run(scenario)


def test_a_deadline_ends_the_wait() -> None:
    async def scenario(router: Router) -> None:
        caller = router.held(grpc_timeout="3S")
        await passed(router, 3.2)

        assert reason(caller.answer) == "DEADLINE_UNREACHABLE"
        assert router.decision().queue_wait_s is None

    run(scenario)


def test_room_behind_a_circuit_is_found_when_it_may_be_tried_again() -> None:
    async def scenario(router: Router) -> None:
        now_s = asyncio.get_running_loop().time()
        for began in range(OPENS_AFTER):
            failed = Outcome(A, succeeded=False)
            router.mesh.circuits.learn(failed, began_s=began, now_s=now_s)
        router.end("full0")
        caller = router.held()
        await passed(router, TRIED_AGAIN_AFTER_S - 0.2)
        assert caller.answers == []

        await passed(router, 0.4)
        assert headers(caller.answer)["x-evenflow-endpoints"].startswith(A)

    run(scenario)


def test_counting_tokens_waits_for_nobody() -> None:
    async def scenario(router: Router) -> None:
        path = "/evenflow.inference.v1.InferenceService/CountTokens"

        assert isinstance(router.ask(check_request(path=path)), Answer)

    run(scenario)


def test_a_bug_at_its_turn_leaves_nobody_waiting() -> None:
    async def scenario() -> None:
        flow = FlowControl(Saturation())
        line, answers, bugs = Line(flow), list[Answer](), list[str]()
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, what: bugs.append(type(what["exception"]).__name__))

        def fail(_: float) -> Answer:
            raise ZeroDivisionError

        for at in range(4):
            request = waiting(f"r{at}", since_s=0.0, deadline_s=60.0, until_s=30.0)
            flow.offer(request, 0.0)
            turn = Turn(go=fail, refuse=lambda *_: FAILED, leave=lambda _: None)
            line.hold(request, turn).reply = answers.append
        line.stir()
        await asyncio.sleep(1.0)

        assert answers == [FAILED] * 4
        assert bugs == ["ZeroDivisionError"] * 4

    virtual_time.run(scenario())


def test_the_span_covers_the_wait_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(judgements, "_tracer", provider.get_tracer("test"))

    async def scenario(router: Router) -> None:
        router.held(traceparent=f"{TRACEPARENT}01")
        assert exporter.get_finished_spans() == ()
        router.end("full0")
        await asyncio.sleep(0)

    run(scenario)

    (span,) = exporter.get_finished_spans()
    attributes = span.attributes or {}
    assert attributes["evenflow.queue.reason"] == "saturated"
    assert attributes["evenflow.queue.band"] == Band.INTERACTIVE.value
    assert attributes["evenflow.endpoint"] == A
