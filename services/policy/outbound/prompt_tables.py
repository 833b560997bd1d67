"""The registry's tables, and what stands in their text columns."""

import json
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from services.policy.core.labels import Share
from services.policy.core.prompts import (
    Content,
    Defaults,
    Role,
    TemplateMessage,
    Type,
    Variable,
)
from services.policy.outbound.database import metadata

revisions = sa.Table(
    "prompt_revisions",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),  # 1, the only row
    # Of the last change; each takes the next, in the order in which they happen.
    sa.Column("revision", sa.BigInteger, nullable=False),
)
versions = sa.Table(
    "prompt_versions",
    metadata,
    sa.Column("tenant", sa.String(63), primary_key=True),
    sa.Column("name", sa.String(63), primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("content", sa.Text, nullable=False),  # JSON
    sa.Column("created_unix_s", sa.Double, nullable=False),
    sa.Column("created_by", sa.Text, nullable=False),
    sa.Column("revision", sa.BigInteger, nullable=False, unique=True),
)
moves = sa.Table(
    "prompt_moves",
    metadata,
    sa.Column("tenant", sa.String(63), primary_key=True),
    sa.Column("name", sa.String(63), primary_key=True),
    sa.Column("label", sa.String(63), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("shares", sa.Text, nullable=False),  # JSON: [[version, percent], ...]
    sa.Column("before", sa.Integer, nullable=False),
    sa.Column("rolled_back", sa.Boolean, nullable=False),
    sa.Column("moved_unix_s", sa.Double, nullable=False),
    sa.Column("moved_by", sa.Text, nullable=False),
    sa.Column("revision", sa.BigInteger, nullable=False, unique=True),
)


def content_text(content: Content) -> str:
    defaults = content.defaults
    return json.dumps(
        {
            "messages": [[each.role.value, each.content] for each in content.messages],
            "variables": [_variable_values(each) for each in content.variables],
            "model": content.model,
            "defaults": {
                "max_output_tokens": defaults.max_output_tokens,
                "temperature": defaults.temperature,
                "top_p": defaults.top_p,
                "stop": list(defaults.stop),
            },
        }
    )


def content_of(text: str) -> Content:
    said = json.loads(text)
    defaults = said["defaults"]
    return Content(
        messages=tuple(TemplateMessage(Role(role), words) for role, words in said["messages"]),
        variables=tuple(_variable(each) for each in said["variables"]),
        model=said["model"],
        defaults=Defaults(**{**defaults, "stop": tuple(defaults["stop"])}),
    )


def shares_text(shares: Sequence[Share]) -> str:
    return json.dumps([[each.version, each.percent] for each in shares])


def shares_of(text: str) -> tuple[Share, ...]:
    return tuple(Share(version, percent) for version, percent in json.loads(text))


def _variable_values(variable: Variable) -> dict[str, Any]:
    return {
        "name": variable.name,
        "type": variable.type.value,
        "default": variable.default,
        "max_length": variable.max_length,
        "values": list(variable.values),
    }


def _variable(said: dict[str, Any]) -> Variable:
    return Variable(**{**said, "type": Type(said["type"]), "values": tuple(said["values"])})
