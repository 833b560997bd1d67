"""Requests to a mesh that has less room than they need, and what became of each."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from evenflow.client import Client, chat_request
from evenflow.errors import EvenflowError, Refused
from evenflow.inference.v1 import inference_service_pb2 as pb
from evenflow.inference.v1.workload_class_pb2 import WORKLOAD_CLASS_INTERACTIVE, WorkloadClass
from tests.integration.whole.mesh import Mesh
from tests.integration.whole.programs import until

DEADLINE_S = 60.0
SEEN_WITHIN_S = 10.0
_LET_BY_POLICY = 'models: ["*"]'


@dataclass(slots=True)
class Asked:
    """One request. Times are the event loop's."""

    begun_s: float
    ended_s: float | None = None
    request_id: str = ""  # empty until its first token
    error: EvenflowError | None = None

    @property
    def answered(self) -> bool:
        return self.ended_s is not None and self.error is None


class Tenant:
    def __init__(self, mesh: Mesh, client: Client) -> None:
        self._mesh = mesh
        self._client = client

    async def ask(
        self,
        tokens: int,
        *,
        deadline_s: float = DEADLINE_S,
        workload_class: WorkloadClass.ValueType = WORKLOAD_CLASS_INTERACTIVE,
        into: list[Asked] | None = None,
    ) -> Asked:
        clock = asyncio.get_running_loop().time
        asked = Asked(clock())
        if into is not None:
            into.append(asked)
        sampling = pb.Sampling(max_output_tokens=tokens, ignore_eos=True)
        request = chat_request(self._mesh.model, "hi", sampling=sampling)
        request.workload_class = workload_class
        try:
            async for event in self._client.generate(request, deadline_s=deadline_s):
                if isinstance(event, pb.Started):
                    asked.request_id = event.request_id
        except EvenflowError as error:
            asked.error = error
        asked.ended_s = clock()
        return asked


@asynccontextmanager
async def tenant(mesh: Mesh, name: str) -> AsyncIterator[Tenant]:
    async with Client(mesh.address, certificate_folder=mesh.tenant(name)) as client:
        yield Tenant(mesh, client)


def let_both_tenants_use_the_model(mesh: Mesh) -> None:
    file = mesh.home / "tenants.yaml"
    file.write_text(file.read_text().replace("models: [smollm2-135m-instruct]", _LET_BY_POLICY))

    def allowed() -> bool:
        return not isinstance(asyncio.run(_one_token(mesh)).error, Refused)

    until(allowed, within_s=SEEN_WITHIN_S)


async def _one_token(mesh: Mesh) -> Asked:
    async with tenant(mesh, "globex") as asking:
        return await asking.ask(1)


def queued(mesh: Mesh) -> int:
    """Requests that wait in the router, as telemetry was told."""
    return sum(
        int(sample.value)
        for family in text_string_to_metric_families(mesh.metrics())
        if family.name == "evenflow_queued_requests"
        for sample in family.samples
    )


async def until_queued(mesh: Mesh, number: int) -> None:
    await asyncio.to_thread(until, lambda: queued(mesh) == number, within_s=SEEN_WITHIN_S)
