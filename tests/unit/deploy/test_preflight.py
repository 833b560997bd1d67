"""What keeps the mesh from starting is said before anything is started."""

import socket
from pathlib import Path

import psutil
import pytest

from deploy.local.preflight import (
    CannotRun,
    check_disk,
    check_memory,
    check_ports,
    only_one,
)


def test_a_port_in_use_names_port_process_and_variable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        with pytest.raises(CannotRun) as caught:
            check_ports({"EVENFLOW_MESH_PORT": number})

    own = psutil.Process()
    assert f"port {number} is in use by {own.name()} (pid {own.pid})" in str(caught.value)
    assert "set EVENFLOW_MESH_PORT to another" in str(caught.value)


def test_all_ports_in_use_are_named_at_once() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.create_server(("127.0.0.1", 0)) as two,
    ):
        ports = {"EVENFLOW_A": one.getsockname()[1], "EVENFLOW_B": two.getsockname()[1]}
        with pytest.raises(CannotRun, match=r"EVENFLOW_A(.|\n)*EVENFLOW_B"):
            check_ports(ports)


def test_a_free_port_is_no_obstacle() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        number = probe.getsockname()[1]

    check_ports({"EVENFLOW_MESH_PORT": number})


def test_too_little_memory_says_how_much_and_how_to_need_less() -> None:
    with pytest.raises(CannotRun, match=r"2 x vllm needs 1.* EVENFLOW_RUNTIME_PORTS=9101"):
        check_memory(10**24, what="2 x vllm")


def test_too_little_disk_says_where(tmp_path: Path) -> None:
    with pytest.raises(CannotRun, match=f"of disk under {tmp_path}"):
        check_disk(tmp_path, 10**24, what="a first start", elsewhere="EVENFLOW_DOWNLOADS")


def test_a_second_run_in_the_same_home_is_told_of_the_first(tmp_path: Path) -> None:
    pid = psutil.Process().pid

    told = pytest.raises(CannotRun, match=rf"already running .*pid {pid}\)")
    with only_one(tmp_path), told, only_one(tmp_path):
        pass

    with only_one(tmp_path):
        pass
