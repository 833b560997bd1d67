"""The load generator, a process of its own: `python -m benchmarks.load ORDER`, both sides JSON.

Closed loop: so many calls at once, each followed by the next. Open loop: calls at random times
(Poisson), whatever has become of those before; how late one starts counts as its latency.
"""

import heapq
import json
import random
import resource
import selectors
import ssl
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import count, cycle
from pathlib import Path

from benchmarks import frames
from benchmarks.connection import Call, Connection
from evenflow.inference.v1 import inference_service_pb2 as inference
from evenflow.openai.v1 import chat_service_pb2 as openai

GIVE_UP_S = 60.0  # after the last call was started
_FINISHED = bytes([inference.GenerateResponse.FINISHED_FIELD_NUMBER << 3 | 2])


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What to send, where and how fast."""

    addresses: Sequence[str]
    certificate_folder: str
    server: str  # the name in the server's certificate
    model: str = "simulated"
    connections: int = 4
    at_once: int = 0  # closed loop; 0: open
    per_s: float = 0.0  # open loop
    for_s: float = 0.0  # how long calls are started
    calls: int = 0  # or so many of them
    streamed: bool = True
    tokens: int = 64
    prompt_bytes: int = 1200
    greedy: bool = False  # temperature 0, so that an answer may be kept
    as_router: bool = False  # say to the runtimes what the router would have said
    timeout_s: int = 60  # the caller's deadline
    seed: int = 1


@dataclass(slots=True)
class Outcome:
    good: int = 0
    failed: int = 0
    tokens: int = 0
    elapsed_s: float = 0.0
    cpu_s: float = 0.0  # of the generator itself
    first_token_s: list[float] = field(default_factory=list)


class Load:
    def __init__(self, order: Order) -> None:
        self._order = order
        self._rng = random.Random(order.seed)  # noqa: S311 - a load must repeat
        self._outcome = Outcome()
        self._began_s = time.perf_counter()
        self._due: list[float] = []
        self._started = 0
        self._running = 0
        self._ids = count()
        self._connections = [
            Connection.open(address, _tls(order), order.server, self._ended)
            for _ in range(order.connections)
            for address in order.addresses
        ]
        self._turns: Iterator[Connection] = cycle(self._connections)

    def run(self) -> Outcome:
        self._began_s = time.perf_counter()
        for _ in range(self._order.at_once):
            self._start(next(self._turns), time.perf_counter())
        if not self._order.at_once:
            self._plan()
        with selectors.DefaultSelector() as selector:
            for connection in self._connections:
                selector.register(connection.link, selectors.EVENT_READ, connection)
            self._turn(selector)
        self._outcome.failed += self._running
        self._outcome.elapsed_s = time.perf_counter() - self._began_s
        used = resource.getrusage(resource.RUSAGE_SELF)
        self._outcome.cpu_s = used.ru_utime + used.ru_stime
        return self._outcome

    def _turn(self, selector: selectors.BaseSelector) -> None:
        give_up_at_s = self._began_s + self._order.for_s + GIVE_UP_S
        while (self._running or self._due) and time.perf_counter() < give_up_at_s:
            for key, _ in selector.select(self._wait_s()):
                key.data.read()
            now_s = time.perf_counter()
            while self._due and self._due[0] <= now_s:
                self._start(next(self._turns), heapq.heappop(self._due))
            for connection in self._connections:
                if connection.wants_to_write:
                    connection.flush()
            if self._order.calls:
                give_up_at_s = now_s + GIVE_UP_S

    def _wait_s(self) -> float:
        if any(each.wants_to_write for each in self._connections):
            return 0.001
        return max(0.0, self._due[0] - time.perf_counter()) if self._due else 0.1

    def _plan(self) -> None:
        at_s = self._began_s
        while (at_s := at_s + self._rng.expovariate(self._order.per_s)) < (
            self._began_s + self._order.for_s
        ):
            self._due.append(at_s)

    def _start(self, connection: Connection, due_s: float) -> None:
        self._started += 1
        self._running += 1
        connection.start(
            _headers(self._order, next(self._ids)), _body(self._order, self._rng), due_s
        )

    def _ended(self, connection: Connection, call: Call) -> None:
        self._running -= 1
        order = self._order
        complete = call.messages > 0 and (
            not order.streamed
            or (call.last.startswith(_FINISHED) and call.messages == order.tokens + 2)
        )
        if complete:
            self._outcome.good += 1
            self._outcome.tokens += order.tokens
            self._outcome.first_token_s.append(call.first_s - call.due_s)
        else:
            self._outcome.failed += 1
        if order.at_once and self._more():
            self._start(connection, time.perf_counter())

    def _more(self) -> bool:
        if self._order.calls:
            return self._started < self._order.calls
        return time.perf_counter() < self._began_s + self._order.for_s


def _tls(order: Order) -> ssl.SSLContext:
    folder = Path(order.certificate_folder)
    context = ssl.create_default_context(cafile=folder / "ca.pem")
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    context.set_alpn_protocols(["h2"])
    return context


def _headers(order: Order, number: int) -> bytes:
    method = (
        "/evenflow.inference.v1.InferenceService/Generate"
        if order.streamed
        else "/evenflow.openai.v1.ChatService/CreateChatCompletion"
    )
    headers = [
        (":method", "POST"),
        (":scheme", "https"),
        (":path", method),
        (":authority", order.server),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("grpc-timeout", f"{order.timeout_s}S"),
    ]
    if order.as_router:
        headers += [("x-evenflow-request-id", f"{order.seed}-{number}"), *_AS_ROUTER]
    return frames.header_block(headers)


def _body(order: Order, rng: random.Random) -> bytes:
    """A prompt of one of 32 groups that share all but their end."""
    group = f"System prompt {rng.randrange(32)}: "
    shared = (group + "a mesh of services and streams ") * (order.prompt_bytes // len(group) + 1)
    prompt = f"{shared[: order.prompt_bytes]} question {rng.getrandbits(64):x}"
    if order.streamed:
        asked = inference.GenerateRequest(model=order.model)
        asked.chat.messages.add(role=inference.ROLE_USER, content=prompt)
        asked.sampling.max_output_tokens = order.tokens
        asked.sampling.ignore_eos = True
        if order.greedy:
            asked.sampling.temperature = 0.0
        return frames.grpc_message(asked.SerializeToString())
    chat = openai.ChatCompletion(model=order.model, max_tokens=order.tokens, ignore_eos=True)
    if order.greedy:
        chat.temperature = 0.0
    chat.messages.add(role="user").content.string_value = prompt
    return frames.grpc_message(
        openai.CreateChatCompletionRequest(completion=chat).SerializeToString()
    )


_AS_ROUTER = (
    ("x-evenflow-tenant", "acme"),
    ("x-evenflow-workload", "web"),
    ("x-evenflow-workload-class", "interactive"),
    ("x-evenflow-priority", "0"),
    ("x-evenflow-cache-salt", "0" * 64),
    ("x-evenflow-max-context-tokens", "0"),
    ("x-evenflow-max-output-tokens", "0"),
)


if __name__ == "__main__":
    print(json.dumps(asdict(Load(Order(**json.loads(sys.argv[1]))).run())))
