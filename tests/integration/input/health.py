"""Whether a mesh is as it was: same processes, nothing in flight, no more files, no bug logged."""

from evenflow.router.v1 import router_service_pb2 as pb
from evenflow.router.v1.router_service_pb2_grpc import RouterServiceStub
from tests.integration.whole.mesh import Mesh
from tests.integration.whole.programs import Programs, until

NAMES = ("policy", "telemetry", "runtime-1", "runtime-2", "router", "envoy")
BUGS = (b"rpc.bug", b"Traceback")
# Sockets of other tests' connections that are just closing, and those on which Envoy asks the
# router, one for each question at a time: it keeps them.
SPARE_FILES = 100
SPARE_BYTES = 64 << 20  # what allocators keep


class Health:
    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._programs = Programs(mesh.home)
        self._processes = {name: self._programs.process(name) for name in NAMES}
        self._files = {name: process.num_fds() for name, process in self._processes.items()}

    def resident_bytes(self) -> dict[str, int]:
        return {name: each.memory_info().rss for name, each in self._processes.items()}

    def check(self) -> None:
        for name, process in self._processes.items():
            assert self._programs.process(name) == process, f"{name} was started again"
        until(self._is_idle, within_s=10)
        until(self._has_closed_its_files, within_s=10)
        for log in (self._mesh.home / "logs").iterdir():
            lines = log.read_bytes().splitlines()
            bugs = [line for line in lines if any(bug in line for bug in BUGS)]
            assert not bugs, (log.name, lines[lines.index(bugs[0]) :][:40])

    def _is_idle(self) -> bool:
        with self._mesh._operator("router", self._mesh.ports("router")[0]) as calls:  # noqa: SLF001 - no other way in
            listed = RouterServiceStub(calls).ListEndpoints(pb.ListEndpointsRequest(), timeout=5)
        return all(
            each.ready
            and each.in_flight == 0
            and each.state.running + each.state.waiting == 0
            and each.state.kv_blocks_free == each.state.kv_blocks_total
            for each in listed.endpoints
        )

    def _has_closed_its_files(self) -> bool:
        return all(
            process.num_fds() <= self._files[name] + SPARE_FILES
            for name, process in self._processes.items()
        )
