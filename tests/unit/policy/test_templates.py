"""Templates: placeholders and the text around them, and nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.policy.core.templates import InvalidTemplate, Placeholder, escaped, parts_of

TRICKY = st.text(st.sampled_from("\\{} ax\n"), max_size=30)  # where braces and backslashes meet


@given(TRICKY)
def test_escaped_text_is_that_text(text: str) -> None:
    assert parts_of(escaped(text)) == ((text,) if text else ())


@given(TRICKY, TRICKY)
def test_a_placeholder_is_found_between_any_texts(before: str, after: str) -> None:
    before = before.rstrip("\\{")  # else they and the placeholder's braces are one run

    parts = parts_of(escaped(before) + "{{ city }}" + escaped(after))

    assert parts == (
        *([before] if before else []),
        Placeholder("city"),
        *([after] if after else []),
    )


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ()),
        ("plain", ("plain",)),
        ('{"a": {"b": 1}}', ('{"a": {"b": 1}}',)),
        (r"\d+ and \\", (r"\d+ and \\",)),
        ("{{a}}{{b}}", (Placeholder("a"), Placeholder("b"))),
        (r"\{{a}}", ("{{a}}",)),
        (r"\\{{a}}", ("\\", Placeholder("a"))),
        (r"\\\{{a}}", (r"\{{a}}",)),
    ],
)
def test_how_it_is_written(text: str, parts: tuple[object, ...]) -> None:
    assert parts_of(text) == parts


@pytest.mark.parametrize("text", ["{{", "{{}}", "{{A}}", "{{a", "{{a b}}", "{{a.b}}", "{{{a}}}"])
def test_two_braces_that_begin_no_placeholder_are_refused(text: str) -> None:
    with pytest.raises(InvalidTemplate, match="line 2"):
        parts_of(f"first\n{text}")
