"""YAML is read within bounds: nothing in a file can end the process or fill its memory."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.policy.core.nodes import InvalidPolicy, Listing, Mapping, Scalar
from services.policy.outbound.yaml_text import MAX_BYTES, parse


def refusal(content: bytes) -> str:
    with pytest.raises(InvalidPolicy) as caught:
        parse(content)
    return str(caught.value)


def test_nodes_know_where_they_stand() -> None:
    root = parse(b'a:\n  - 1\n  - "1"\n')

    listing = Listing(2, 3, [Scalar(2, 5, "1", quoted=False), Scalar(3, 5, "1", quoted=True)])
    assert root == Mapping(1, 1, [(Scalar(1, 1, "a", quoted=False), listing)])


@pytest.mark.parametrize("content", [b"", b"\n\n", b"# only words\n"])
def test_a_file_without_a_document_has_no_root(content: bytes) -> None:
    assert parse(content) is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [1\nb: 2\n", "line 2, column 2: not YAML: while parsing a flow sequence"),
        (b"a: \tb\n\tc: d\n", "line 2, column"),
        (b"a: &x 1\n", "line 1, column 4: anchors are not allowed"),
        (b"a: *x\n", "line 1, column 4: aliases are not allowed"),
        (b"a: !!python/object:os.system x\n", "line 1, column 4: tags are not allowed"),
        (b"a: 1\n--- 2\n", "line 2, column 1: a second document"),
        (b"a: 1\nb: \xff\n", "line 2, column 4: not UTF-8"),
        (b"a: 1\nb: \x00\n", "line 2, column 4: must not hold the character '\\x00'"),
    ],
)
def test_says_where_it_stopped(content: bytes, message: str) -> None:
    assert refusal(content).startswith(message)


@pytest.mark.parametrize("opening", [b"[", b"{a: ", b"- "])
def test_deep_nesting_is_refused_and_not_followed(opening: bytes) -> None:
    assert "nested more than 16 deep" in refusal(opening * 200_000)


def test_a_laughing_file_is_refused_at_its_first_anchor() -> None:
    bomb = b"a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n"

    assert refusal(bomb).startswith("line 1")


def test_a_huge_file_is_refused_unread() -> None:
    assert "must be at most" in refusal(b" " * (MAX_BYTES + 1))


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_are_parsed_or_refused(content: bytes) -> None:
    with suppress(InvalidPolicy):
        parse(content)
