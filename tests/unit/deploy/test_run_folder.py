"""The folder of sockets is short whatever the home is, and nothing of it is left."""

from pathlib import Path

from deploy.local.run import LONGEST_RUN_FOLDER, run_folder

LONG = ("long-ish",) * (LONGEST_RUN_FOLDER // 8)


def test_a_long_home_leads_to_a_folder_that_is_short_enough(tmp_path: Path) -> None:
    home = tmp_path.joinpath(*LONG)
    home.mkdir(parents=True)

    with run_folder(home) as folder:
        assert len(bytes(folder)) <= LONGEST_RUN_FOLDER
        assert folder == (home / "run").resolve()

    assert not folder.exists()
    assert list(home.iterdir()) == []


def test_what_a_killed_run_left_is_in_nobody_s_way(tmp_path: Path) -> None:
    home = tmp_path.joinpath(*LONG)
    home.mkdir(parents=True)
    (home / "run").symlink_to(tmp_path / "gone")

    with run_folder(home) as folder:
        assert list(folder.iterdir()) == []
