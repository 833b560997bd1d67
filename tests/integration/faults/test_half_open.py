"""A network that drops everything between two hosts, and tells neither. Needs root.

Router, gateway and each runtime are hosts of their own. Who is cut off from a runtime must notice
by itself; who is not goes on with it.
"""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from deploy.local.aside import free_port
from evenflow.errors import StreamLost
from tests.identities import Identities, audit_key_in
from tests.integration.envoy.mesh import running_envoy
from tests.integration.faults.network import HERE, Network, network
from tests.integration.faults.operator import Operator, operator
from tests.integration.faults.streams import Load, Stream

STREAMS = 30
TOKENS = 30  # 1.2 s
RUNTIMES = ("runtime-1", "runtime-2")
ENDED_WITHIN_S = 1.0
CUT_S = 6.0
FREED_WITHIN_S = 4.5  # the runtime's own pings: 1 s and 3 s
USED_AGAIN_WITHIN_S = 5.0
# Requests that met it tell of it when they end. Until then new ones are tried there first.
LEARNT_WITHIN_S = 3.5
TRIES = 2  # one every other second
READY_WITHIN_S = 60.0
TENANTS = """
tenants:
  - id: acme
    spiffe_ids: [spiffe://evenflow.local/tenant/acme/*]
    models: ["*"]
    workload_classes: [interactive]
    default_workload_class: interactive
"""


@dataclass(frozen=True, slots=True)
class Seen:
    streams: list[Stream]
    cut_s: float
    healed_s: float
    used_again_s: float
    struck: str
    tried_again: int  # requests that were sent there once that was known to fail

    def there(self) -> list[Stream]:
        """What streamed from the struck runtime when it was cut off."""
        return [s for s in self.streams if s.streamed_at(self.cut_s) and s.endpoint == self.struck]

    def failed(self) -> list[Stream]:
        return [stream for stream in self.streams if stream.error is not None]


@pytest.mark.parametrize("cut_off", [("gateway", "router"), ("gateway",)], ids=["both", "gateway"])
def test_what_envoy_cannot_reach_ends_or_moves_on(tmp_path: Path, cut_off: tuple[str, ...]) -> None:
    seen = asyncio.run(half_open(tmp_path, cut_off))

    assert seen.there()
    for stream in seen.there():
        assert isinstance(stream.error, StreamLost)
        assert stream.ended_s is not None
        assert stream.ended_s - seen.cut_s < ENDED_WITHIN_S
    assert all(stream.lost_at(seen.cut_s) for stream in seen.failed())
    assert {stream.endpoint for stream in seen.failed()} == {seen.struck}
    assert seen.tried_again <= TRIES
    assert seen.used_again_s - seen.healed_s < USED_AGAIN_WITHIN_S


def test_what_only_the_router_cannot_reach_loses_no_stream(tmp_path: Path) -> None:
    seen = asyncio.run(half_open(tmp_path, ("router",)))

    assert seen.there()
    assert not seen.failed()
    later = [s for s in seen.streams if s.began_within(seen.cut_s + 1.0, seen.healed_s)]
    assert seen.struck not in {stream.endpoint for stream in later}
    assert seen.used_again_s - seen.healed_s < USED_AGAIN_WITHIN_S


async def half_open(folder: Path, cut_off: tuple[str, ...]) -> Seen:
    clock = asyncio.get_running_loop().time
    with network(HERE, "router", *RUNTIMES) as net:
        async with far_mesh(folder, net) as (asked, load):
            struck = f"{net.address('runtime-1')}:9100"
            async with load.running(STREAMS):
                await asyncio.sleep(3)
                await asyncio.to_thread(net.cut, "runtime-1", cut_off)
                cut_s = clock()
                await asyncio.sleep(FREED_WITHIN_S)
                if cut_off == (HERE,):  # the router still hears from it
                    state = (await asked.endpoints())[struck].state
                    assert state.running + state.waiting == 0
                await asyncio.sleep(CUT_S - FREED_WITHIN_S)
                healed_s = clock()
                await asyncio.to_thread(net.heal, "runtime-1", cut_off)
                used_s = await load.until_used(struck, since_s=healed_s, within_s=10)
            await asked.until_idle(within_s=5)
            learnt = [s for s in load.streams if s.began_within(cut_s + LEARNT_WITHIN_S, healed_s)]
            told = [await asked.explain(stream.request_id) for stream in learnt]
    assert len(told) > TRIES
    tried_again = sum(each.outcome.attempts > 1 for each in told)
    return Seen(load.streams, cut_s, healed_s, used_s, struck, tried_again)


