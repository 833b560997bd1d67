"""What `make run` can be told, and what it refuses."""

from pathlib import Path

import pytest

from deploy.local.programs import own_settings
from deploy.local.settings import Settings, asked_engine
from services.chassis.environ import InvalidConfig


def test_nothing_has_to_be_told() -> None:
    settings = Settings.from_environ({})

    assert settings.home == Path.cwd() / ".evenflow"
    assert settings.downloads == settings.home
    assert list(settings.ports().values()) == [8443, 8080, 9010, 9020, 9030, 9031, 9101, 9102]


def test_every_port_is_named_by_the_variable_that_sets_it() -> None:
    for variable, number in Settings.from_environ({}).ports().items():
        name = variable.partition(" ")[0]
        moved = Settings.from_environ({name: "7777"})
        assert 7777 in moved.ports().values(), f"{variable} moves nothing from {number}"


@pytest.mark.parametrize(
    ("variables", "complaint"),
    [
        ({"EVENFLOW_MESH_PORT": "0"}, "EVENFLOW_MESH_PORT: must be a port"),
        ({"EVENFLOW_MESH_PORT": "9101"}, "used once, got 9101 twice"),
        ({"EVENFLOW_RUNTIME_PORTS": ","}, "at least one port"),
        ({"EVENFLOW_RUNTIME_PORTS": "9101,x"}, "EVENFLOW_RUNTIME_PORTS"),
        ({"EVENFLOW_HOME": "/a;b"}, "without quotes, % or ;"),
    ],
)
def test_what_can_t_work_is_refused(variables: dict[str, str], complaint: str) -> None:
    with pytest.raises(InvalidConfig, match=complaint):
        Settings.from_environ(variables)


def test_the_engine_is_the_machine_s_choice_unless_it_is_asked_for() -> None:
    assert asked_engine({}) is None
    assert asked_engine({"ENGINE": "vllm"}) == "vllm"
    with pytest.raises(InvalidConfig, match="vllm or llamacpp, got simulated"):
        asked_engine({"ENGINE": "simulated"})


def test_a_runtime_can_be_told_what_the_others_are_not() -> None:
    told = {"RUNTIME_2_SIMULATED_SEED": "7", "RUNTIME_SIMULATED_SEED": "1", "OTHER": "x"}

    assert own_settings(2, told) == {"RUNTIME_SIMULATED_SEED": "7"}
    assert own_settings(1, told) == {}
