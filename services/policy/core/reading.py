"""Turns a policy file's nodes into a policy, or into the complete list of what is wrong with it."""

import re

from services.policy.core import fields
from services.policy.core.audit_rules import read_keep_days
from services.policy.core.boundaries import note_boundaries, read_pool
from services.policy.core.budgets import read_budgets
from services.policy.core.classes import read_classes
from services.policy.core.fields import Notes
from services.policy.core.limits import read_limits
from services.policy.core.nodes import InvalidPolicy, Node, Problem, kind_of
from services.policy.core.ownership import Ownership
from services.policy.core.prices import read_prices
from services.policy.core.tenants import ApiKey, Policy, Tenant, WorkloadClass

_REQUIRED = ("id", "models", "workload_classes", "default_workload_class")
_OPTIONAL = (
    *("spiffe_ids", "api_keys", "max_context_tokens", "max_output_tokens"),
    *("weight", "pool", "limits", "budgets"),
)
_HIGHEST_WEIGHT = 100
_KEY_FIELDS = ("id", "hash", "workload")

_TENANT = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_TENANT_EXPECTED = "1 to 63 lower-case letters, digits and '-'"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,62}")
_NAME_EXPECTED = "1 to 63 letters, digits, '.', '_' and '-'"
_MODEL = re.compile(r"\*|[A-Za-z0-9][A-Za-z0-9._:/@-]{0,127}")
_MODEL_EXPECTED = 'a model name or "*"'
_HASH = re.compile(r"sha256:[0-9a-f]{64}")
_HASH_EXPECTED = "'sha256:' and 64 lower-case hexadecimal digits"
_CLASS = re.compile("|".join(each.value for each in WorkloadClass))
_CLASS_EXPECTED = f"one of {', '.join(each.value for each in WorkloadClass)}"


def read_policy(root: Node | None, trust_domain: str, *, version: str) -> Policy:
    """All that a file says, tenants in its order. `root` None: the file holds nothing.

    Raises:
        InvalidPolicy: anything at all is wrong; it lists everything.
    """
    if root is None:
        raise InvalidPolicy([Problem(1, 1, "", "the file is empty; write 'tenants: []' for none")])
    notes = Notes()
    optional = ("classes", "prices", "audit")
    found = fields.entries(root, "", notes, required=("tenants",), optional=optional)
    reading = _Reading(trust_domain, notes, priced="prices" in found)
    currency, prices = read_prices(found.get("prices"), notes)
    nodes = fields.items(found.get("tenants"), "tenants", notes)
    tenants = [reading.tenant(node, index) for index, node in enumerate(nodes)]
    classes = read_classes(found.get("classes"), notes)
    keep_days = read_keep_days(found.get("audit"), notes)
    reading.ownership.note_overlaps(notes)
    note_boundaries(nodes, tenants, classes, notes)
    if notes.problems:
        raise InvalidPolicy(notes.problems)
    known = [tenant for tenant in tenants if tenant is not None]
    return Policy(version, known, classes, currency, prices, notes.warnings, keep_days)


