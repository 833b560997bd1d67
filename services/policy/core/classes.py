"""Reads what each workload class gets: the file's `classes`, by name of the class."""

from services.policy.core import fields
from services.policy.core.boundaries import read_pool
from services.policy.core.fields import Notes
from services.policy.core.ladders import read_ladder
from services.policy.core.nodes import Node
from services.policy.core.tenants import ClassRules, WorkloadClass

_NAMES = tuple(each.value for each in WorkloadClass)
_OPTIONAL = ("ladder", "resume", "cache_ttl_s", "pool")
_LONGEST_TTL_S = 86_400.0


def read_classes(node: Node | None, notes: Notes) -> tuple[ClassRules, ...]:
    if node is None:
        return ()
    found = fields.entries(node, "classes", notes, required=(), optional=_NAMES)
    return tuple(_rules(WorkloadClass(name), each, notes) for name, each in found.items())


def _rules(workload_class: WorkloadClass, node: Node, notes: Notes) -> ClassRules:
    at = f"classes.{workload_class.value}"
    found = fields.entries(node, at, notes, required=(), optional=_OPTIONAL)
    ttl, place = found.get("cache_ttl_s"), f"{at}.cache_ttl_s"
    if ttl is not None and workload_class is WorkloadClass.HIGH_RISK:
        notes.add(ttl, place, "answers of high_risk are never kept")
    return ClassRules(
        workload_class=workload_class,
        ladder=read_ladder(found.get("ladder"), f"{at}.ladder", notes, of=workload_class),
        resume=fields.flag(found.get("resume"), f"{at}.resume", notes),
        cache_ttl_s=fields.seconds(ttl, place, notes, at_most=_LONGEST_TTL_S),
        pool=read_pool(found.get("pool"), f"{at}.pool", notes),
    )
