"""What 10,000 tenants cost: to read, to spread to routers, to compare, and to judge by twice.

Reading, comparing and judging are processor time, the way from the file to the routers is not. The
policy service is a process of its own; the routers' followers, which have real connections with
certificates, share this one, so that three routers decode one after the other.
"""

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from statistics import median

from benchmarks.results import Goal, line
from deploy.local.aside import free_port
from deploy.local.keys import audit_key, ensure_audit_key, ensure_key_secret
from evenflow.certificates import issue, make_authority
from services.chassis.identity import TlsFiles
from services.policy.core.differences import differences
from services.policy.core.dry_run import dry_run
from services.policy.core.verdicts import Judge, RecordedDecision
from services.policy.outbound.policy_file import policy_of
from services.router.core.demands import Demand, Output, Prompt
from services.router.core.shadow import Judgement, Shadow
from services.router.core.tenants import PolicyView, Tenants
from services.router.outbound.policy import GrpcPolicy, PolicyFollower

GOALS = (
    Goal("load_s", 1.0),
    Goal("visible_s", 2.0),
    Goal("million_decisions_s", 20.0),
    Goal("shadow_us", 20.0),
)
TENANTS, ROUTERS = 10_000, 3
DOMAIN = "evenflow.local"
_LOOK_EVERY_S = 0.005
_WITHIN_S = 60.0
_JUDGED = 20_000


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks policies")
    parser.add_argument("--changes", type=int, default=7)
    parser.add_argument("--decisions", type=int, default=1_000_000)
    asked = parser.parse_args(arguments)
    figures = {
        "load_s": median(_timed(partial(policy_of, written(256), DOMAIN)) for _ in range(5)),
        **_compared(asked.decisions),
        "shadow_us": _shadow_us(),
    }
    took = asyncio.run(_spread(asked.changes))
    figures |= {"visible_s": max(took), "visible_median_s": median(took)}
    for goal in GOALS:
        print(goal.said(figures[goal.figure]))
    print(line("policies", figures=figures, baseline={}, goals=GOALS), flush=True)
    return 0


def written(output_tokens: int) -> bytes:
    """A policy whose first tenant has this limit."""
    return "".join(
        f"""\
{"tenants:" if number == 0 else ""}
  - id: tenant-{number}
    spiffe_ids: ["spiffe://{DOMAIN}/tenant/tenant-{number}/*"]
    api_keys: [{{id: web, hash: "sha256:{number:064x}", workload: web}}]
    models: [small, large]
    workload_classes: [interactive, batch]
    default_workload_class: interactive
    max_context_tokens: 4096
    max_output_tokens: {output_tokens if number == 0 else 256}
"""
        for number in range(TENANTS)
    ).encode()


def _compared(decisions: int) -> dict[str, float]:
    old, one = policy_of(written(256), DOMAIN), policy_of(written(128), DOMAIN)
    every = policy_of(written(256).replace(b"max_context_tokens: 4096", b"weight: 2"), DOMAIN)
    judge = Judge(one, old)

    def run() -> None:
        outcome = dry_run(judge, _recorded(decisions), time_is_up=lambda: False)
        assert outcome.different, "the first tenant asks for too much"

    return {
        "one_changed_s": _timed(lambda: differences(old, one)),
        "all_changed_s": _timed(lambda: differences(old, every)),
        "million_decisions_s": _timed(run) * 1e6 / decisions,
    }


def _recorded(decisions: int) -> Iterator[RecordedDecision]:
    for number in range(decisions):
        tenant = f"tenant-{number % TENANTS}"
        yield RecordedDecision(
            request_id=f"r-{number}",
            unix_s=float(number),
            spiffe_id=f"spiffe://{DOMAIN}/tenant/{tenant}/web",
            tenant=tenant,
            model="small",
            prompt_tokens=100,
            output_tokens=200,
        )


