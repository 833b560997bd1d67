"""supervisord's configuration, read back by supervisord's own reader."""

from pathlib import Path
from typing import Any

from supervisor.options import ServerOptions

from deploy.local.supervision import Program, configured


def read_back(programs: list[Program], folder: Path) -> dict[str, Any]:
    """The programs as supervisord would run them, by name."""
    file = folder / "supervisord.conf"
    file.write_text(
        configured(programs, socket=folder / "s.sock", log_folder=folder, directory=folder)
    )
    options = ServerOptions()
    options.realize(["-c", str(file)], doc="")
    return {
        each.name: each for group in options.process_group_configs for each in group.process_configs
    }


def test_commands_and_values_arrive_as_they_were_given(tmp_path: Path) -> None:
    odd = "/a path/100%/x"
    program = Program("policy", ("run", odd), "backing", 2, {"POLICY_FILE": odd, "B": "a,b=c"})

    found = read_back([program], tmp_path)["policy"]

    assert found.command.endswith(f"run '{odd}'")
    assert found.environment == {"POLICY_FILE": odd, "B": "a,b=c"}


def test_each_program_ends_with_its_whole_group_in_time(tmp_path: Path) -> None:
    found = read_back([Program("policy", ("run",), "backing", 2)], tmp_path)["policy"]

    assert (found.stopasgroup, found.killasgroup, found.stopwaitsecs) == (True, True, 2)
    assert found.stdout_logfile == str(tmp_path / "policy.log")


def test_no_tcp_port_is_opened(tmp_path: Path) -> None:
    text = configured([], socket=tmp_path / "s.sock", log_folder=tmp_path, directory=tmp_path)

    assert "inet_http_server" not in text
