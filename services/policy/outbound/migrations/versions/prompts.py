"""The registry of prompts: versions, the moves of their labels, and one number for both."""

import sqlalchemy as sa
from alembic import op

revision = "prompts"
down_revision = "policycode"


def upgrade() -> None:
    op.create_table(
        "prompt_revisions",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
    )
    op.execute("INSERT INTO prompt_revisions (id, revision) VALUES (1, 0)")
    op.create_table(
        "prompt_versions",
        sa.Column("tenant", sa.String(63), primary_key=True),
        sa.Column("name", sa.String(63), primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("content", sa.Text, nullable=False),
        sa.Column("created_unix_s", sa.Double, nullable=False),
        sa.Column("created_by", sa.Text, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False, unique=True),
    )
    op.create_table(
        "prompt_moves",
        sa.Column("tenant", sa.String(63), primary_key=True),
        sa.Column("name", sa.String(63), primary_key=True),
        sa.Column("label", sa.String(63), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("shares", sa.Text, nullable=False),
        sa.Column("before", sa.Integer, nullable=False),
        sa.Column("rolled_back", sa.Boolean, nullable=False),
        sa.Column("moved_unix_s", sa.Double, nullable=False),
        sa.Column("moved_by", sa.Text, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False, unique=True),
    )
