"""The JSON schema, which completes what people write, says what the service reads."""

import json
import re
from pathlib import Path
from string import Template
from typing import Any

import pytest
import yaml
from hypothesis import given
from jsonschema import Draft202012Validator

from evenflow.cli.policy import schema
from services.policy.core.nodes import InvalidPolicy
from services.policy.core.tenants import Tenant
from tests.unit.policy.policies import ACME, HASH, as_fields, policy_of, tenant_lists

EXAMPLE = Path("services/policy/example.yaml")
DEMO = Path("deploy/local/tenants.yaml")
SCHEMA: dict[str, Any] = json.loads(schema())
VALIDATOR = Draft202012Validator(SCHEMA)
LADDER = "classes:\n  interactive:\n    ladder: [{when: saturated, rung: refuse}]\n"

PRICES = 'prices: {currency: USD, models: {"*": {prompt: 0.15, output: 0.6}}}'


def faults(document: str) -> list[Any]:
    return list(VALIDATOR.iter_errors(yaml.safe_load(document)))


def test_it_is_a_schema() -> None:
    Draft202012Validator.check_schema(SCHEMA)


def test_our_own_files_are_good() -> None:
    demo = Template(DEMO.read_text()).substitute(
        acme_key_sha256="ab" * 32, globex_key_sha256="cd" * 32
    )

    assert not faults(EXAMPLE.read_text())
    assert not faults(demo)


@given(tenant_lists())
def test_whatever_is_read_is_good(tenants: list[Tenant]) -> None:
    assert not list(VALIDATOR.iter_errors({"tenants": [as_fields(each) for each in tenants]}))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("    models: [smollm2]\n", ""),
        ("models: [smollm2]", "models: []"),
        ("models: [smollm2]", 'models: ["*", smollm2]'),
        ("models: [smollm2]", "model: [smollm2]"),
        ("id: acme", "id: Acme"),
        ("interactive, batch]", "interactive, interactive]"),
        ("_class: interactive", "_class: fast"),
        ("2048", "-1"),
        ("512", "512\n    limits: {kv_share: 1.5}"),
        ("512", "512\n    limits: {requests_per_minute: -1}"),
        ("512", "512\n    limits: {tokens_per_minute: many}"),
        ("2048", '"2048"'),
        (HASH, "sha256:ab"),
        ("tenant/acme/*]", "tenant/*/web]"),
        ("        workload: web\n", ""),
        ("tenants:", f"{LADDER.replace('refuse', 'smaller_output')}tenants:"),
        ("tenants:", f"{LADDER.replace('}]', ', model: tiny}]')}tenants:"),
        ("tenants:", f"{LADDER.replace('saturated', 'full')}tenants:"),
        ("tenants:", f"{LADDER.replace('interactive', 'fast')}tenants:"),
        ("tenants:", "classes: {high_risk: {cache_ttl_s: 5}}\ntenants:"),
        ("tenants:", "classes: {batch: {cache_ttl_s: 100000}}\ntenants:"),
        ("tenants:", "classes: {batch: {resume: 1}}\ntenants:"),
        ("tenants:", "budgets: []\ntenants:"),
        ("tenants:", "prices: {currency: usd, models: {}}\ntenants:"),
        ("tenants:", f"{PRICES}\ntenants:".replace("prompt: 0.15", "prompt: -1")),
        ("tenants:", f"{PRICES}\ntenants:".replace("prompt: 0.15, ", "")),
        ("models: [smollm2]", "models: [smollm2]\n    budgets: [{id: a, window: day}]"),
        ("models: [smollm2]", "models: [smollm2]\n    budgets: [{id: a, window: week, tokens: 1}]"),
        ("models: [smollm2]", "models: [smollm2]\n    budgets: [{id: a, window: day, tokens: 0}]"),
    ],
)
def test_what_is_refused_is_faulty(before: str, after: str) -> None:
    assert before in ACME
    document = ACME.replace(before, after, 1)

    with pytest.raises(InvalidPolicy):
        policy_of(document)
    assert faults(document)


@pytest.mark.parametrize(
    ("place", "fields"),
    [
        ("", SCHEMA["properties"]),
        ("classes.", SCHEMA["properties"]["classes"]["properties"]),
        ("tenants[0].", SCHEMA["$defs"]["tenant"]["properties"]),
        ("tenants[0].limits.", SCHEMA["$defs"]["limits"]["properties"]),
        ("tenants[0].api_keys[0].", SCHEMA["$defs"]["api_key"]["properties"]),
        ("tenants[0].budgets[0].", SCHEMA["$defs"]["budget"]["properties"]),
        ("prices.", SCHEMA["properties"]["prices"]["properties"]),
        ("prices.models.tiny.", SCHEMA["$defs"]["price"]["properties"]),
        ("classes.batch.", SCHEMA["$defs"]["class"]["properties"]),
        ("classes.batch.ladder[0].", SCHEMA["$defs"]["rung"]["properties"]),
    ],
)
def test_it_knows_every_field(place: str, fields: dict[str, Any]) -> None:
    odd = "{zz: 1}"
    document = {
        "": "zz: 1\n",
        "classes.": f"classes: {odd}\n",
        "tenants[0].": f"tenants: [{odd}]\n",
        "tenants[0].limits.": f"tenants: [{{limits: {odd}}}]\n",
        "tenants[0].api_keys[0].": f"tenants: [{{api_keys: [{odd}]}}]\n",
        "tenants[0].budgets[0].": f"tenants: [{{budgets: [{odd}]}}]\n",
        "prices.": f"prices: {odd}\n",
        "prices.models.tiny.": f"prices: {{models: {{tiny: {odd}}}}}\n",
        "classes.batch.": f"classes: {{batch: {odd}}}\n",
        "classes.batch.ladder[0].": f"classes: {{batch: {{ladder: [{odd}]}}}}\n",
    }[place]

    with pytest.raises(InvalidPolicy) as refused:
        policy_of(document)

    (known,) = re.findall(rf"{re.escape(place)}zz: .*; known are (.*)", str(refused.value))
    assert set(known.split(", ")) == set(fields)
