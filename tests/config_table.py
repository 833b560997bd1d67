"""Compares the configuration table of a service's README with the service's config."""

import re
from dataclasses import MISSING, fields
from pathlib import Path

_ROW = re.compile(r"^\| `([A-Z_]+)` \| (.*?) \| (.*?) \|$", re.MULTILINE)


def documented(readme: Path) -> dict[str, tuple[str, str]]:
    """Variable to default ("required" or as in the table) and meaning."""
    return {name: (default, meaning) for name, default, meaning in _ROW.findall(readme.read_text())}


def expected(config: type, prefix: str) -> dict[str, tuple[str, str]]:
    return {
        f"{prefix}_{each.name.upper()}": (_default(each.default), each.metadata["help"])
        for each in fields(config)
    }


def _default(value: object) -> str:
    if value is MISSING:
        return "required"
    if isinstance(value, tuple):
        value = ",".join(map(str, value)) or None
    return "unset" if value is None else f"`{getattr(value, 'value', value)}`"
