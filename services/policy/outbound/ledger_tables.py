"""The ledger's tables. Times are seconds since 1970, units are what core/ledger.py counts."""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Double,
    Index,
    Integer,
    String,
    Table,
)

from services.policy.outbound.database import metadata

accounts = Table(
    "ledger_accounts",
    metadata,
    Column("budget", String, primary_key=True),
    Column("window_start_unix_s", BigInteger, primary_key=True, autoincrement=False),
    Column("spent", BigInteger, nullable=False),
    Column("held", BigInteger, nullable=False),
)

holdings = Table(
    "ledger_holdings",
    metadata,
    Column("router", String, primary_key=True),
    Column("budget", String, primary_key=True),
    Column("window_start_unix_s", BigInteger, primary_key=True, autoincrement=False),
    Column("units", BigInteger, nullable=False),
)

routers = Table(
    "ledger_routers",
    metadata,
    Column("name", String, primary_key=True),
    Column("seen_unix_s", Double, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("grants", JSON, nullable=False),  # [units, scarce, low] of each
    Column("gone", Boolean, nullable=False),
)

journals = Table(
    "ledger_journals",
    metadata,
    Column("name", String, primary_key=True),
    Column("endpoint", String, nullable=False),
    Column("told_until_unix_s", Double, nullable=False),
    Column("booked", BigInteger, nullable=False),
    Column("forgotten", Boolean, nullable=False),
)

attempts = Table(  # the record of spending
    "ledger_attempts",
    metadata,
    Column("reservation", String, primary_key=True),
    Column("attempt", Integer, primary_key=True, autoincrement=False),
    Column("number", BigInteger, nullable=False, unique=True),  # of the settlement
    Column("router", String, nullable=False),
    Column("journal", String, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("request_id", String, nullable=False),
    Column("tenant", String, nullable=False),
    Column("workload", String, nullable=False),
    Column("model", String, nullable=False),
    Column("model_version", String, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("cached_prompt_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("charges", JSON, nullable=False),  # [budget, window_start_unix_s, units] of each
    Column("ended_unix_s", Double, nullable=False),
    Column("presumed", Boolean, nullable=False),
    Column("booked_unix_s", Double, nullable=False),
    Index("ledger_attempts_of_router", "router", "number"),
    Index("ledger_attempts_by_age", "booked_unix_s"),
)

settlements = Table(  # one row: pruning must not make a number come again
    "ledger_settlements",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("last_number", BigInteger, nullable=False),
)
