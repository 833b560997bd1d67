"""Whether a hard budget holds while a thousand callers race for it over three routers.

Routers are killed and started again at random, policy in the middle; requests are hedged, tried
again where a runtime drains, and left midway. Then the ledger is compared, token by token, with
what the runtimes' own logs say was used. On SQLite and on PostgreSQL; the baseline is the same load
on a soft budget, which holds nobody up.
"""

import argparse
import json
import random
import signal
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from benchmarks.books import Books, followed, settled, truly_used_tokens
from benchmarks.mesh import Mesh, running, wait_for
from benchmarks.racing import Order
from benchmarks.results import Goal, line
from benchmarks.sending import run_generator
from benchmarks.watching import change_policy
from deploy.local.control import SOCKET, Control, NoSupervisor
from deploy.local.postgres import postgres
from deploy.local.second import PEERS, Doors, Second, second
from deploy.local.settings import address
from evenflow.home import service_name

TENANT = "acme"
AT_ONCE = 1000
RUNTIMES = 3
SECONDS = 60.0
LIMIT_TOKENS = 800_000  # about two thirds of what would be used
LONGEST_REQUEST_S = 20.0
SETTLED_WITHIN_S = 120.0
POLICY_WITHIN_S = 30.0
APART_S = (2.0, 5.0)  # from one killed router to the next
AWAY_S = (0.1, 1.5)
DRAINED_AT = 0.3  # of the time: a runtime is restarted in good order
POLICY_DIES_AT = 0.5
DATABASES = ("sqlite", "postgresql")
ENGINE = {
    "RUNTIME_SIMULATED_STEP_S": "0.03",
    "RUNTIME_SIMULATED_STRAGGLER_SHARE": "0.03",
    "RUNTIME_MAX_RUNNING": "64",
    "RUNTIME_DRAIN_S": "5",
    "ROUTER_TRACE_SHARE": "0",
    "ROUTER_HEDGE_SHARE": "0.05",
    "POLICY_LONGEST_REQUEST_S": str(LONGEST_REQUEST_S),
}
_BUDGET = """    budgets:
      - {{id: race, window: total, tokens: {tokens}, hard: {hard}}}
"""

Figures = dict[str, float]


def goals() -> tuple[Goal, ...]:
    return tuple(
        goal
        for each in DATABASES
        for goal in (
            Goal(f"{each}_overspent_tokens", at_most=0),
            Goal(f"{each}_ledger_differs_from_true_usage_tokens", at_most=0),
            Goal(f"{each}_held_in_the_end_tokens", at_most=0),
            Goal(f"{each}_answered_requests", at_least=1),
            Goal(f"{each}_refused_requests", at_least=1),
        )
    )


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks budget_race")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each race")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args(arguments)
    figures: Figures = {}
    for each in DATABASES:
        with _url(each) as url:
            said = _race(url, for_s=asked.seconds, seed=asked.seed, hard=True)
        figures |= {f"{each}_{name}": value for name, value in said.items()}
    with _url("sqlite") as url:
        baseline = _race(url, for_s=asked.seconds / 2, seed=asked.seed, hard=False)
    for goal in goals():
        print(goal.said(figures[goal.figure]))
    print(line("budget_race", figures=figures, baseline=baseline, goals=goals()), flush=True)
    return 0 if all(goal.met(figures[goal.figure]) for goal in goals()) else 1


@contextmanager
def _url(kind: str) -> Iterator[str | None]:
    """None: the mesh's own SQLite."""
    if kind == "sqlite":
        yield None
        return
    with (
        tempfile.TemporaryDirectory(prefix="evf-pg-") as folder,
        postgres(Path(folder)) as server,
    ):
        yield server.new_database()


def _race(url: str | None, *, for_s: float, seed: int, hard: bool) -> Figures:
    doors = Doors.free(2)
    peers = {PEERS: ",".join(address(each.router) for each in doors)}
    database = {"POLICY_DATABASE": url} if url else {}
    with ExitStack() as stack:
        mesh = stack.enter_context(running({**ENGINE, **peers, **database}, runtimes=RUNTIMES))
        change_policy(mesh, lambda text: _budgeted(text, hard=hard), within_s=POLICY_WITHIN_S)
        others = [stack.enter_context(_other(each, mesh)) for each in doors]
        before = truly_used_tokens(mesh.home / "logs", TENANT)
        faults = Faults(mesh, others, for_s=for_s, seed=seed)
        with followed(mesh, TENANT) as seen, faults.at_random():
            ends = _raced(mesh, doors, for_s=for_s, seed=seed)
        books = settled(mesh, TENANT, within_s=SETTLED_WITHIN_S)
        used = truly_used_tokens(mesh.home / "logs", TENANT) - before
    print(f"{ends}; routers killed: {faults.killed}; {books}; truly used: {used}", flush=True)
    return _figures(ends, seen, books, used) | {"routers_killed": faults.killed}


