"""A mesh whose batch answers are kept, and what one can see of its response cache."""

import asyncio
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import openai

from evenflow.connection import Connection
from evenflow.home import service_folder, service_name
from evenflow.inference.v1 import inference_service_pb2 as pb
from evenflow.inference.v1 import workload_class_pb2
from evenflow.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from evenflow.router.v1 import router_service_pb2 as router_pb
from evenflow.router.v1.router_service_pb2_grpc import RouterServiceStub
from evenflow.runtime.v1 import runtime_service_pb2 as runtime_pb
from tests.integration.whole.mesh import Mesh, running
from tests.integration.whole.programs import Programs, until

BATCH = workload_class_pb2.WORKLOAD_CLASS_BATCH
TTL_S = 600
ALLOWED_TTL_S = 3.0  # of what the caller allows, and not its class
OUTPUT_TOKENS = 12
BACK_WITHIN_S = 120.0  # of a program, on a machine that does other things too
_OUTCOMES = ("hit", "miss", "bypass")
_RULES = f"\nclasses:\n  batch:\n    cache_ttl_s: {TTL_S}\n"
_METRIC = re.compile(
    r"^evenflow_response_cache(\w*?)(?:\{outcome=\"(\w+)\"\})? (\S+)$", re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class Told:
    """An answer, and what was said around it."""

    events: Sequence[pb.GenerateResponse]
    headers: dict[str, str]
    trailers: dict[str, str]

    @property
    def is_hit(self) -> bool:
        said = self.headers.get("x-evenflow-cache") == "hit"
        assert said is self.started.cached
        return said

    @property
    def started(self) -> pb.Started:
        return self.events[0].started

    @property
    def finished(self) -> pb.Finished:
        return self.events[-1].finished

    @property
    def text(self) -> str:
        return "".join(each.delta.text for each in self.events)


class CachedMesh:
    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        self.programs = Programs(mesh.home)

    def ask(self, prompt: str, *, tenant: str = "acme", metadata: Any = (), **fields: Any) -> Told:
        """Batch and deterministic unless `fields` of the request say otherwise."""
        with self.channel(tenant) as calls:
            stream = self.stub(calls).Generate(
                asking(prompt, **fields), timeout=30, metadata=metadata
            )
            events = list(stream)
            return Told(
                events, _plain(stream.initial_metadata()), _plain(stream.trailing_metadata())
            )

    def asked(self, prompt: str, **fields: Any) -> Told:
        """As `ask`, and waits until the router has kept the answer."""
        before = self.entries()
        answer = self.ask(prompt, **fields)
        assert not answer.is_hit
        until(lambda: self.entries() == before + 1)
        return answer

    def kept(self, prompt: str, **fields: Any) -> Told:
        """As `asked`, but by the hits that follow: a restarted router's counts are heard late."""
        answer = self.ask(prompt, **fields)
        assert not answer.is_hit
        until(lambda: self.ask(prompt, **fields).is_hit)
        return answer

    @contextmanager
    def openai(self, tenant: str = "acme") -> Iterator[openai.OpenAI]:
        url, key = f"{self.mesh.frontend}/v1", self.mesh.api_key(tenant)
        with openai.OpenAI(base_url=url, api_key=key, max_retries=0) as made:
            yield made

    def entries(self) -> int:
        """Once telemetry has heard of it from the router."""
        until(lambda: ("_entries", "") in self._metrics(), within_s=BACK_WITHIN_S)
        return int(self._metrics()["_entries", ""])

    def until_ready(self) -> None:
        """Also after the router was away: a request waits 10 s for it, and it may take longer."""
        until(self._is_ready, within_s=BACK_WITHIN_S)

    def held_bytes(self) -> int:
        return int(self._metrics()["_bytes", ""])

    def outcomes(self) -> dict[str, int]:
        found = self._metrics()
        return {name: int(found["_total", name]) for name in _OUTCOMES}

    def engine_tokens(self) -> int:
        """What the engines have written since they started."""

        async def scenario() -> int:
            async with self.mesh.runtime_stubs() as stubs:
                said = [await anext(aiter(_state(each))) for each in stubs.values()]
                return sum(each.output_tokens for each in said)

        return asyncio.run(scenario())

    def in_flight(self) -> tuple[int, int]:
        """Requests and tokens that the router counts at its endpoints."""
        seen = self._listed()
        return (
            sum(each.in_flight for each in seen.endpoints),
            sum(each.in_flight_tokens for each in seen.endpoints),
        )

    def explained(self, told: Told) -> router_pb.ExplainResponse:
        """Once the router has heard how it ended."""
        asked = told.started.request_id
        until(lambda: self.mesh.explain(asked).HasField("outcome"))
        return self.mesh.explain(asked)

    def endpoints(self) -> Sequence[router_pb.Endpoint]:
        return self._listed().endpoints

    def rewrite_policy(self, change: Callable[[str], str]) -> None:
        """Returns when the router has it."""
        before = self._listed().policy_version
        file = self.mesh.home / "tenants.yaml"
        file.write_text(change(file.read_text()))
        until(lambda: self._listed().policy_version not in (before, ""))

    def _is_ready(self) -> bool:
        try:
            return all(each.ready for each in self.endpoints())
        except grpc.RpcError:
            return False

    def _listed(self) -> router_pb.ListEndpointsResponse:
        folder = service_folder(self.mesh.home, "operator")
        where = f"127.0.0.1:{self.mesh.ports('router')[0]}"
        with Connection(where, folder, service_name("router")).blocking_channel() as calls:
            listed: router_pb.ListEndpointsResponse = RouterServiceStub(calls).ListEndpoints(
                router_pb.ListEndpointsRequest(), timeout=5
            )
            return listed

    def _metrics(self) -> dict[tuple[str, str], float]:
        found = _METRIC.findall(self.mesh.metrics())
        return {(name, outcome): float(value) for name, outcome, value in found}

    def stub(self, calls: grpc.Channel) -> Any:  # grpc-stubs knows no cancel
        return InferenceServiceStub(calls)

    def channel(self, tenant: str) -> grpc.Channel:
        where = self.mesh.address
        return Connection(
            where, self.mesh.tenant(tenant), service_name("gateway")
        ).blocking_channel()


def asking(prompt: str, **fields: Any) -> pb.GenerateRequest:
    sampling = pb.Sampling(temperature=0, max_output_tokens=OUTPUT_TOKENS, ignore_eos=True)
    values: dict[str, Any] = {
        "model": "simulated",
        "text": prompt,
        "sampling": sampling,
        "workload_class": BATCH,
    }
    return pb.GenerateRequest(**{**values, **fields})


@contextmanager
def keeping_mesh(**environ: str) -> Iterator[CachedMesh]:
    settings = {
        "RUNTIME_SIMULATED_STEP_S": "0.005",
        "ROUTER_CACHE_TTL_S": str(ALLOWED_TTL_S),
        **environ,
    }
    with running(command="simulate", model="simulated", environ=settings) as started:
        mesh = CachedMesh(started)
        mesh.until_ready()
        mesh.rewrite_policy(
            lambda policy: policy.replace("[smollm2-135m-instruct]", '["*"]') + _RULES
        )
        yield mesh


def _state(stub: Any) -> Any:
    return stub.WatchState(runtime_pb.WatchStateRequest(), timeout=5)


def _plain(metadata: Any) -> dict[str, str]:
    return {key: value for key, value in metadata or () if isinstance(value, str)}
