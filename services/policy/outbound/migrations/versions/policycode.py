"""Policies that were in force, the pin and the shadow."""

import sqlalchemy as sa
from alembic import op

revision = "policycode"
down_revision = None

_DIGEST = sa.String(64)
_ACTOR = sa.String(2048)


def upgrade() -> None:
    op.create_table(
        "policy_contents",
        sa.Column("version", _DIGEST, primary_key=True),
        sa.Column("compressed", sa.LargeBinary, nullable=False),
        sa.Column("content_bytes", sa.BigInteger, nullable=False),
        sa.Column("tenants", sa.Integer, nullable=False),
    )
    for name, *columns in (
        ("policy_versions", sa.Column("cause", sa.String(16), nullable=False)),
        ("policy_pin", sa.Column("file_version", _DIGEST, nullable=False)),
        ("policy_shadow",),
    ):
        named = sa.ForeignKey("policy_contents.version")
        op.create_table(
            name,
            sa.Column("id", sa.Integer, primary_key=True),
            sa.Column("version", _DIGEST, named, nullable=False),
            sa.Column("since_unix_ms", sa.BigInteger, nullable=False),
            sa.Column("actor", _ACTOR, nullable=False),
            *columns,
        )
