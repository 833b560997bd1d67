"""Composition root: the only module that knows every part of the router."""

import asyncio
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import grpc
import structlog

from services.chassis import lifecycle, logs, traces
from services.chassis.environ import EX_CONFIG, Address, InvalidConfig
from services.chassis.identity import TlsFiles
from services.chassis.secret_file import read_secret
from services.chassis.server import Server
from services.router.config import Config
from services.router.core.salts import CacheSalts
from services.router.following import followers
from services.router.inbound.access_log import AccessLogServicer
from services.router.inbound.caching import Caching
from services.router.inbound.check_socket import CheckSocket
from services.router.inbound.mesh import Mesh
from services.router.outbound import salt_file
from services.router.outbound.runtimes import GrpcRuntime
from services.router.outbound.spool import Spool
from services.router.parts import Parts, access_log, made, time_limits
from services.router.servers import check_socket, operator_server, sidecar_server

_KNOWN_WITHIN_S = 2.0
_LOOK_EVERY_S = 0.01
_TAKEN_WITHIN_S = 0.5  # else their callers have gone
_LAST_WORDS_S = 0.15  # Envoy tells of an end within 100 ms
_LONGEST_SOCKET_PATH = 100  # Linux takes 107 bytes, and gRPC needs a few

_log = structlog.get_logger(__name__)


def main() -> int:
    try:
        config = Config.from_environ(os.environ)
        salts = CacheSalts(salt_file.read(config.salt_secret_file))
        key_secret = read_secret(config.key_secret_file)
        spool = Spool(config.audit_spool, most_bytes=config.audit_spool_bytes)
        for socket in (config.socket, config.check_socket):
            _make_private(socket)
    except InvalidConfig as error:
        print(error, file=sys.stderr)
        return EX_CONFIG
    except (OSError, ValueError) as error:
        print(f"the router can't start: {error}", file=sys.stderr)
        return EX_CONFIG
    logs.configure("router")
    try:
        lifecycle.run(serve(config, salts, key_secret, spool))
    except lifecycle.CANNOT_START as error:
        print(error, file=sys.stderr)
        return 1
    return 0


async def serve(config: Config, salts: CacheSalts, key_secret: bytes, spool: Spool) -> None:
    """Until SIGTERM or SIGINT. What follows others ends after what serves."""
    tls = TlsFiles.in_folder(config.tls)
    address = config.telemetry.text if config.telemetry else None
    tracing = traces.start("router", otlp_address=address, tls=tls, sample_share=config.trace_share)
    parts = made(config, salts, spool, time.time_ns)
    async with asyncio.TaskGroup() as tasks:
        following = [tasks.create_task(each) for each in followers(config, parts, key_secret)]

        def empty(address: str) -> None:
            parts.mesh.endpoints.drain(address)
            parts.changed()
            drain = _drain(GrpcRuntime(address, tls), within_s=config.longest_timeout_s)
            following.append(tasks.create_task(drain))

        operator = operator_server(parts.mesh, tls, empty, parts.told)
        operator.listen(config.operator_listen, tls)
        await _wait_until_known(parts.mesh)
        log = access_log(config, parts)
        sidecar = sidecar_server(
            parts.mesh, parts.catalogue, discovery=parts.discovery, access_log=log
        )
        sidecar.listen(Address(f"unix:{config.socket.absolute()}"), None)
        check = check_socket(parts.mesh, time_limits(config))
        await check.listen(config.check_socket.absolute())
        doors = _Doors(operator, sidecar, check, parts, log)
        await _serve(doors, drain_s=config.drain_s)
        for each in following:
            each.cancel()
    await asyncio.to_thread(tracing.stop)


async def _wait_until_known(mesh: Mesh) -> None:
    """Returns when policy and every runtime have spoken, or could not be reached in time.

    Envoy holds its questions for a router that is not there, but takes the word of one that is.
    """
    try:
        async with asyncio.timeout(_KNOWN_WITHIN_S):
            while not (mesh.policy.version and all(each.tried for each in mesh.endpoints.all())):  # noqa: ASYNC110 - two followers write it down, and neither knows of us
                await asyncio.sleep(_LOOK_EVERY_S)
    except TimeoutError:
        missing = [each.address for each in mesh.endpoints.all() if not each.tried]
        _log.warning("server.unaware", policy=bool(mesh.policy.version), endpoints=missing)


@dataclass(frozen=True, slots=True)
class _Doors:
    """All that others call."""

    operator: Server
    sidecar: Server
    check: CheckSocket
    parts: Parts
    access_log: AccessLogServicer


async def _serve(doors: _Doors, *, drain_s: float) -> None:
    for server in (doors.sidecar, doors.operator):
        await server.start()
        await server.set_serving()
    _log.info("server.ready")
    await lifecycle.stop_signal()
    _log.info("server.draining", drain_s=drain_s)
    doors.check.drain()
    await _replays_taken(doors.parts.mesh.caching)
    async with asyncio.TaskGroup() as draining:
        for server in (doors.sidecar, doors.operator):
            draining.create_task(lifecycle.drain(server, drain_s=drain_s))
        # Envoy's own streams and our peers' have no end, and would hold us up for all of drain_s.
        doors.parts.discovery.close()
        doors.parts.told.close()
        doors.parts.records.hurry()
        await asyncio.sleep(_LAST_WORDS_S)
        doors.access_log.close()
    doors.check.close()
    await doors.parts.leases.give_all_back()


async def _replays_taken(caching: Caching) -> None:
    """Envoy is on its way here for these; a server that drains would turn it away."""
    caching.stop()
    try:
        async with asyncio.timeout(_TAKEN_WITHIN_S):
            while caching.replays:  # noqa: ASYNC110 - Envoy takes milliseconds, and rarely once
                await asyncio.sleep(_LOOK_EVERY_S)
    except TimeoutError:
        _log.warning("replays.untaken", replays=len(caching.replays))


async def _drain(runtime: GrpcRuntime, *, within_s: float) -> None:
    _log.info("endpoint.draining", endpoint=runtime.address)
    try:
        await runtime.drain(within_s=within_s)
    except (grpc.aio.AioRpcError, OSError) as error:
        _log.warning("endpoint.drain_failed", endpoint=runtime.address, problem=str(error))
    else:
        _log.info("endpoint.drained", endpoint=runtime.address)


def _make_private(socket: Path) -> None:
    """Whoever can reach the socket is taken for Envoy, so only this user can."""
    if len(str(socket.absolute())) > _LONGEST_SOCKET_PATH:
        raise ValueError(f"the socket's path must have at most {_LONGEST_SOCKET_PATH} characters")
    socket.parent.mkdir(parents=True, exist_ok=True)
    socket.parent.chmod(0o700)