def _budgeted(text: str, *, hard: bool) -> str:
    said = _BUDGET.format(tokens=LIMIT_TOKENS, hard=str(hard).lower())
    first = "    default_workload_class: interactive\n"
    return text.replace(first, first + said, 1)


@contextmanager
def _other(doors: Doors, mesh: Mesh) -> Iterator[Second]:
    with second(
        doors, mesh.home, mesh.ports, runtime_ports=mesh.runtime_ports, environ=ENGINE
    ) as made:
        wait_for(doors.mesh)
        yield made


def _raced(mesh: Mesh, doors: Sequence[Doors], *, for_s: float, seed: int) -> Mapping[str, int]:
    order = Order(
        addresses=[mesh.address, *(address(each.mesh) for each in doors)],
        server=service_name("gateway"),
        certificate_folder=str(mesh.tenant),
        at_once=AT_ONCE,
        for_s=for_s,
        seed=seed,
    )
    ends: Mapping[str, int] = json.loads(run_generator("benchmarks.racing", asdict(order)))
    return ends


def _figures(ends: Mapping[str, int], seen: Sequence[Books], books: Books, used: int) -> Figures:
    refused = ends.get("BUDGET_EXHAUSTED", 0)
    return {
        "limit_tokens": LIMIT_TOKENS,
        "overspent_tokens": max(0, used - LIMIT_TOKENS),
        "truly_used_tokens": used,
        "ledger_differs_from_true_usage_tokens": abs(books.spent - used),
        "held_in_the_end_tokens": books.held,
        "gone_at_most_share": max((each.spent + each.held) / LIMIT_TOKENS for each in seen),
        "held_at_the_peak_share": max(each.held for each in seen) / LIMIT_TOKENS,
        "held_needlessly_at_the_peak_share": _needlessly(seen) / LIMIT_TOKENS,
        "unspent_while_refused_share": max(0, LIMIT_TOKENS - seen[-1].spent) / LIMIT_TOKENS,
        "answered_requests": ends.get("answered", 0),
        "left_requests": ends.get("left", 0),
        "refused_requests": refused,
        "other_requests": sum(ends.values())
        - refused
        - ends.get("answered", 0)
        - ends.get("left", 0),
    }


def _needlessly(seen: Sequence[Books]) -> int:
    """What was held, less what was spent while the requests of then could still run."""
    most, later = 0, 0
    for each in seen:
        while later < len(seen) and seen[later].at_s < each.at_s + LONGEST_REQUEST_S:
            later += 1
        if later == len(seen):
            break
        most = max(most, each.held - (seen[later].spent - each.spent))
    return most


@dataclass(slots=True)
class Faults:
    """Routers are killed at random, policy once; a runtime is restarted in good order."""

    mesh: Mesh
    others: Sequence[Second]
    for_s: float
    seed: int
    killed: int = 0

    @contextmanager
    def at_random(self) -> Iterator[None]:
        over = threading.Event()
        threads = [
            threading.Thread(target=self._kill_routers, args=(over,)),
            threading.Thread(target=self._restart, args=(over,)),
        ]
        for each in threads:
            each.start()
        try:
            yield
        finally:
            over.set()
            for each in threads:
                each.join()

    def _kill_routers(self, over: threading.Event) -> None:
        rng = random.Random(self.seed)  # noqa: S311 - what befalls whom must repeat
        while not over.wait(rng.uniform(*APART_S)):
            which = rng.randrange(1 + len(self.others))
            self.killed += 1
            if which == 0:
                self._strike("router")  # supervisord starts it again
                continue
            other = self.others[which - 1]
            other.kill("router")
            over.wait(rng.uniform(*AWAY_S))
            other.start("router")

    def _restart(self, over: threading.Event) -> None:
        if not over.wait(DRAINED_AT * self.for_s):
            self._control().stop("runtime-1")
            self._control().start("runtime-1")
        if not over.wait((POLICY_DIES_AT - DRAINED_AT) * self.for_s):
            self._strike("policy")

    def _strike(self, program: str) -> None:
        with suppress(NoSupervisor, psutil.NoSuchProcess):
            psutil.Process(self._control().states()[program].pid).send_signal(signal.SIGKILL)

    def _control(self) -> Control:
        return Control(self.mesh.home / "run" / SOCKET)