@asynccontextmanager
async def far_mesh(folder: Path, net: Network) -> AsyncIterator[tuple[Operator, Load]]:
    identities = Identities(folder)
    for service in ("gateway", "router", "policy", "runtime"):
        identities.service(service)
    (folder / "tenants.yaml").write_text(TENANTS)
    (folder / "salt").write_text("0123456789abcdef")
    (folder / "key-secret").write_text("0123456789abcdef" * 4)
    mesh = f"127.0.0.1:{free_port()}"
    with ExitStack() as processes:
        for name in RUNTIMES:
            processes.enter_context(_process(net, name, "runtime", _runtime(folder, net, name)))
        processes.enter_context(_process(net, "router", "policy", _policy(folder)))
        processes.enter_context(_process(net, "router", "router", _router(folder, net, mesh)))
        tls = identities.service("operator")
        async with operator(f"{net.address('router')}:9010", tls) as asked:
            await asked.until_serving(within_s=READY_WITHIN_S)
            async with running_envoy(folder, folder / "run" / "router.sock"):
                tenant = identities.tenant("acme").certificate.parent
                yield asked, Load(mesh, tenant, "simulated", tokens=TOKENS)


def _runtime(folder: Path, net: Network, name: str) -> Mapping[str, str]:
    return {
        "RUNTIME_ENGINE": "simulated",
        "RUNTIME_LISTEN": f"{net.address(name)}:9100",
        "RUNTIME_TLS": str(folder / "service/runtime"),
        "RUNTIME_MAX_RUNNING": "64",
        "RUNTIME_SIMULATED_STEP_S": "0.04",
        "RUNTIME_SIMULATED_STRAGGLER_SHARE": "0.5",
    }


def _policy(folder: Path) -> Mapping[str, str]:
    return {
        "POLICY_LISTEN": "127.0.0.1:9020",
        "POLICY_FILE": str(folder / "tenants.yaml"),
        "POLICY_TRUST_DOMAIN": "evenflow.local",
        "POLICY_TLS": str(folder / "service/policy"),
        "POLICY_DATABASE": f"sqlite:///{folder}/policy.db",
        "POLICY_KEY_SECRET_FILE": str(folder / "key-secret"),
        "POLICY_AUDIT": str(folder / "audit"),
        "POLICY_AUDIT_KEY_FILE": str(audit_key_in(folder)),
    }


def _router(folder: Path, net: Network, mesh: str) -> Mapping[str, str]:
    return {
        "ROUTER_SOCKET": str(folder / "run" / "router.sock"),
        "ROUTER_CHECK_SOCKET": str(folder / "run" / "check.sock"),
        "ROUTER_OPERATOR_LISTEN": f"{net.address('router')}:9010",
        "ROUTER_MESH_LISTEN": mesh,
        "ROUTER_FRONTEND_LISTEN": f"127.0.0.1:{free_port()}",
        "ROUTER_RUNTIMES": ",".join(f"{net.address(name)}:9100" for name in RUNTIMES),
        "ROUTER_POLICY": "127.0.0.1:9020",
        "ROUTER_TLS": str(folder / "service/router"),
        "ROUTER_GATEWAY_TLS": str(folder / "service/gateway"),
        "ROUTER_SALT_SECRET_FILE": str(folder / "salt"),
        "ROUTER_KEY_SECRET_FILE": str(folder / "key-secret"),
        "ROUTER_AUDIT_SPOOL": str(folder / "spool"),
    }


@contextmanager
def _process(net: Network, host: str, service: str, environ: Mapping[str, str]) -> Iterator[None]:
    command = net.command(host, sys.executable, "-m", f"services.{service}")
    with subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": ".:client", **environ},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            yield
        finally:
            process.kill()
