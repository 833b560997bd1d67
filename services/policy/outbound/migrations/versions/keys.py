"""Keys that policy makes."""

import sqlalchemy as sa
from alembic import op

revision = "keys"
down_revision = "ledger"


def upgrade() -> None:
    op.create_table(
        "api_keys",
        sa.Column("tenant", sa.String(63), primary_key=True),
        sa.Column("id", sa.String(63), primary_key=True),
        sa.Column("workload", sa.String(63), nullable=False),
        sa.Column("hmac_sha256", sa.LargeBinary(32), nullable=False),
        sa.Column("created_unix_s", sa.Float(53), nullable=False),
        sa.Column("expires_unix_s", sa.Float(53)),
        sa.Column("rotated_unix_s", sa.Float(53)),
        sa.Column("former_hmac_sha256", sa.LargeBinary(32)),
        sa.Column("former_expires_unix_s", sa.Float(53)),
    )
    revisions = op.create_table(
        "api_key_revision",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
    )
    op.bulk_insert(revisions, [{"id": 1, "revision": 0}])
