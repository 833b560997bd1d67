"""A mesh whose runtimes run in the test, so that it can change them while they serve.

Policy, router and Envoy are processes as always; the engines are simulated.
"""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from deploy.local.aside import free_ports
from services.runtime.core.engine import Job, Step
from services.runtime.core.simulation import Behaviour
from services.runtime.outbound.simulated import SimulatedEngine
from tests.fakes.runtime_mesh import Runtime, running
from tests.identities import Identities, audit_key_in
from tests.integration.envoy.mesh import running_envoy
from tests.integration.faults.operator import Operator, operator

READY_WITHIN_S = 60.0
BEHAVIOUR = Behaviour(step_s=0.02)
TENANTS = """
tenants:
  - id: acme
    spiffe_ids: [spiffe://evenflow.local/tenant/acme/*]
    models: ["*"]
    workload_classes: [interactive]
    default_workload_class: interactive
"""


class SlowedEngine(SimulatedEngine):
    """Every job waits for `delay_s` before it begins."""

    def __init__(self) -> None:
        super().__init__(BEHAVIOUR)
        self.delay_s = 0.0

    async def generate(self, job: Job) -> AsyncGenerator[Step, None]:
        await asyncio.sleep(self.delay_s)
        async for step in super().generate(job):
            yield step


@dataclass(frozen=True, slots=True)
class SmallMesh:
    folder: Path
    address: str  # Envoy's
    tenant: Path
    engines: Mapping[str, SlowedEngine]  # by address
    asked: Operator
    router: "RouterProcess"


class RouterProcess:
    """`kill`, then `start` another."""

    def __init__(self, folder: Path, environ: Mapping[str, str]) -> None:
        self.log = folder / "router.log"
        self._environ = environ
        self._running = ExitStack()

    def start(self) -> None:
        self._running.enter_context(_process("router", self._environ, self.log))

    def kill(self) -> None:
        self._running.close()


@asynccontextmanager
async def small_mesh(folder: Path, *, runtimes: int) -> AsyncIterator[SmallMesh]:
    identities = Identities(folder)
    for service in ("gateway", "router", "policy", "runtime"):
        identities.service(service)
    (folder / "tenants.yaml").write_text(TENANTS)
    (folder / "salt").write_text("0123456789abcdef")
    (folder / "key-secret").write_text("0123456789abcdef" * 4)
    mesh, front_end, policy, router = (f"127.0.0.1:{port}" for port in free_ports(4))
    async with AsyncExitStack() as stack:
        engines = {}
        for _ in range(runtimes):
            engine = SlowedEngine()
            made = await stack.enter_async_context(running(folder, engine, identities=identities))
            engines[_named(made)] = engine
        stack.enter_context(_process("policy", _policy(folder, policy), folder / "policy.log"))
        places = {"mesh": mesh, "frontend": front_end, "operator": router, "policy": policy}
        process = RouterProcess(folder, _router(folder, places, engines))
        process.start()
        stack.callback(process.kill)
        asked = await stack.enter_async_context(operator(router, identities.service("operator")))
        await asked.until_serving(within_s=READY_WITHIN_S)
        await stack.enter_async_context(running_envoy(folder, folder / "run" / "router.sock"))
        tenant = identities.tenant("acme").certificate.parent
        yield SmallMesh(folder, mesh, tenant, engines, asked, process)


def _named(runtime: Runtime) -> str:
    """Callers are told where it really listens."""
    runtime.serving.endpoint = runtime.where
    return runtime.where


def _policy(folder: Path, listen: str) -> Mapping[str, str]:
    return {
        "POLICY_LISTEN": listen,
        "POLICY_FILE": str(folder / "tenants.yaml"),
        "POLICY_TRUST_DOMAIN": "evenflow.local",
        "POLICY_TLS": str(folder / "service/policy"),
        "POLICY_DATABASE": f"sqlite:///{folder}/policy.db",
        "POLICY_KEY_SECRET_FILE": str(folder / "key-secret"),
        "POLICY_AUDIT": str(folder / "audit"),
        "POLICY_AUDIT_KEY_FILE": str(audit_key_in(folder)),
    }


def _router(
    folder: Path, places: Mapping[str, str], runtimes: Mapping[str, SlowedEngine]
) -> Mapping[str, str]:
    return {
        "ROUTER_SOCKET": str(folder / "run" / "router.sock"),
        "ROUTER_CHECK_SOCKET": str(folder / "run" / "check.sock"),
        "ROUTER_OPERATOR_LISTEN": places["operator"],
        "ROUTER_MESH_LISTEN": places["mesh"],
        "ROUTER_FRONTEND_LISTEN": places["frontend"],
        "ROUTER_RUNTIMES": ",".join(runtimes),
        "ROUTER_POLICY": places["policy"],
        "ROUTER_TLS": str(folder / "service/router"),
        "ROUTER_GATEWAY_TLS": str(folder / "service/gateway"),
        "ROUTER_SALT_SECRET_FILE": str(folder / "salt"),
        "ROUTER_KEY_SECRET_FILE": str(folder / "key-secret"),
        "ROUTER_AUDIT_SPOOL": str(folder / "spool"),
        "ROUTER_RUNTIME_SILENCE_S": "5",  # the test's own loop speaks for them
    }


@contextmanager
def _process(service: str, environ: Mapping[str, str], log: Path) -> Iterator[None]:
    with (
        log.open("ab") as output,
        subprocess.Popen(
            [sys.executable, "-m", f"services.{service}"],
            env={**os.environ, "PYTHONPATH": ".:client", **environ},
            stdout=output,
            stderr=output,
        ) as process,
    ):
        try:
            yield
        finally:
            process.kill()
