"""Any valid file is read as it was meant; any fault is reported with its line and field."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.policy.core.nodes import InvalidPolicy, Problem
from services.policy.core.tenants import ApiKey, ClassRules, Tenant, WorkloadClass
from tests.unit.policy.policies import (
    ACME,
    DOMAIN,
    GLOBEX,
    HASH,
    as_fields,
    one_a_line,
    policy_of,
    tenant_lists,
    tenants_of,
)

EXAMPLE = Path("services/policy/example.yaml")


def problems_of(text: str) -> list[Problem]:
    with pytest.raises(InvalidPolicy) as caught:
        tenants_of(text)
    return caught.value.problems


def line_of(text: str, fragment: str) -> int:
    return text[: text.index(fragment)].count("\n") + 1


def test_a_file_says_what_it_says() -> None:
    (acme,) = tenants_of(ACME)

    assert acme == Tenant(
        id="acme",
        spiffe_ids=(f"spiffe://{DOMAIN}/tenant/acme/*",),
        api_keys=(ApiKey("web-1", bytes.fromhex("ab" * 32), "web"),),
        models=("smollm2",),
        workload_classes=(WorkloadClass.INTERACTIVE, WorkloadClass.BATCH),
        default_workload_class=WorkloadClass.INTERACTIVE,
        max_context_tokens=2048,
        max_output_tokens=512,
    )


def test_the_example_is_valid() -> None:
    assert [tenant.id for tenant in tenants_of(EXAMPLE.read_text())] == ["acme", "globex"]


def test_nobody_may_be_allowed_on_purpose_but_not_by_an_empty_file() -> None:
    assert tenants_of("tenants: []") == []
    assert str(problems_of("# nothing\n")[0]) == (
        "line 1, column 1: the file is empty; write 'tenants: []' for none"
    )


def test_classes_get_what_the_file_says() -> None:
    classes = "classes:\n  batch: {resume: true}\n  interactive: {cache_ttl_s: 2.5}\n"

    assert policy_of(ACME + classes).classes == (
        ClassRules(workload_class=WorkloadClass.BATCH, resume=True),
        ClassRules(workload_class=WorkloadClass.INTERACTIVE, cache_ttl_s=2.5),
    )


@pytest.mark.parametrize(
    ("classes", "field", "message"),
    [
        ("{urgent: {}}", "classes.urgent", "unknown field 'urgent'"),
        ("[batch]", "classes", "must be a mapping"),
        ("{batch: true}", "classes.batch", "must be a mapping"),
        ("{batch: {resumes: true}}", "classes.batch.resumes", "did you mean 'resume'?"),
        ("{batch: {resume: yes}}", "classes.batch.resume", "must be true or false"),
        ("{batch: {cache_ttl_s: -1}}", "classes.batch.cache_ttl_s", "must be from 0 to 86400"),
        ("{batch: {cache_ttl_s: soon}}", "classes.batch.cache_ttl_s", "a number of seconds"),
        ("{high_risk: {cache_ttl_s: 1}}", "classes.high_risk.cache_ttl_s", "never kept"),
    ],
)
def test_a_fault_in_what_classes_get_is_named(classes: str, field: str, message: str) -> None:
    (problem,) = problems_of(f"{ACME}classes: {classes}\n")

    assert problem.field == field
    assert message in problem.message


@given(tenant_lists())
def test_any_valid_file_is_read_as_it_was_meant(tenants: list[Tenant]) -> None:
    assert tenants_of(one_a_line([as_fields(each) for each in tenants])) == tenants


# What to make of one field of one tenant; each is wrong whatever the tenant
CORRUPTIONS: dict[str, list[Any]] = {
    "id": ["Acme", "", 7, None, ["acme"], "a" * 64],
    "spiffe_ids": [
        "spiffe://evenflow.local/tenant/acme/*",
        ["spiffe://other.example/tenant/acme/web"],
        ["spiffe://evenflow.local/tenant/acme"],
        ["spiffe://evenflow.local/tenant/*/web"],
        ["spiffe://evenflow.local/service/router"],
        ["spiffe://evenflow.local/tenant/acme/web/*"],
        [{"spiffe": 1}],
    ],
    "models": [[], ["*", "smollm2"], ["a", "a"], "smollm2", [""], [None]],
    "workload_classes": [[], ["urgent"], "batch", {"batch": True}],
    "default_workload_class": ["urgent", None, ["batch"]],
    "max_context_tokens": [-1, "many", "12", 1.5, 10**12, None, [1]],
    "max_output_tokens": [-1, "many", 10**30, False],
    "max_tokens": [1],
    "weight": [0, 101, -1, "2", 1.5],
    "pool": ["", "a b", 7, ["vault"], None],
    "limits": [
        7,
        [],
        {"rpm": 60},
        {"requests_per_minute": -1},
        {"tokens_per_minute": 1.5},
        {"concurrent_requests": "8"},
        {"kv_share": 1.1},
        {"kv_share": -0.5},
        {"kv_share": "half"},
    ],
}


@given(tenant_lists(), st.data())
def test_any_single_fault_is_refused_with_its_line_and_field(
    tenants: list[Tenant], data: st.DataObject
) -> None:
    entries = [as_fields(each) for each in tenants]
    index = data.draw(st.integers(0, len(entries) - 1))
    field = data.draw(st.sampled_from(sorted(CORRUPTIONS)))
    entries[index][field] = data.draw(st.sampled_from(CORRUPTIONS[field]))
    above = sum(len(each) for each in entries[:index])
    line = 2 + above + list(entries[index]).index(field)

    problems = problems_of(one_a_line(entries))

    assert any(
        problem.line == line and problem.field.startswith(f"tenants[{index}].{field}")
        for problem in problems
    ), problems


@given(tenant_lists(), st.data())
def test_a_missing_field_is_reported_where_its_tenant_begins(
    tenants: list[Tenant], data: st.DataObject
) -> None:
    entries = [as_fields(each) for each in tenants]
    index = data.draw(st.integers(0, len(entries) - 1))
    required = ["id", "models", "workload_classes", "default_workload_class"]
    del entries[index][data.draw(st.sampled_from(required))]

    (problem,) = problems_of(one_a_line(entries))

    assert problem.line == 2 + sum(len(each) for each in entries[:index])
    assert problem.message == "is required"


@pytest.mark.parametrize(
    ("before", "after", "field", "message"),
    [
        ("models:", "model:", "model", "unknown field 'model'; did you mean 'models'?"),
        ("hash: sha256:ab", "hash: ab", "api_keys[0].hash", "must be 'sha256:' and 64 lower-case"),
        ("workload: web", "workload: a/b", "api_keys[0].workload", "must be 1 to 63 letters"),
        ("512", "4096", "max_output_tokens", "4096 is more than max_context_tokens, 2048"),
        ("2048", "-10", "max_context_tokens", "must be from 0 to 1000000000, got -10"),
        ("2048", '"2048"', "max_context_tokens", "must be a whole number, got '2048'"),
        ("[smollm2]", "[yes]", "models[0]", "must be text, got yes; put it in quotes"),
        ("s: interactive", "s: high_risk", "default_workload_class", "is not among"),
    ],
)
def test_says_what_is_wrong(before: str, after: str, field: str, message: str) -> None:
    text = ACME.replace(before, after)

    problems = problems_of(text)

    found = [each for each in problems if message in each.message]
    assert [each.field for each in found] == [f"tenants[0].{field}".rstrip(".")]
    assert found[0].line == line_of(text, after)


def test_a_tenant_is_a_mapping() -> None:
    (problem,) = problems_of("tenants:\n  - acme\n")

    assert str(problem) == "line 2, column 5: tenants[0]: must be a mapping, got 'acme'"


def test_all_problems_are_reported_at_once_in_the_files_order() -> None:
    text = ACME.replace("2048", "none").replace("id: acme", "id: ACME").replace("batch]", "soon]")

    fields = [problem.field for problem in problems_of(text)]

    assert fields == [
        "tenants[0].id",
        "tenants[0].workload_classes[1]",
        "tenants[0].max_context_tokens",
    ]


def test_a_tenant_that_nobody_can_be_is_refused() -> None:
    text = """tenants:
  - {id: a, models: [m], workload_classes: [batch], default_workload_class: batch}
