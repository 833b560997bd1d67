"""Runs a service as its own process, as an operator would, and tells when it serves."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from deploy.local.aside import READY_WITHIN_S, ROOT
from services.chassis.identity import TlsFiles, channel

_SOON_S = 20.0  # a busy machine takes seconds to import gRPC


def ended(*command: str, environ: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """A command of ours, run in the project's folder to its end."""
    return subprocess.run(
        command,
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=READY_WITHIN_S,
        stdin=subprocess.DEVNULL,
    )


@asynccontextmanager
async def service(
    module: str, environ: Mapping[str, str]
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Killed at the end if it still runs. Its standard error is piped."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        module,
        env={**os.environ, "PYTHONPATH": ".:client", **environ},
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def serving(where: str, tls: TlsFiles, *, server: str, part: str = "") -> None:
    """Returns when health says SERVING for `part`."""
    await _health(where, tls, server=server, asked=(part, HealthCheckResponse.SERVING))


async def not_serving(where: str, tls: TlsFiles, *, server: str, part: str) -> None:
    await _health(where, tls, server=server, asked=(part, HealthCheckResponse.NOT_SERVING))


async def _health(where: str, tls: TlsFiles, *, server: str, asked: tuple[str, int]) -> None:
    part, wanted = asked
    async with channel(where, tls, server=server) as calls:
        stub: Any = HealthStub(calls)
        request = HealthCheckRequest(service=part)
        call = stub.Watch(request, timeout=_SOON_S, wait_for_ready=True)
        async for response in call:
            if response.status == wanted:
                call.cancel()
                return
    raise AssertionError(f"the health of {part!r} ended")