class _Reading:
    """One pass over one file."""

    def __init__(self, trust_domain: str, notes: Notes, *, priced: bool) -> None:
        self.notes = notes
        self._priced = priced
        self.ownership = Ownership()
        prefix = f"spiffe://{trust_domain}/tenant/"
        self._spiffe_id = re.compile(rf"{re.escape(prefix)}{_NAME.pattern}/(\*|{_NAME.pattern})")
        self._spiffe_expected = f"{prefix}<tenant>/<workload> or {prefix}<tenant>/*"

    def tenant(self, node: Node, index: int) -> Tenant | None:
        """None only where a problem was noted."""
        at, notes = f"tenants[{index}]", self.notes
        found = fields.entries(node, at, notes, required=_REQUIRED, optional=_OPTIONAL)
        name = self._id(found.get("id"), f"{at}.id")
        spiffe_ids = self._spiffe_ids(found.get("spiffe_ids"), f"{at}.spiffe_ids", index)
        api_keys = self._api_keys(found.get("api_keys"), f"{at}.api_keys")
        if found and not spiffe_ids and "api_keys" not in found:
            notes.add(node, at, "needs spiffe_ids or api_keys, or nobody could act as it")
        models = self._models(found.get("models"), f"{at}.models")
        classes, default = self._classes(found, at)
        context, output = self._limits(found, at)
        limits = read_limits(found.get("limits"), f"{at}.limits", notes)
        budgets = read_budgets(found.get("budgets"), f"{at}.budgets", notes, priced=self._priced)
        if name is None or default is None:
            return None
        return Tenant(
            id=name,
            spiffe_ids=spiffe_ids,
            api_keys=api_keys,
            models=models,
            workload_classes=classes,
            default_workload_class=default,
            max_context_tokens=context,
            max_output_tokens=output,
            weight=fields.whole(
                found.get("weight"), f"{at}.weight", notes, between=(1, _HIGHEST_WEIGHT)
            ),
            pool=read_pool(found.get("pool"), f"{at}.pool", notes),
            limits=limits,
            budgets=budgets,
        )

    def _id(self, node: Node | None, at: str) -> str | None:
        name = fields.text(node, at, self.notes, pattern=_TENANT, expected=_TENANT_EXPECTED)
        if node is not None and name is not None:
            self.ownership.claim_tenant(name, node, at, self.notes)
        return name

    def _spiffe_ids(self, node: Node | None, at: str, tenant: int) -> tuple[str, ...]:
        found = []
        for index, item in enumerate(fields.items(node, at, self.notes)):
            place = f"{at}[{index}]"
            name = fields.text(
                item, place, self.notes, pattern=self._spiffe_id, expected=self._spiffe_expected
            )
            if name is not None:
                self.ownership.claim_spiffe_id(name, item, place, self.notes, tenant=tenant)
                found.append(name)
        return tuple(found)

    def _api_keys(self, node: Node | None, at: str) -> tuple[ApiKey, ...]:
        found: dict[str, ApiKey] = {}
        for index, item in enumerate(fields.items(node, at, self.notes)):
            place = f"{at}[{index}]"
            key = self._api_key(item, place)
            if key is not None and key.id in found:
                self.notes.add(item, f"{place}.id", f"{key.id!r} names another key of this tenant")
            elif key is not None:
                found[key.id] = key
        return tuple(found.values())

    def _api_key(self, node: Node, at: str) -> ApiKey | None:
        notes = self.notes
        found = fields.entries(node, at, notes, required=_KEY_FIELDS)
        name = fields.text(
            found.get("id"), f"{at}.id", notes, pattern=_NAME, expected=_NAME_EXPECTED
        )
        digest = self._sha256(found.get("hash"), f"{at}.hash")
        workload = fields.text(
            found.get("workload"), f"{at}.workload", notes, pattern=_NAME, expected=_NAME_EXPECTED
        )
        if name is None or digest is None or workload is None:
            return None
        return ApiKey(name, digest, workload)

    def _sha256(self, node: Node | None, at: str) -> bytes | None:
        text = fields.text(node, at, self.notes, pattern=_HASH, expected=_HASH_EXPECTED)
        if node is None or text is None:
            return None
        digest = bytes.fromhex(text.removeprefix("sha256:"))
        self.ownership.claim_key(digest, node, at, self.notes)
        return digest

    def _models(self, node: Node | None, at: str) -> tuple[str, ...]:
        models = self._names(node, at, _MODEL, _MODEL_EXPECTED)
        if node is not None and "*" in models and len(models) > 1:
            self.notes.add(node, at, '"*" stands for all models, so it must stand alone')
        return models

    def _classes(
        self, found: dict[str, Node], at: str
    ) -> tuple[tuple[WorkloadClass, ...], WorkloadClass | None]:
        names = self._names(
            found.get("workload_classes"), f"{at}.workload_classes", _CLASS, _CLASS_EXPECTED
        )
        node, place = found.get("default_workload_class"), f"{at}.default_workload_class"
        default = fields.text(node, place, self.notes, pattern=_CLASS, expected=_CLASS_EXPECTED)
        classes = tuple(WorkloadClass(name) for name in names)
        if node is None or default is None:
            return classes, None
        if names and default not in names:
            self.notes.add(node, place, f"{default} is not among workload_classes")
        return classes, WorkloadClass(default)

    def _names(
        self, node: Node | None, at: str, pattern: re.Pattern[str], expected: str
    ) -> tuple[str, ...]:
        """At least one, none twice."""
        items = fields.items(node, at, self.notes)
        found: dict[str, None] = {}
        for index, item in enumerate(items):
            place = f"{at}[{index}]"
            name = fields.text(item, place, self.notes, pattern=pattern, expected=expected)
            if name is not None and name in found:
                self.notes.add(item, place, f"{name!r} is listed twice")
            elif name is not None:
                found[name] = None
        if node is not None and not items and kind_of(node) == "a list":
            self.notes.add(node, at, "must name at least one")
        return tuple(found)

    def _limits(self, found: dict[str, Node], at: str) -> tuple[int, int]:
        node = found.get("max_output_tokens")
        context = fields.tokens(
            found.get("max_context_tokens"), f"{at}.max_context_tokens", self.notes
        )
        output = fields.tokens(node, f"{at}.max_output_tokens", self.notes)
        if node is not None and 0 < context < output:
            message = f"{output} is more than max_context_tokens, {context}"
            self.notes.add(node, f"{at}.max_output_tokens", message)
        return context, output
