"""A mesh with several gateways over the same runtimes, and tenants that all may use it alike.

Besides the mesh's own: a second one, whose router exchanges with the first, and one whose router
lets everything go at once (`fifo`), so that the runtimes queue as they do without a mesh.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial

from benchmarks.mesh import Mesh, running, wait_for
from benchmarks.sending import run_generator
from benchmarks.tenants import Demand, Given, Order, heard
from benchmarks.watching import held_in_the_end, policy_version
from deploy.local.second import PEERS, Doors, second
from deploy.local.settings import address
from evenflow.certificates import issue, read_authority
from evenflow.home import authority_folder, service_name, tenant_folder, tenant_id

DRAINED_WITHIN_S = 30.0
LOOK_EVERY_S = 0.1
_TENANT = """
  - id: {0}
    spiffe_ids: ["spiffe://evenflow.local/tenant/{0}/*"]
    models: ["*"]
    workload_classes: [interactive, batch]
    default_workload_class: interactive
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateways:
    mesh: Mesh
    first: str  # host:port, all three
    second: str
    fifo: str

    def demand(self, tenant: str, addresses: Sequence[str], **fields: object) -> Demand:
        return Demand(
            name=tenant,
            certificate_folder=str(tenant_folder(self.mesh.home, tenant)),
            addresses=list(addresses),
            **fields,  # type: ignore[arg-type] # names say which
        )

    def load(self, *demands: Demand, for_s: float, seed: int) -> dict[str, Given]:
        """Returns when every call has ended and nothing of them is left."""
        order = Order(demands=list(demands), server=service_name("gateway"), for_s=for_s, seed=seed)
        given = heard(run_generator("benchmarks.tenants", asdict(order)))
        held_in_the_end(self.mesh, within_s=DRAINED_WITHIN_S)
        return given


@contextmanager
def gateways(tenants: Sequence[str], environ: Mapping[str, str]) -> Iterator[Gateways]:
    """Ready when the body is entered, gone when it is left."""
    other, fifo = Doors.free(2)
    with running({**environ, PEERS: address(other.router)}) as mesh:
        _introduce(tenants, mesh)
        start = partial(second, home=mesh.home, first=mesh.ports, runtime_ports=mesh.runtime_ports)
        lets_go = {**environ, PEERS: "", "ROUTER_FLOW_CONTROL": "false"}
        with (
            start(other, environ=environ),
            start(fifo, environ=lets_go),
        ):
            wait_for(other.mesh)
            wait_for(fifo.mesh)
            yield Gateways(
                mesh=mesh,
                first=mesh.address,
                second=address(other.mesh),
                fifo=address(fifo.mesh),
            )


def _introduce(tenants: Sequence[str], mesh: Mesh) -> None:
    """Returns when the router knows them."""
    before, tick = policy_version(mesh), threading.Event()
    authority = read_authority(authority_folder(mesh.home))
    for each in tenants:
        issue(authority, tenant_id(each), (), tenant_folder(mesh.home, each))
    (mesh.home / "tenants.yaml").write_text("tenants:" + "".join(map(_TENANT.format, tenants)))
    while policy_version(mesh) == before:
        tick.wait(LOOK_EVERY_S)
