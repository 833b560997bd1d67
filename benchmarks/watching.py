"""What a mesh holds: memory and file descriptors of each process, slots, KV blocks."""

import ssl
import statistics
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
import psutil

from benchmarks.mesh import Mesh
from evenflow.connection import Connection
from evenflow.home import service_folder, service_name
from evenflow.router.v1 import router_service_pb2 as pb
from evenflow.router.v1.router_service_pb2_grpc import RouterServiceStub

LOOK_EVERY_S = 0.1
CALL_S = 5.0


@dataclass(frozen=True, slots=True)
class Held:
    """At all runtimes together. `requests` and `tokens` as the router counts them."""

    requests: int
    tokens: int
    running: int
    waiting: int
    kv_blocks: int

    @property
    def nothing(self) -> bool:
        return not (self.requests or self.tokens or self.running or self.waiting or self.kv_blocks)


def held(mesh: Mesh) -> Held:
    """Raises grpc.RpcError while the router is away."""
    found = _asked(mesh).endpoints
    return Held(
        requests=sum(each.in_flight for each in found),
        tokens=sum(each.in_flight_tokens for each in found),
        running=sum(each.state.running for each in found),
        waiting=sum(each.state.waiting for each in found),
        kv_blocks=sum(each.state.kv_blocks_total - each.state.kv_blocks_free for each in found),
    )


@dataclass(frozen=True, slots=True)
class CacheCounters:
    """Prompt tokens that engines looked for in their prefix caches since they started."""

    queried: int
    hit: int


def cache_counters(mesh: Mesh) -> CacheCounters:
    """Of all runtimes together, as their engines count them."""
    states = [each.state for each in _asked(mesh).endpoints]
    return CacheCounters(
        queried=sum(each.prefix_cache_query_tokens for each in states),
        hit=sum(each.prefix_cache_hit_tokens for each in states),
    )


def let_all_tenants_use_all_models(mesh: Mesh, *, within_s: float) -> None:
    """Returns when the router knows."""

    def all_models(text: str) -> str:
        return text.replace("models: [smollm2-135m-instruct]", 'models: ["*"]')

    change_policy(mesh, all_models, within_s=within_s)


def change_policy(mesh: Mesh, change: Callable[[str], str], *, within_s: float) -> None:
    """Writes the policy's file anew. Returns when the router knows."""
    file = mesh.home / "tenants.yaml"
    before = policy_version(mesh)
    file.write_text(change(file.read_text()))
    tick = threading.Event()
    for _ in range(round(within_s / LOOK_EVERY_S)):
        if policy_version(mesh) != before:
            return
        tick.wait(LOOK_EVERY_S)
    raise RuntimeError("the router has not heard of the changed policy")


def queued(mesh: Mesh) -> int:
    """Requests that wait in routers, as telemetry was told within the last half second."""
    folder = service_folder(mesh.home, "operator")
    context = ssl.create_default_context(cafile=folder / "ca.pem")
    context.check_hostname = False  # the certificate names telemetry.evenflow.local
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    with httpx.Client(verify=context, trust_env=False) as client:
        page = client.get(f"https://127.0.0.1:{mesh.ports.prometheus}/metrics").text
    rows = [row for row in page.splitlines() if row.startswith("evenflow_queued_requests{")]
    return sum(int(float(row.rpartition(" ")[2])) for row in rows)


def policy_version(mesh: Mesh) -> str:
    return _asked(mesh).policy_version


def _asked(mesh: Mesh) -> pb.ListEndpointsResponse:
    folder = service_folder(mesh.home, "operator")
    address = f"127.0.0.1:{mesh.ports.router}"
    with Connection(address, folder, service_name("router")).blocking_channel() as channel:
        request = pb.ListEndpointsRequest()
        response: pb.ListEndpointsResponse = RouterServiceStub(channel).ListEndpoints(
            request, timeout=CALL_S
        )
    return response


def held_in_the_end(mesh: Mesh, *, within_s: float) -> Held:
    """Nothing, as soon as that is so; else what is held after all that time."""
    tick = threading.Event()
    for _ in range(round(within_s / LOOK_EVERY_S)):
        now = held(mesh)
        if now.nothing:
            return now
        tick.wait(LOOK_EVERY_S)
    return held(mesh)


@dataclass(frozen=True, slots=True)
class Sample:
    rss_mb: float
    descriptors: int


def sample(processes: Sequence[psutil.Process]) -> Sample:
    return Sample(
        rss_mb=sum(each.memory_info().rss for each in processes) / 1e6,
        descriptors=sum(each.num_fds() for each in processes),
    )


@contextmanager
def sampled(mesh: Mesh, *, every_s: float) -> Iterator[dict[str, list[Sample]]]:
    """Samples by role, one after the other, for as long as the body lasts."""
    processes = mesh.processes()
    samples: dict[str, list[Sample]] = {role: [] for role in processes}
    over = threading.Event()

    def watch() -> None:
        while not over.wait(every_s):
            for role, members in processes.items():
                samples[role].append(sample(members))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield samples
    finally:
        over.set()
        watcher.join()


def growth(samples: Sequence[Sample]) -> tuple[Sample, Sample]:
    """Medians of the third fifth, when all is warm, and of the last."""
    fifth = max(1, len(samples) // 5)
    middle, last = samples[2 * fifth : 3 * fifth], samples[-fifth:]
    return _median(middle), _median(last)


def _median(samples: Sequence[Sample]) -> Sample:
    return Sample(
        rss_mb=statistics.median(each.rss_mb for each in samples),
        descriptors=round(statistics.median(each.descriptors for each in samples)),
    )
