"""What policy's rules add to a request, in memory: the real Check for two tenants in turn.

One has a certificate and nothing else. The other has an API key that policy has made, two budgets
(one in money) and all limits, and each decision is written into a spool on the disk. From the
question to the settlement of its attempt.
"""

import asyncio
import hashlib
import hmac
import itertools
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

from benchmarks import frames
from benchmarks.ended import ended
from evenflow.inference.v1 import inference_service_pb2 as pb
from services.router.core.admission import TimeLimits
from services.router.core.budgets import Budget, Price, Prices, Unit, Window
from services.router.core.circuits import Circuits
from services.router.core.demands import WorkloadClass
from services.router.core.endings import Usage
from services.router.core.endpoints import Endpoints, ModelState, Readiness, RuntimeState
from services.router.core.purse import Granted
from services.router.core.requests import Requests
from services.router.core.salts import CacheSalts, SaltSecret
from services.router.core.tenants import ApiKey, Limits, PolicyView, Tenant, Tenants
from services.router.inbound.answers import Answer
from services.router.inbound.asked import Question
from services.router.inbound.auditing import Auditing
from services.router.inbound.budgeting import Budgeting
from services.router.inbound.check import Check
from services.router.inbound.mesh import Mesh
from services.router.outbound.spool import Spool

_METHOD = "/evenflow.inference.v1.InferenceService/Generate"
_SECRET, _KEY = bytes(32), "evf_" + "k" * 43
_UNIX_S, _FOREVER_S = 1_800_000_000.0, 1e9
_ACCOUNTS = (("rich/tokens", 0), ("rich/money", 0))
_UNITS = 10**15
_AT_A_TIME = 100
_USAGE = Usage(100, 0, 100)
_TIMES = TimeLimits(default_s=dict.fromkeys(WorkloadClass, 60.0), longest_s=3600.0)
_PLAIN = Tenant(
    id="plain",
    spiffe_ids=("spiffe://evenflow.local/tenant/plain/*",),
    api_keys=(),
    models=frozenset({"*"}),
    workload_classes=frozenset(WorkloadClass),
    default_workload_class=WorkloadClass.INTERACTIVE,
    max_context_tokens=8192,
    max_output_tokens=1024,
)
_RICH = replace(
    _PLAIN,
    id="rich",
    spiffe_ids=(),
    api_keys=(ApiKey(b"", "web", hmac.digest(_SECRET, _KEY.encode(), hashlib.sha256), id="web"),),
    limits=Limits(
        requests_per_minute=10**6, tokens_per_minute=10**9, concurrent_requests=10**4, kv_share=0.9
    ),
    budgets=(
        Budget("rich/tokens", Unit.TOKENS, Window.TOTAL),
        Budget("rich/money", Unit.MONEY, Window.TOTAL),
    ),
)


def admission_us(rounds: int) -> tuple[float, float]:
    """Processor time of a request, in microseconds: of the plain tenant, and of the other."""

    async def scenario() -> tuple[float, float]:
        with tempfile.TemporaryDirectory(prefix="admitted-") as folder:
            spool = Spool(Path(folder), most_bytes=1 << 30)
            try:
                plain, rich = _Case(_PLAIN, None), _Case(_RICH, spool)
                turns = [(plain.turn_us(), rich.turn_us()) for _ in range(rounds)]
            finally:
                spool.close()
        return median(each for each, _ in turns), median(each for _, each in turns)

    return asyncio.run(scenario())


class _Case:
    def __init__(self, tenant: Tenant, spool: Spool | None) -> None:
        self._by_key = bool(tenant.api_keys)
        self._budgeting = Budgeting("router", lambda: _UNIX_S)
        self._budgeting.granted([Granted(each, _UNITS) for each in _ACCOUNTS], 0.0)
        self._mesh = _mesh(tenant, spool, self._budgeting)
        self._now_s = 0.0
        self._check = Check(self._mesh, _TIMES, grace_s=5.0, clock=lambda: self._now_s)
        self._numbers = itertools.count(1)

    def turn_us(self) -> float:
        """Of each, some at a time."""
        questions = [self._question(next(self._numbers)) for _ in range(_AT_A_TIME)]
        began_ns = time.thread_time_ns()
        for each in questions:
            self._now_s += 0.001
            answer = self._check(each)
            assert isinstance(answer, Answer)
            answer.encoded()
        for each in questions:
            self._mesh.requests.end(
                ended(each.headers["x-request-id"], usage=_USAGE, began_unix_s=_UNIX_S)
            )
        if self._by_key:
            self._settle(questions)
        return (time.thread_time_ns() - began_ns) / 1000 / _AT_A_TIME

    def _settle(self, questions: list[Question]) -> None:
        used = dict.fromkeys(_ACCOUNTS, 200)
        for each in questions:
            self._budgeting.purse.settled(int(each.headers["x-request-id"][1:]), 1, used)
        assert not self._budgeting.purse.under_way()

    def _question(self, number: int) -> Question:
        request = pb.GenerateRequest(model="small", text=f"How far does it go, {number}?")
        headers = {"x-evenflow-received": "1000.000000", "x-request-id": f"r{number}"}
        if self._by_key:
            headers |= {"x-evenflow-listener": "frontend", "authorization": f"Bearer {_KEY}"}
        else:
            peer = "spiffe://evenflow.local/tenant/plain/web"
            headers |= {"x-evenflow-listener": "mesh", "x-evenflow-peer": peer}
        return Question(_METHOD, headers, frames.grpc_message(request.SerializeToString()))


def _mesh(tenant: Tenant, spool: Spool | None, budgeting: Budgeting) -> Mesh:
    view, prices = PolicyView(stale_after_s=_FOREVER_S), Prices({"*": Price(150, 75, 600)})
    view.replaced(Tenants("1", [tenant], prices=prices, key_secret=_SECRET), 0.0)
    addresses = ("10.0.0.1:9101", "10.0.0.2:9101")
    endpoints = Endpoints(addresses)
    for each in addresses:
        endpoints.saw(each, _STATE)
    made = Mesh(
        view,
        endpoints,
        Requests(),
        CacheSalts(SaltSecret(b"0123456789abcdef")),
        Circuits(),
        budgeting=budgeting,
    )
    if spool is None:
        return made
    audit = Auditing(
        spool, now_unix_ns=time.time_ns, version=lambda: "ab" * 32, stale_after_s=_FOREVER_S
    )
    return replace(made, audit=audit)


_STATE = RuntimeState(
    instance_id="first",
    engine="simulated",
    models=(ModelState("small", "1", Readiness.READY, 8192),),
    kv_blocks_free=10**6,
    kv_blocks_total=10**6,
    kv_block_tokens=16,
    max_running=10**4,
)
