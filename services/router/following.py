"""Whom the router follows for as long as it runs: runtimes, peers, policy; and its sweep."""

import asyncio
import random
from collections.abc import Callable, Coroutine, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

import structlog

from services.chassis.environ import Address
from services.chassis.identity import TlsFiles
from services.chassis.streams import keep_open
from services.router.config import Config
from services.router.core.exchange import Change
from services.router.core.limit_words import LimitPeer
from services.router.inbound.mesh import Mesh
from services.router.outbound import answers, cutting, salt_file
from services.router.outbound.answers import GrpcAnswers
from services.router.outbound.attempts import GrpcAttemptSource
from services.router.outbound.audit import SpoolShipper
from services.router.outbound.cache_reports import GrpcCacheReports
from services.router.outbound.cutting import Allowed
from services.router.outbound.endpoint_states import GrpcEndpointStates, counts
from services.router.outbound.leases import GrpcLedger
from services.router.outbound.peers import GrpcRouter, PeerFollower
from services.router.outbound.policy import GrpcPolicy, PolicyFollower
from services.router.outbound.prompts import GrpcPromptSource, PromptFollower
from services.router.outbound.records import GrpcTelemetry
from services.router.outbound.runtimes import GrpcRuntime, RuntimeFollower
from services.router.outbound.shadow import GrpcShadow
from services.router.parts import Parts

_SWEEP_EVERY_S = 1.0

_log = structlog.get_logger(__name__)

Followers = Iterator[Coroutine[Any, Any, None]]


def followers(config: Config, parts: Parts, key_secret: bytes) -> Followers:
    """None of them ends but by cancellation."""
    tls, mesh = TlsFiles.in_folder(config.tls), parts.mesh
    clock = asyncio.get_running_loop().time
    keep = partial(keep_open, jitter=random.Random())  # noqa: S311 - spreads reconnects
    yield from _of_runtimes(config, parts, tls, keep)
    yield from _of_peers(config, parts, tls, keep)
    policy = PolicyFollower(mesh.policy, clock, key_secret)
    yield keep(partial(policy.follow, GrpcPolicy(config.policy.text, tls)), what="policy")
    heard = partial(_taken, mesh, clock)
    shipper = SpoolShipper(parts.spool, config.policy.text, tls, heard)
    yield keep(shipper.follow, what="policy's audit log")
    shadow = GrpcShadow(config.policy.text, tls, mesh.shadow, router=parts.instance_id)
    yield keep(partial(shadow.follow, clock), what="shadow policy")
    yield keep(shadow.report, what="shadow counts")
    prompts = PromptFollower(mesh.prompts)
    source = GrpcPromptSource(config.policy.text, tls)
    yield keep(partial(prompts.follow, source), what="policy's prompts")
    yield keep(partial(parts.leases.follow, GrpcLedger(config.policy.text, tls)), what="ledger")
    if config.telemetry is not None:
        yield from _of_telemetry(config.telemetry, parts, tls, keep)
    yield parts.publisher.follow_certificate()
    yield salt_file.follow(config.salt_secret_file, mesh.salts.replaced)
    yield _cutting(mesh, tls, clock)
    yield _sweep(mesh, clock)


def _taken(mesh: Mesh, clock: Callable[[], float]) -> None:
    mesh.audit.heard(clock())


_Keep = Callable[..., Coroutine[Any, Any, None]]


def _of_runtimes(config: Config, parts: Parts, tls: TlsFiles, keep: _Keep) -> Followers:
    mesh, clock = parts.mesh, asyncio.get_running_loop().time
    runtimes = RuntimeFollower(
        mesh.endpoints,
        mesh.requests,
        (mesh.circuits, mesh.outliers),
        parts.changed,
        silence_s=config.runtime_silence_s,
    )
    runtimes.heard = mesh.line.saw
    for each in config.runtimes:
        once = partial(runtimes.follow, GrpcRuntime(each.text, tls))
        yield keep(once, what=f"runtime {each}")
        lost = partial(parts.attempts.follow, GrpcAttemptSource(each.text, tls))
        yield keep(lost, what=f"attempts of {each}")
        if mesh.caching.on:
            handed_over = GrpcAnswers(each.text, tls, router=mesh.caching.router)
            follow = partial(answers.follow, handed_over, mesh.caching.cache, clock)
            yield keep(follow, what=f"answers of runtime {each}")


def _of_peers(config: Config, parts: Parts, tls: TlsFiles, keep: _Keep) -> Followers:
    peers: list[PeerFollower] = []
    for each in config.peers:
        changed, limits = partial(_elsewhere, parts.mesh, peers), LimitPeer(parts.mesh.limiting)
        peers.append(PeerFollower(parts.instance_id, changed, limits))
        once = partial(peers[-1].follow, GrpcRouter(each.text, tls))
        yield keep(once, what=f"peer {each}")
    if peers:
        yield _sweep_peers(peers)


def _of_telemetry(address: Address, parts: Parts, tls: TlsFiles, keep: _Keep) -> Followers:
    mesh = parts.mesh
    telemetry = GrpcTelemetry(address.text, tls)
    yield keep(lambda: telemetry.report(parts.records.batches()), what="telemetry")
    states = GrpcEndpointStates(address.text, tls)
    yield keep(
        lambda: states.report(counts(mesh.endpoints, mesh.outliers.ejected, mesh.line.flow.depths)),
        what="telemetry's endpoints",
    )
    if mesh.caching.on:
        reports = GrpcCacheReports(address.text, tls, mesh.caching.cache)
        yield keep(reports.report, what="telemetry's cache")


def _elsewhere(mesh: Mesh, peers: Sequence[PeerFollower], changes: list[Change]) -> None:
    """What another router has told, or that it is heard no more."""
    mesh.line.flow.saturation.routers = 1 + sum(each.is_heard for each in peers)
    tenants = mesh.policy.current(asyncio.get_running_loop().time())
    for each in changes:
        tenant = tenants.by_id(each.tenant) if tenants else None
        mesh.line.flow.elsewhere(each, weight=tenant.weight if tenant else 1)
    if changes:
        mesh.line.stir()


def _cutting(mesh: Mesh, tls: TlsFiles, clock: Callable[[], float]) -> Coroutine[Any, Any, None]:
    allowed = Allowed(lambda: mesh.policy.current(clock()), mesh.revoked, _now_unix_s)
    return cutting.follow(mesh.requests, allowed, lambda address: GrpcRuntime(address, tls))


def _now_unix_s() -> float:
    return datetime.now(UTC).timestamp()


async def _sweep(mesh: Mesh, clock: Callable[[], float]) -> None:
    """Frees the slots of requests whose end was never reported, forgets old answers, and says which
    endpoints are back."""
    while True:
        await asyncio.sleep(_SWEEP_EVERY_S)
        mesh.outliers.sweep(clock())
        mesh.caching.expire(mesh.policy.current(clock()), clock())
        expired = mesh.requests.expire(clock())
        if expired:
            _log.warning("requests.end_unknown", requests=len(expired))


async def _sweep_peers(peers: Sequence[PeerFollower]) -> None:
    """What was under way at one that is away for long counts no more."""
    clock = asyncio.get_running_loop().time
    while True:
        await asyncio.sleep(_SWEEP_EVERY_S)
        for each in peers:
            each.limits.sweep(clock())
