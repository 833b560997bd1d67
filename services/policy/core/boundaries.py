"""Where tenants and classes may run: pools, and what is odd about them in a policy file."""

import re
from collections.abc import Sequence

from services.policy.core import fields
from services.policy.core.fields import Notes
from services.policy.core.nodes import Node
from services.policy.core.tenants import ClassRules, Tenant, WorkloadClass

_POOL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,62}")
_POOL_EXPECTED = "1 to 63 letters, digits, '.', '_' and '-'"


def read_pool(node: Node | None, at: str, notes: Notes) -> str:
    """Empty where there is none."""
    return fields.text(node, at, notes, pattern=_POOL, expected=_POOL_EXPECTED) or ""


def note_boundaries(
    nodes: Sequence[Node],
    tenants: Sequence[Tenant | None],
    classes: Sequence[ClassRules],
    notes: Notes,
) -> None:
    """A tenant's own pool serves nobody else, so no class may have it; and high-risk requests in
    the shared pool are worth a warning."""
    of_class = {each.pool: each.workload_class for each in classes if each.pool}
    guarded = WorkloadClass.HIGH_RISK in of_class.values()
    for index, (node, tenant) in enumerate(zip(nodes, tenants, strict=True)):
        if tenant is None:
            continue
        taken = of_class.get(tenant.pool) if tenant.pool else None
        if taken is not None:
            at = f"tenants[{index}].pool"
            notes.add(node, at, f"{tenant.pool!r} is the pool of the class {taken.value} already")
        if not tenant.pool and not guarded and WorkloadClass.HIGH_RISK in tenant.workload_classes:
            notes.warn(
                node,
                f"tenants[{index}]",
                f"{tenant.id} may use high_risk, but neither it nor the class has a pool:"
                " such requests run in the shared one",
            )
