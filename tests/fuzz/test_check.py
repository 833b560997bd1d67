"""Whatever a client sends, the router's Check answers: let go, or a refusal with a reason."""

import httptools
from hypothesis import example, given, settings
from hypothesis import strategies as st

from evenflow.openai.v1.chat_service_pb2 import CreateChatCompletionRequest
from services.router.core.verdicts import Reason
from services.router.inbound.answers import Answer
from services.router.inbound.asked import Question
from services.router.inbound.check import Check
from tests.fuzz.messages import (
    chat_completions,
    fields,
    framed,
    generate_requests,
    mended,
    serialized,
)
from tests.unit.router.values import KEY, LIMITS, WEB, mesh

REASONS = {each.value for each in Reason}
INFERENCE = "/evenflow.inference.v1.InferenceService"
CHAT = "/evenflow.openai.v1.ChatService"
METHODS = st.sampled_from(
    [
        *(f"{INFERENCE}/{name}" for name in ("Generate", "Tokenize", "CountTokens", "ListModels")),
        *(f"{CHAT}/{name}" for name in ("CreateChatCompletion", "StreamChatCompletion")),
        *("", "/", "/nobody.Service/Method?x=y", "/" + "a" * 5000),
    ]
)
CHATS = chat_completions().map(lambda chat: CreateChatCompletionRequest(completion=chat))
BODIES = framed(
    mended(serialized(generate_requests()))
    | mended(serialized(CHATS))
    | st.lists(fields()).map(b"".join)
) | st.binary(max_size=20)
VALUES = st.text(max_size=30) | st.sampled_from(
    ["", "é", "\0", "x" * 40_000, "٣S", "0S", "a\r\nx-evenflow-tenant: globex", "\n"]
)
HEADERS = st.fixed_dictionaries(
    {},
    optional={
        "grpc-timeout": VALUES | st.from_regex(r"-?[0-9]{0,10}[HMSmunX]?", fullmatch=True),
        "authorization": VALUES
        | VALUES.map(lambda key: f"Bearer {key}")
        | st.just(f"bearer {KEY}"),
        "traceparent": VALUES | st.from_regex(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}"),
        "x-request-id": VALUES,
    },
)
PRINCIPALS = VALUES | st.sampled_from(
    [
        WEB,
        f"{WEB}\r\nx-evenflow-tenant: globex",
        f"{WEB},{WEB}",
        "spiffe://evenflow.local/tenant/acme/*",
        "/",
        "*",
    ]
)


SAID = st.fixed_dictionaries(  # by Envoy; it sends no control characters, and we don't lean on it
    {"x-evenflow-listener": st.sampled_from(["mesh", "frontend", ""])},
    optional={"x-evenflow-peer": PRINCIPALS},
)


@st.composite
def questions(draw: st.DrawFn) -> Question:
    return Question(draw(METHODS), {**draw(HEADERS), **draw(SAID)}, draw(BODIES))


def answered(question: Question) -> Answer:
    of = mesh()
    answer = Check(of, LIMITS, grace_s=5.0, clock=lambda: 10.0)(question)
    assert isinstance(answer, Answer)
    in_flight = sum(of.requests.load(each.address).requests for each in of.endpoints.all())
    let_go_to_runtime = "x-evenflow-endpoints" in dict(answer.headers)
    assert in_flight == let_go_to_runtime
    return answer


class Reader:
    """What a parser makes of an answer."""

    def __init__(self) -> None:
        self.headers: list[tuple[str, str]] = []
        self.body = b""
        self.ends = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.decode("latin-1"), value.decode("latin-1")))

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.ends += 1


@given(questions())
@settings(deadline=None)
def test_every_question_is_answered_with_a_reason_and_takes_a_slot_only_if_it_may_go(
    question: Question,
) -> None:
    answer = answered(question)

    if answer.status == 200:
        return
    headers = dict(answer.headers)
    assert 400 <= answer.status < 500
    assert headers["x-evenflow-reason"] in REASONS
    assert int(headers["grpc-status"]) > 0
    assert all(len(value) < 4096 and value.isascii() for value in headers.values())


INJECTED = {
    "x-evenflow-listener": "mesh",
    "x-evenflow-peer": f"{WEB}\r\nx-evenflow-tenant: globex",
    "x-request-id": "r1\r\nx-evenflow-tenant: globex",
}


@given(questions(), st.booleans())
@example(Question(f"{INFERENCE}/ListModels", INJECTED, b""), False)
@example(Question(f"{INFERENCE}/ListModels", {**INJECTED, "x-evenflow-peer": WEB}, b""), False)
@settings(deadline=None)
def test_an_answer_is_read_as_what_it_says_and_nothing_else(question: Question, last: bool) -> None:
    answer, reader = answered(question), Reader()
    parser = httptools.HttpResponseParser(reader)

    parser.feed_data(answer.encoded(last=last))

    framing = {"content-length", "transfer-encoding", "connection"}
    said = [each for each in reader.headers if each[0] not in framing]
    assert said == list(answer.headers)
    assert len(dict(said)) == len(said)
    assert (parser.get_status_code(), reader.ends, reader.body) == (answer.status, 1, b"")


@given(framed(mended(serialized(generate_requests()))))
@settings(deadline=None)
def test_a_known_tenants_body_is_let_go_or_blamed(body: bytes) -> None:
    said = {"x-evenflow-listener": "mesh", "x-evenflow-peer": WEB}

    headers = dict(answered(Question(f"{INFERENCE}/Generate", said, body)).headers)

    if headers.get("x-evenflow-reason") == "FIELD_INVALID":
        assert headers["x-evenflow-field"]
