"""Who owns which name: no two tenants may be the same caller.

An identity that two tenants claim would make the one decision that everything rests on, who asks,
a matter of order in a file.
"""

from dataclasses import dataclass

from services.policy.core.fields import Notes
from services.policy.core.nodes import Node


@dataclass(frozen=True, slots=True)
class _Claim:
    tenant: int  # index in the file
    node: Node
    field: str


class Ownership:
    def __init__(self) -> None:
        self._tenants: dict[str, Node] = {}
        self._keys: dict[bytes, Node] = {}
        self._spiffe_ids: dict[str, _Claim] = {}

    def claim_tenant(self, name: str, node: Node, at: str, notes: Notes) -> None:
        first = self._tenants.setdefault(name, node)
        if first is not node:
            notes.add(node, at, f"{name!r} is taken by the tenant on line {first.line}")

    def claim_key(self, sha256: bytes, node: Node, at: str, notes: Notes) -> None:
        first = self._keys.setdefault(sha256, node)
        if first is not node:
            notes.add(node, at, f"is the key of line {first.line} again")

    def claim_spiffe_id(self, name: str, node: Node, at: str, notes: Notes, *, tenant: int) -> None:
        claim = _Claim(tenant, node, at)
        first = self._spiffe_ids.setdefault(name, claim)
        if first is not claim:
            notes.add(node, at, f"{name} is claimed on line {first.node.line} already")

    def note_overlaps(self, notes: Notes) -> None:
        """One tenant may name a workload beside its "*"; two tenants may not share any."""
        for name, claim in self._spiffe_ids.items():
            prefix, _, workload = name.rpartition("/")
            wide = self._spiffe_ids.get(f"{prefix}/*")
            if wide is None or workload == "*" or wide.tenant == claim.tenant:
                continue
            later, earlier = sorted((claim, wide), key=_place, reverse=True)
            other = name if later is wide else f"{prefix}/*"
            notes.add(later.node, later.field, f"overlaps with {other} on line {earlier.node.line}")


def _place(claim: _Claim) -> tuple[int, int]:
    return claim.node.line, claim.node.column
