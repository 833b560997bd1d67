"""What `make run` does, from top to bottom: prepare, start, prove that it answers, serve."""

import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from deploy.envoy.install import install as install_envoy
from deploy.local.certificates import TENANTS, ensure_certificates
from deploy.local.engines import NEEDS, Engine, check_engine, has_gpu, prepare_engine
from deploy.local.first_chat import ask_once
from deploy.local.keys import (
    ensure_audit_key,
    ensure_cache_salt,
    ensure_key_secret,
    ensure_keys,
    ensure_tenants,
)
from deploy.local.preflight import (
    FULL,
    check_platform,
    check_ports,
    check_room,
    full_disk_told,
    only_one,
    raise_open_files,
)
from deploy.local.programs import Prepared, programs
from deploy.local.progress import step
from deploy.local.readiness import ServiceFailed, raise_if_dying, wait_until_ready
from deploy.local.settings import Settings, address
from deploy.local.supervision import Supervisor, supervised
from deploy.local.welcome import welcome
from evenflow.home import tenant_folder

ROOT = Path(__file__).resolve().parents[2]
LOOK_EVERY_S = 1.0
TAIL_LINES = 20
LONGEST_RUN_FOLDER = 64  # bytes of the 107 that a socket's path may have: see unix(7)


def run(settings: Settings, asked: str | None) -> None:
    """Serves until KeyboardInterrupt. Leaves no process and no socket, whatever happens.

    Raises:
        CannotRun: something is missing or taken.
        ServiceFailed: a program did not come up, or keeps dying.
        SupervisorDied: nobody restarts what dies any more.
        EvenflowError: the first question was not answered.
    """
    began_s = time.monotonic()
    check_platform()
    raise_open_files()
    engine_name = asked or ("vllm" if has_gpu() else "llamacpp")
    downloads = settings.downloads or settings.home
    with ExitStack() as stack:
        stack.enter_context(full_disk_told(settings.home, downloads, Path(tempfile.gettempdir())))
        check_room(settings.home)
        stack.enter_context(only_one(settings.home))
        sockets = stack.enter_context(run_folder(settings.home))
        check_ports(settings.ports())
        runtimes = len(settings.runtime_ports)
        check_engine(engine_name, downloads, runtimes=runtimes)
        print(f"evenflow: starting with {engine_name}, in {settings.home}", flush=True)
        prepared = prepare(settings, sockets)
        engine = prepare_engine(engine_name, downloads, runtimes=runtimes)
        logs = settings.home / "logs"
        logs.mkdir(mode=0o700, exist_ok=True)
        try:
            with supervised(
                programs(settings, prepared, engine),
                run_folder=sockets,
                log_folder=logs,
                directory=ROOT,
            ) as supervisor:
                _serve(supervisor, settings, engine, began_s)
        except ServiceFailed as error:
            _show_tail(logs / f"{error.program}.log")
            raise


def prepare(settings: Settings, sockets: Path) -> Prepared:
    """Fetches Envoy; makes certificates, keys, tenants and secrets where they are missing."""
    with step("Envoy, certificates, keys"):
        binary = install_envoy(settings.downloads or settings.home)
        ensure_certificates(settings.home)
        tenants = ensure_tenants(settings.home, ensure_keys(settings.home))
        salt = ensure_cache_salt(settings.home)
        key_secret = ensure_key_secret(settings.home)
        ensure_audit_key(settings.home)
    return Prepared(
        envoy=binary, tenants=tenants, cache_salt=salt, key_secret=key_secret, sockets=sockets
    )


@contextmanager
def run_folder(home: Path) -> Iterator[Path]:
    """An empty folder for sockets, gone after the run. `home`/run, or where that leads."""
    folder = home / "run"
    _remove(folder)  # of a run that was killed
    try:
        if len(bytes(folder)) > LONGEST_RUN_FOLDER:
            with tempfile.TemporaryDirectory(prefix="evenflow-") as short:
                folder.symlink_to(short)
                yield Path(short)
        else:
            folder.mkdir(mode=0o700)
            yield folder
    finally:
        _remove(folder)


def _remove(folder: Path) -> None:
    if folder.is_symlink():
        folder.unlink()
    else:
        shutil.rmtree(folder, ignore_errors=True)


def _serve(supervisor: Supervisor, settings: Settings, engine: Engine, began_s: float) -> None:
    within_s = NEEDS[engine.name].ready_within_s
    with step(f"{len(settings.runtime_ports)} runtimes, policy, telemetry, router, Envoy"):
        wait_until_ready(supervisor, settings, model=engine.model, within_s=within_s)
    folder = tenant_folder(settings.home, TENANTS[0])
    ttft_s = ask_once(address(settings.mesh_port), folder, engine.model)
    print(
        f"  first token {ttft_s * 1000:.0f} ms after the question, "
        f"{time.monotonic() - began_s:.1f} s after the start\n",
        flush=True,
    )
    print(welcome(settings, engine.model), flush=True)
    _watch(supervisor)


def _watch(supervisor: Supervisor) -> None:
    """Tells of every program that was started again, until one is given up."""
    tick = threading.Event()
    known = supervisor.states()
    while True:
        tick.wait(LOOK_EVERY_S)
        states = supervisor.states()
        for name, state in states.items():
            if state.pid and name in known and known[name].pid not in {0, state.pid}:
                _tell(f"evenflow: {name} was started again")
        raise_if_dying(state for state in states.values() if state.status == "FATAL")
        known |= {name: state for name, state in states.items() if state.pid}


def _tell(line: str) -> None:
    """Not worth ending for, when it goes to a file on a full disk."""
    try:
        print(line, file=sys.stderr, flush=True)
    except OSError as error:
        if error.errno not in FULL:
            raise


def _show_tail(log: Path) -> None:
    if log.exists():
        lines = log.read_text(errors="replace").splitlines()[-TAIL_LINES:]
        print("\n".join([f"--- the end of {log}", *lines, "---"]), file=sys.stderr, flush=True)
