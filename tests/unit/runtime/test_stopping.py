"""Stop strings: the same whatever the pieces, and nothing of them is ever let out."""

from hypothesis import given
from hypothesis import strategies as st

from services.runtime.core.stopping import StopScanner

letters = st.text("ab", max_size=4)


def scanned(pieces: list[str], stops: list[str]) -> tuple[str, bool]:
    scanner = StopScanner(stops)
    out = ""
    for piece in pieces:
        out += scanner.push(piece)
        if scanner.met:
            return out, True
    return out + scanner.flush(), False


def test_what_cannot_begin_a_stop_string_is_let_out_at_once() -> None:
    assert StopScanner(["end"]).push("sea ") == "sea "


def test_what_may_begin_one_is_held_until_it_is_clear() -> None:
    scanner = StopScanner(["end"])

    assert [scanner.push("the e"), scanner.push("n"), scanner.push("emy")] == ["the ", "", "enemy"]


@given(
    st.lists(letters, max_size=8),
    st.lists(st.text("ab", min_size=1, max_size=3), min_size=1, max_size=2),
)
def test_text_ends_where_a_stop_string_begins(pieces: list[str], stops: list[str]) -> None:
    text = "".join(pieces)

    out, met = scanned(pieces, stops)

    assert met == any(stop in text for stop in stops)
    assert text.startswith(out)
    assert not any(stop in out for stop in stops)
    if not met:
        assert out == text