"""

    assert "needs spiffe_ids or api_keys" in problems_of(text)[0].message


@pytest.mark.parametrize(
    ("claimed", "message"),
    [
        (f"spiffe://{DOMAIN}/tenant/acme/*", f"spiffe://{DOMAIN}/tenant/acme/* is claimed on"),
        (f"spiffe://{DOMAIN}/tenant/acme/web", "overlaps with"),
    ],
)
def test_no_two_tenants_may_be_the_same_caller(claimed: str, message: str) -> None:
    text = ACME + GLOBEX.replace(f"spiffe://{DOMAIN}/tenant/globex/web", claimed)

    (problem,) = problems_of(text)

    assert problem.field == "tenants[1].spiffe_ids[0]"
    assert problem.line == line_of(text, "id: globex") + 1
    assert message in problem.message
    assert problem.message.endswith(("line 3", "line 3 already"))


def test_a_wide_identity_below_a_narrow_one_is_reported_at_the_later_line() -> None:
    text = ACME.replace("acme/*", "acme/web") + GLOBEX.replace("globex/web", "acme/*")

    (problem,) = problems_of(text)

    assert problem.line == line_of(text, "acme/*")


def test_a_tenant_may_name_a_workload_beside_its_star() -> None:
    text = ACME.replace("acme/*]", f"acme/*, spiffe://{DOMAIN}/tenant/acme/web]")

    assert len(tenants_of(text)[0].spiffe_ids) == 2


def test_duplicate_tenants_keys_and_key_names_are_refused() -> None:
    key = f"    api_keys: [{{id: x, hash: {HASH}, workload: web}}]\n"
    twice = ACME.replace(
        "    models:", f"      - {{id: web-1, hash: {HASH}, workload: b}}\n    models:"
    )

    assert (
        "taken by the tenant on line 2"
        in problems_of(ACME + GLOBEX.replace("id: globex", "id: acme"))[0].message
    )
    assert "the key of line 6 again" in problems_of(ACME + GLOBEX + key)[0].message
    assert {problem.field for problem in problems_of(twice)} == {
        "tenants[0].api_keys[1].hash",
        "tenants[0].api_keys[1].id",
    }


def test_a_field_given_twice_is_refused() -> None:
    text = ACME + "    id: other\n"

    (problem,) = problems_of(text)

    assert (problem.line, problem.message) == (13, "given twice, first on line 2")


def test_thousands_of_problems_are_counted_not_printed() -> None:
    text = "tenants:\n" + "  - {}\n" * 1000

    with pytest.raises(InvalidPolicy, match="and 3900 more"):
        tenants_of(text)
