"""The load generator for several tenants at once: `python -m benchmarks.tenants ORDER`, both JSON.

Each tenant sends in a closed loop (so many at once) or an open one (Poisson), to one gateway or to
several in turn. Prompts are token ids that no other prompt begins with, so that none is cached.
Every call's outcome is told, and what each tenant had been given ten times a second.
"""

import base64
import heapq
import json
import random
import selectors
import ssl
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import cycle
from pathlib import Path

import hpack
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from benchmarks import frames
from benchmarks.connection import Call, Connection
from evenflow.inference.v1 import inference_service_pb2 as pb
from evenflow.inference.v1 import workload_class_pb2 as classes

SAMPLED_EVERY_S = 0.1
INPUT_WEIGHT, OUTPUT_WEIGHT = 1.0, 2.0  # the router's: services/router/core/fairness.py
GIVE_UP_S = 20.0  # after the last deadline
_METHOD = "/evenflow.inference.v1.InferenceService/Generate"
_FINISHED = bytes([pb.GenerateResponse.FINISHED_FIELD_NUMBER << 3 | 2])
_CLASSES = {
    "interactive": classes.WORKLOAD_CLASS_INTERACTIVE,
    "batch": classes.WORKLOAD_CLASS_BATCH,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What one tenant asks for."""

    name: str
    certificate_folder: str
    addresses: Sequence[str]
    at_once: int = 0  # closed loop; 0: open
    per_s: float = 0.0  # open loop
    workload_class: str = "interactive"
    prompt_tokens: int = 100
    least_tokens: int = (
        64  # of an answer; each has another length, so that they do not end together
    )
    most_tokens: int = 64
    timeout_ms: int = 30_000
    connections: int = 2  # to each address


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    demands: Sequence[Demand]
    server: str  # the name in the servers' certificate
    for_s: float
    model: str = "simulated"
    seed: int = 1


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one call. Seconds since the beginning; `first_s`, `took_s` since it was due."""

    at_s: float
    took_s: float
    first_s: float | None  # None: no token came
    tokens: int
    complete: bool
    reason: str  # why not; empty: it is, or nobody said


@dataclass(slots=True)
class Given:
    """To one tenant."""

    outcomes: list[Outcome] = field(default_factory=list)
    service: list[float] = field(default_factory=list)  # weighted tokens, each SAMPLED_EVERY_S


def order_of(words: Mapping[str, object]) -> Order:
    demands = words["demands"]
    assert isinstance(demands, list), "as it was written"
    return Order(**{**words, "demands": [Demand(**each) for each in demands]})  # type: ignore[arg-type] # names say which


class Tenant:
    """One tenant's calls."""

    def __init__(self, demand: Demand, order: Order, seed: int) -> None:
        self.demand = demand
        self.given = Given()
        self.connections = [
            Connection.open(address, _tls(demand), order.server, self._ended)
            for _ in range(demand.connections)
            for address in demand.addresses
        ]
        for each in self.connections:
            each.headers = hpack.Decoder()
        self.running: dict[int, tuple[Call, int]] = {}  # by the call's id: tokens asked for
        self.due: list[float] = []
        self._turns: Iterator[Connection] = cycle(self.connections)
        self._rng = random.Random(f"{seed} {demand.name}")  # noqa: S311 - a load must repeat
        self._order = order
        self._service = 0.0  # of calls that are over
        self._headers = frames.header_block(
            [
                *((":method", "POST"), (":scheme", "https"), (":path", _METHOD)),
                (":authority", order.server),
                ("content-type", "application/grpc"),
                ("te", "trailers"),
                ("grpc-timeout", f"{demand.timeout_ms}m"),
            ]
        )

    def begin(self, now_s: float) -> None:
        self._began_s, self._until_s = now_s, now_s + self._order.for_s
        for _ in range(self.demand.at_once):
            self.start(now_s)
        at_s = now_s
        while self.demand.per_s and (at_s := at_s + self._rng.expovariate(self.demand.per_s)) < (
            self._until_s
        ):
            self.due.append(at_s)

    def start(self, due_s: float) -> None:
        tokens = self._rng.randint(self.demand.least_tokens, self.demand.most_tokens)
        call = next(self._turns).start(self._headers, self._body(tokens), due_s)
        self.running[id(call)] = call, tokens

    def goes_on(self, now_s: float) -> bool:
        if self.demand.at_once:
            return now_s < self._until_s
        return bool(self.running or self.due)

    def sample(self) -> None:
        under_way = sum(self._service_of(call) for call, _ in self.running.values())
        self.given.service.append(self._service + under_way)

    def give_up(self) -> None:
        for call, tokens in list(self.running.values()):
            self._over(call, tokens)

    def _ended(self, _connection: Connection, call: Call) -> None:
        self._over(*self.running[id(call)])
        now_s = time.perf_counter()
        if self.demand.at_once and now_s < self._until_s:
            self.start(now_s)

    def _over(self, call: Call, tokens: int) -> None:
        del self.running[id(call)]
        complete = call.last.startswith(_FINISHED) and call.messages == tokens + 2
        self._service += self._service_of(call)
        self.given.outcomes.append(
            Outcome(
                at_s=call.due_s - self._began_s,
                took_s=time.perf_counter() - call.due_s,
                first_s=call.first_s - call.due_s if call.first_s else None,
                tokens=_tokens(call),
                complete=complete,
                reason="" if complete else _reason(call.fields),
            )
        )

    def _service_of(self, call: Call) -> float:
        prompt = INPUT_WEIGHT * self.demand.prompt_tokens if call.messages else 0.0
        return prompt + OUTPUT_WEIGHT * _tokens(call)

    def _body(self, tokens: int) -> bytes:
        demand = self.demand
        request = pb.GenerateRequest(
            model=self._order.model, workload_class=_CLASSES[demand.workload_class]
        )
        request.tokens.ids.extend(self._rng.choices(range(16, 32_768), k=demand.prompt_tokens))
        request.sampling.max_output_tokens = tokens
        request.sampling.ignore_eos = True
        return frames.grpc_message(request.SerializeToString())


def run(order: Order) -> dict[str, Given]:
    """Until every call of the open loops has ended; what closed loops still have is cancelled.
    By the demands' names."""
    tenants = [Tenant(each, order, order.seed) for each in order.demands]
    longest_s = max(each.timeout_ms for each in order.demands) / 1000
    with selectors.DefaultSelector() as selector:
        for each in tenants:
            for connection in each.connections:
                selector.register(connection.link, selectors.EVENT_READ, connection)
        began_s = time.perf_counter()
        for each in tenants:
            each.begin(began_s)
        _turn(tenants, selector, give_up_at_s=began_s + order.for_s + longest_s + GIVE_UP_S)
    for each in tenants:
        if not each.demand.at_once:
            each.give_up()
    return {each.demand.name: each.given for each in tenants}


def _turn(
    tenants: Sequence[Tenant], selector: selectors.BaseSelector, *, give_up_at_s: float
) -> None:
    sample_at_s = now_s = time.perf_counter()
    while now_s < give_up_at_s and any(each.goes_on(now_s) for each in tenants):
        next_s = min((each.due[0] for each in tenants if each.due), default=sample_at_s)
        wait_s = max(0.0, min(next_s, sample_at_s) - now_s)
        for key, _ in selector.select(wait_s):
            key.data.read()
        now_s = time.perf_counter()
        for each in tenants:
            while each.due and each.due[0] <= now_s:
                each.start(heapq.heappop(each.due))
            for connection in each.connections:
                connection.flush()
        while sample_at_s <= now_s:
            sample_at_s += SAMPLED_EVERY_S
            for each in tenants:
                each.sample()


def _tokens(call: Call) -> int:
    """The first message says that it has started, the last one that it has finished."""
    finished = call.last.startswith(_FINISHED)
    return max(0, call.messages - 1 - finished)


def _reason(fields: Mapping[str, str]) -> str:
    details = fields.get("grpc-status-details-bin", "")
    padded = details + "=" * (-len(details) % 4)
    for each in Status.FromString(base64.b64decode(padded)).details:
        info = ErrorInfo()
        if each.Unpack(info):
            return str(info.reason)
    return f"gRPC {fields['grpc-status']}" if "grpc-status" in fields else ""


def _tls(demand: Demand) -> ssl.SSLContext:
    folder = Path(demand.certificate_folder)
    context = ssl.create_default_context(cafile=folder / "ca.pem")
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    context.set_alpn_protocols(["h2"])
    return context


def told(given: Mapping[str, Given]) -> str:
    return json.dumps({name: asdict(each) for name, each in given.items()})


def heard(text: str) -> dict[str, Given]:
    def read(outcomes: Iterable[Mapping[str, object]], service: list[float]) -> Given:
        return Given([Outcome(**each) for each in outcomes], service)  # type: ignore[arg-type] # as written

    return {name: partial(read)(**each) for name, each in json.loads(text).items()}


if __name__ == "__main__":
    print(told(run(order_of(json.loads(sys.argv[1])))))
