from pathlib import Path

from deploy.local.settings import Settings
from tests.config_table import documented, expected

README = Path(__file__).resolve().parents[3] / "README.md"


def test_the_settings_table_is_what_make_run_reads() -> None:
    table = documented(README)

    assert table.pop("ENGINE")
    assert table == expected(Settings, "EVENFLOW")
