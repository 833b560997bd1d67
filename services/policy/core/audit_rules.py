"""Reads what becomes of the audit log: the file's `audit`."""

from services.policy.core import fields
from services.policy.core.fields import Notes
from services.policy.core.nodes import Node

_LONGEST_DAYS = 36_500


def read_keep_days(node: Node | None, notes: Notes) -> int:
    """How long entries are kept. 0: for ever."""
    if node is None:
        return 0
    found = fields.entries(node, "audit", notes, required=("keep_days",))
    days = found.get("keep_days")
    return fields.whole(days, "audit.keep_days", notes, between=(1, _LONGEST_DAYS))
