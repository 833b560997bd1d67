"""`make run`, from the first line to the last process: real engine, real Envoy, real signals."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from evenflow.blocking import BlockingClient
from evenflow.home import tenant_folder
from tests.integration.local.local_run import (
    ENDED_WITHIN_S,
    LocalRun,
    local_run,
    run_to_its_end,
    surroundings,
)
from tests.processes import ended

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRun]:
    with local_run(tmp_path_factory.mktemp("home")) as run:
        yield run


def evenflow(mesh: LocalRun, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = "from evenflow.cli.main import main; main()"
    environ = {**mesh.environ, "COLUMNS": "200"}
    return ended(sys.executable, "-c", program, *arguments, environ=environ)


def test_a_tenant_s_question_is_answered_before_it_says_ready(mesh: LocalRun) -> None:
    before, _, after = mesh.output().partition("evenflow: ready")

    assert "Paris" in before
    assert "first token" in before
    for tried_next in ("curl", "openai", "evenflow chat"):
        assert tried_next in after


def test_every_process_is_under_the_supervisor(mesh: LocalRun) -> None:
    names = ("services.policy", "services.telemetry", "services.router", "envoy")

    (supervisord,) = mesh.process.children()

    assert len(supervisord.children()) == len(names) + 2
    for name in names:
        assert mesh.program(name).ppid() == supervisord.pid


def test_each_tenant_has_a_key_and_a_certificate(mesh: LocalRun) -> None:
    for tenant in ("acme", "globex"):
        assert (mesh.home / "api-keys" / tenant).read_text().startswith("evf_")
        address = f"127.0.0.1:{mesh.environ['EVENFLOW_MESH_PORT']}"
        folder = tenant_folder(mesh.home, tenant)
        with BlockingClient(address, certificate_folder=folder) as client:
            assert len(client.list_models()) == 1


def test_the_command_finds_the_mesh(mesh: LocalRun) -> None:
    answered = evenflow(mesh, "chat", "Say hello.", "--max-output-tokens", "8")
    request_id = answered.stderr.rsplit("request ", 1)[-1].strip()
    seen = evenflow(mesh, "status")
    why = evenflow(mesh, "explain", request_id)

    assert answered.returncode == 0, answered.stderr
    assert seen.stdout.count(" ready ") == 3, seen.stdout + seen.stderr  # endpoints, model
    assert seen.stdout.count("serving") == 3, seen.stdout
    assert "by acme/web" in why.stdout, why.stderr


def test_a_new_workload_s_certificate_works_at_once(mesh: LocalRun) -> None:
    issued = evenflow(mesh, "certs", "issue", "acme", "--workload", "nightly")
    options = ("--workload", "nightly", "--max-output-tokens", "4")
    answered = evenflow(mesh, "chat", "Hello!", *options)

    assert (issued.returncode, answered.returncode) == (0, 0), issued.stderr + answered.stderr


def test_a_second_run_in_the_same_home_is_told_of_the_first(mesh: LocalRun) -> None:
    second = run_to_its_end(mesh.environ)

    assert second.returncode == 1
    assert f"already running in {mesh.home} (pid {mesh.process.pid})" in second.stderr


def test_a_port_in_use_is_said_before_anything_starts(tmp_path: Path) -> None:
    environ = surroundings(tmp_path)
    with socket.create_server(("127.0.0.1", int(environ["EVENFLOW_FRONTEND_PORT"]))):
        refused = run_to_its_end(environ)

    assert refused.returncode == 1
    assert f"port {environ['EVENFLOW_FRONTEND_PORT']} is in use by" in refused.stderr
    assert "set EVENFLOW_FRONTEND_PORT to another" in refused.stderr
    assert not (tmp_path / "logs").exists()


def test_a_service_that_does_not_come_up_is_named_with_its_log(tmp_path: Path) -> None:
    environ = surroundings(tmp_path)
    refused = run_to_its_end({**environ, "POLICY_HEARTBEAT_S": "never"})

    assert refused.returncode == 1
    assert "policy did not stay up" in refused.stderr
    assert "POLICY_HEARTBEAT_S" in refused.stderr
    assert not (tmp_path / "run").exists()
    assert not [p for p in psutil.process_iter(["cmdline"]) if str(tmp_path) in str(p.info)]


@pytest.mark.parametrize(
    "strike",
    [
        pytest.param(lambda mesh: os.killpg(mesh.process.pid, signal.SIGINT), id="Ctrl-C"),
        pytest.param(lambda mesh: os.killpg(mesh.process.pid, signal.SIGHUP), id="terminal closed"),
        pytest.param(lambda mesh: mesh.process.terminate(), id="SIGTERM"),
        pytest.param(lambda mesh: mesh.process.children()[0].kill(), id="supervisord killed"),
    ],
)
def test_its_end_leaves_no_process_and_no_socket(
    strike: Callable[[LocalRun], None], tmp_path: Path
) -> None:
    with local_run(tmp_path) as mesh:
        family = mesh.family()
        sockets = mesh.sockets()
        assert len(family) >= 8
        assert len(sockets) >= 4  # supervisord's, the router's, Envoy's, the engines'

        strike(mesh)
        _, left = psutil.wait_procs(family, timeout=ENDED_WITHIN_S)

    assert left == []
    assert [path for path in sockets if path.exists()] == []


def test_a_home_with_a_long_path_has_its_sockets_elsewhere(tmp_path: Path) -> None:
    home = tmp_path / ("long" * 20)
    with local_run(home) as mesh:
        sockets = mesh.sockets()

    assert not any(path.is_relative_to(home) for path in sockets)
    assert not any(path.parent.exists() for path in sockets)
