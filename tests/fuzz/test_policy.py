"""Any file is a policy or a list of what is wrong with it, each with its place."""

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from services.policy.core.nodes import InvalidPolicy
from services.policy.core.reading import read_policy
from services.policy.outbound.yaml_text import parse

TEXTS = st.text(max_size=15) | st.sampled_from(
    [
        "acme",
        "*",
        "~",
        "0x10",
        "1e400",
        "spiffe://evenflow.local/tenant/acme/*",
        "sha256:" + "a" * 64,
    ]
)
FIELDS = st.sampled_from(
    [
        *("tenants", "id", "spiffe_ids", "api_keys", "models", "workload_classes"),
        *("classes", "interactive", "high_risk", "resume", "cache_ttl_s", "weight", "pool"),
        *("limits", "requests_per_minute", "tokens_per_minute", "kv_share"),
        *("ladder", "when", "rung", "model", "max_prompt_tokens"),
        *("default_workload_class", "max_context_tokens", "max_output_tokens", "hash", "workload"),
    ]
)
TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(FIELDS | TEXTS, inner, max_size=6),
    max_leaves=20,
)
FRAGMENTS = st.sampled_from(
    [
        *("tenants:", "\n", "  ", "- ", "id: acme", "[", "]", "{", "}", "&a", "*a", "!!python/x "),
        *('"', "'", "|", ">", "? ", ": ", "#", "---", "...", "\t", "\x00", "\ufeff", "%YAML 1.1"),
    ]
)


def read(content: bytes) -> None:
    problems = None
    try:
        read_policy(parse(content), "evenflow.local", version="v1")
    except InvalidPolicy as error:
        problems = error.problems
    assert problems is None or problems
    assert all(problem.line >= 1 and problem.column >= 1 for problem in problems or ())


@given(st.binary(max_size=200) | st.lists(FRAGMENTS, max_size=30).map("".join).map(str.encode))
@settings(deadline=None)
def test_any_bytes_are_a_policy_or_a_list_of_problems(content: bytes) -> None:
    read(content)


@given(TREES, st.booleans())
@settings(deadline=None)
def test_any_tree_is_a_policy_or_a_list_of_problems(tree: object, named: bool) -> None:
    whole = {"tenants": tree} if named else tree

    read(yaml.safe_dump(whole, allow_unicode=True).encode("utf-8", "surrogatepass"))
