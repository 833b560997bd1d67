"""A secret is whole or it is refused, and no refusal quotes it."""

from pathlib import Path

import pytest

from services.chassis.secret_file import InvalidSecret, read_secret


@pytest.mark.parametrize("text", ["ab" * 32, f"{'AB' * 40}\n"])
def test_hexadecimal_digits_are_a_secret(tmp_path: Path, text: str) -> None:
    file = tmp_path / "secret"
    file.write_text(text)

    assert read_secret(file) == bytes.fromhex(text.strip())


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"ab" * 31, "must hold at least 64 hexadecimal digits"),
        (b"", "must hold at least 64 hexadecimal digits"),
        (b"hunter22" * 8, "must hold hexadecimal digits and nothing else"),
        (b"\xff" * 64, "must hold hexadecimal digits and nothing else"),
    ],
    ids=["short", "empty", "words", "bytes"],
)
def test_anything_else_is_refused_and_not_quoted(
    tmp_path: Path, content: bytes, problem: str
) -> None:
    file = tmp_path / "secret"
    file.write_bytes(content)

    with pytest.raises(InvalidSecret, match=problem) as caught:
        read_secret(file)

    assert "hunter" not in f"{caught.value!r} {caught.value.__cause__!r}"


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(InvalidSecret, match="No such file"):
        read_secret(tmp_path / "secret")