def _shadow_us() -> float:
    """Of one request, which the candidate refuses."""
    policy = policy_of(written(128), DOMAIN)
    tenants = asyncio.run(_snapshot(policy.version))
    shadow = Shadow()
    shadow.replaced(tenants, 0.0)
    asked = Demand("small", None, Prompt(100, exact=False), Output(200, "max_output_tokens"))

    def judge() -> None:
        for number in range(_JUDGED):
            name = f"spiffe://{DOMAIN}/tenant/tenant-0/web"
            caller = tenants.by_spiffe_id(name)
            shadow.compare(Judgement(f"r-{number}", None, "tenant-0", asked), caller)

    took_s = _timed(judge)
    assert shadow.differences.total() == _JUDGED, "each differs"
    return took_s / _JUDGED * 1e6


async def _snapshot(version: str) -> Tenants:
    async with _policy(written(128)) as (_file, views):
        return await _decides_by(views[0], version)


async def _spread(changes: int) -> Sequence[float]:
    """From the file's being written until the last router decides by it."""
    took = []
    async with _policy(written(256)) as (file, views):
        for number in range(changes):
            content = written(100 + number)
            version = policy_of(content, DOMAIN).version
            (new := file.with_suffix(".new")).write_bytes(content)
            began_s = time.perf_counter()
            new.rename(file)
            for view in views:
                await _decides_by(view, version)
            took.append(time.perf_counter() - began_s)
    return took


async def _decides_by(view: PolicyView, version: str) -> Tenants:
    async with asyncio.timeout(_WITHIN_S):
        while view.version != version:  # noqa: ASYNC110 - it is what a request would look at
            await asyncio.sleep(_LOOK_EVERY_S)
    tenants = view.current(0.0)
    assert tenants is not None, "it has just been heard"
    return tenants


@asynccontextmanager
async def _policy(content: bytes) -> AsyncIterator[tuple[Path, Sequence[PolicyView]]]:
    """A policy service in a process of its own, and the views of routers that follow it."""
    with tempfile.TemporaryDirectory(prefix="evf-policies-") as name:
        folder, port = Path(name), free_port()
        file = folder / "tenants.yaml"
        file.write_bytes(content)
        authority = make_authority(folder / "ca", DOMAIN)
        for service in ("policy", "router"):
            hosts = [f"{service}.{DOMAIN}", "localhost", "127.0.0.1"]
            issue(authority, f"spiffe://{DOMAIN}/service/{service}", hosts, folder / service)
        command = [sys.executable, "-m", "services.policy"]
        process = subprocess.Popen(  # noqa: ASYNC220, S603 - it ends with us, and is ours
            command, env=_environ(folder, port), stdout=subprocess.DEVNULL
        )
        views = [PolicyView(stale_after_s=1e9) for _ in range(ROUTERS)]
        tls = TlsFiles.in_folder(folder / "router")
        tasks = await asyncio.TaskGroup().__aenter__()
        following = [tasks.create_task(_follow(view, port, tls)) for view in views]
        try:
            for view in views:
                await _decides_by(view, policy_of(content, DOMAIN).version)
            yield file, views
        finally:
            for each in following:
                each.cancel()
            await tasks.__aexit__(None, None, None)
            process.terminate()
            process.wait()


async def _follow(view: PolicyView, port: int, tls: TlsFiles) -> None:
    from grpc.aio import AioRpcError  # noqa: PLC0415 - only here

    while True:
        try:
            await PolicyFollower(view, lambda: 0.0).follow(GrpcPolicy(f"127.0.0.1:{port}", tls))
        except AioRpcError:
            await asyncio.sleep(_LOOK_EVERY_S)  # it starts


def _environ(folder: Path, port: int) -> dict[str, str]:
    ensure_audit_key(folder)
    return {
        **os.environ,
        "POLICY_LISTEN": f"127.0.0.1:{port}",
        "POLICY_FILE": str(folder / "tenants.yaml"),
        "POLICY_TRUST_DOMAIN": DOMAIN,
        "POLICY_TLS": str(folder / "policy"),
        "POLICY_DATABASE": f"sqlite:///{folder}/policy.db",
        "POLICY_KEY_SECRET_FILE": str(ensure_key_secret(folder)),
        "POLICY_AUDIT": str(folder / "audit"),
        "POLICY_AUDIT_KEY_FILE": str(audit_key(folder)),
    }


def _timed(act: Callable[[], object]) -> float:
    """In seconds of the processor's time."""
    began_s = time.process_time()
    act()
    return time.process_time() - began_s
