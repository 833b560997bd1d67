"""The ledger of budgets."""

import sqlalchemy as sa
from alembic import op

revision = "ledger"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "ledger_accounts",
        sa.Column("budget", sa.String, primary_key=True),
        sa.Column("window_start_unix_s", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("spent", sa.BigInteger, nullable=False),
        sa.Column("held", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "ledger_holdings",
        sa.Column("router", sa.String, primary_key=True),
        sa.Column("budget", sa.String, primary_key=True),
        sa.Column("window_start_unix_s", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("units", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "ledger_routers",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("seen_unix_s", sa.Double, nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("grants", sa.JSON, nullable=False),
        sa.Column("gone", sa.Boolean, nullable=False),
    )
    op.create_table(
        "ledger_journals",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("endpoint", sa.String, nullable=False),
        sa.Column("told_until_unix_s", sa.Double, nullable=False),
        sa.Column("booked", sa.BigInteger, nullable=False),
        sa.Column("forgotten", sa.Boolean, nullable=False),
    )
    _create_attempts()
    settlements = op.create_table(
        "ledger_settlements",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("last_number", sa.BigInteger, nullable=False),
    )
    op.bulk_insert(settlements, [{"id": 1, "last_number": 0}])


def _create_attempts() -> None:
    op.create_table(
        "ledger_attempts",
        sa.Column("reservation", sa.String, primary_key=True),
        sa.Column("attempt", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("number", sa.BigInteger, nullable=False, unique=True),
        sa.Column("router", sa.String, nullable=False),
        sa.Column("journal", sa.String, nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        *(
            sa.Column(name, sa.String, nullable=False)
            for name in ("request_id", "tenant", "workload", "model", "model_version")
        ),
        *(
            sa.Column(name, sa.BigInteger, nullable=False)
            for name in ("prompt_tokens", "cached_prompt_tokens", "output_tokens")
        ),
        sa.Column("charges", sa.JSON, nullable=False),
        sa.Column("ended_unix_s", sa.Double, nullable=False),
        sa.Column("presumed", sa.Boolean, nullable=False),
        sa.Column("booked_unix_s", sa.Double, nullable=False),
    )
    op.create_index("ledger_attempts_of_router", "ledger_attempts", ["router", "number"])
    op.create_index("ledger_attempts_by_age", "ledger_attempts", ["booked_unix_s"])
