"""`evenflow salts rotate`: a line more that routers can read, and the others as before."""

import os
from pathlib import Path

import pytest

from evenflow.home import salt_file
from services.router.core.salts import secret_in_force
from tests.unit.client.test_command import evenflow

BARE = "ab" * 32


@pytest.mark.parametrize("before", [BARE, f"0:{BARE}", f"0:{BARE}\n41:{'cd' * 32}\n"])
def test_each_rotation_is_an_epoch_more(before: str, tmp_path: Path) -> None:
    path = salt_file(tmp_path)
    path.parent.mkdir()
    path.write_text(before)
    epoch = secret_in_force(path.read_bytes()).epoch

    results = [evenflow("salts", "rotate", home=tmp_path) for _ in range(2)]

    assert [each.exit_code for each in results] == [0, 0]
    assert f"epoch {epoch + 2} is in force" in results[1].stdout.replace("\n", " ")
    in_force = secret_in_force(path.read_bytes())
    assert in_force.epoch == epoch + 2
    assert in_force.secret.hex() not in results[1].stdout
    assert path.read_text().startswith(before)


def test_without_a_mesh_it_says_how_to_get_one(tmp_path: Path) -> None:
    result = evenflow("salts", "rotate", home=tmp_path)

    assert result.exit_code == os.EX_CONFIG
    assert "make run" in result.stderr
