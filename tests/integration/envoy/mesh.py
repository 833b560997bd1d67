"""Starts the real Envoy against an ADS server on a unix socket, for tests that need one."""

import asyncio
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from deploy.envoy.bootstrap import bootstrap
from deploy.envoy.install import install

ROOT = Path(__file__).resolve().parents[3]
START_S = 20.0
STOP_S = 5.0


@dataclass(frozen=True, slots=True)
class Envoy:
    """A running Envoy. `log` is its own, for when a test fails."""

    process: subprocess.Popen[bytes]
    admin_socket: Path
    log: Path

    async def admin(self, path: str) -> str:
        transport = httpx.AsyncHTTPTransport(uds=str(self.admin_socket))
        async with httpx.AsyncClient(transport=transport, base_url="http://admin") as client:
            return (await client.get(path)).text

    async def ready(self) -> None:
        """Returns when every listener serves."""
        async with asyncio.timeout(START_S):
            while not await self._is_live():
                if self.process.poll() is not None:
                    raise RuntimeError(f"Envoy ended: {self.log.read_text()}")
                await asyncio.sleep(0.02)  # Envoy's admin socket can only be asked

    async def _is_live(self) -> bool:
        try:
            return (await self.admin("/ready")).strip() == "LIVE"
        except httpx.TransportError:
            return False

    async def statistic(self, name: str) -> int:
        """A counter or gauge; 0 if Envoy does not know it yet."""
        for line in (await self.admin(f"/stats?filter=^{name}$")).splitlines():
            return int(line.rpartition(": ")[2])
        return 0


def check_socket(router_socket: Path) -> Path:
    """The router's other one, as tests call it."""
    return router_socket.with_name("check.sock")


@asynccontextmanager
async def running_envoy(folder: Path, router_socket: Path) -> AsyncIterator[Envoy]:
    """Envoy from its start until it serves what the router's ADS says; killed at the end."""
    config = folder / "bootstrap.json"
    admin = folder / "admin.sock"
    log = folder / "envoy.log"
    config.write_text(
        bootstrap(
            node="test",
            router_socket=router_socket,
            check_socket=check_socket(router_socket),
            admin_socket=admin,
        )
    )
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: ASYNC220 - returns at once
            [install(ROOT / ".evenflow"), "-c", config, *_FLAGS], stdout=output, stderr=output
        )
    try:
        envoy = Envoy(process, admin, log)
        await envoy.ready()
        yield envoy
    finally:
        process.kill()
        process.wait(STOP_S)


_FLAGS = ("--disable-hot-restart", "--concurrency", "1", "--log-level", "info")
