"""Whatever is done to an audit log is found, and the first broken entry named."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evenflow.audit_lines import hash_of, number_of
from evenflow.audit_signing import Signer, new_key, public_keys
from evenflow.audit_verifying import CHECKPOINTS, SEGMENTS, Broken, verify_file, verify_folder
from services.policy.core.audit import Wanted
from services.policy.outbound.audit_chain import said
from services.policy.outbound.audit_reading import Written, batches
from tests.unit.audit.logs import KEYS, NOW_US, deed, made, opened, proof, write

ENTRIES = 30
Files = dict[str, list[bytes]]  # lines with their ends, by name of the file


def files_of(folder: Path) -> Files:
    paths = [*sorted(folder.glob(SEGMENTS)), folder / CHECKPOINTS]
    return {each.name: each.read_bytes().splitlines(keepends=True) for each in paths}


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("log") / "audit"
    made(folder, entries=ENTRIES)
    return files_of(folder)


def broken(files: Files) -> Broken:
    with tempfile.TemporaryDirectory(prefix="audit-") as name:
        for file, lines in files.items():
            (Path(name) / file).write_bytes(b"".join(lines))
        with pytest.raises(Broken) as caught:
            proof(Path(name))
    return caught.value


def changed(log: Files, number: int, change: Callable[[list[bytes], int], None]) -> Files:
    """With the segment that holds the entry given to `change`, and where it is."""
    files = {name: list(lines) for name, lines in log.items()}
    for name, lines in files.items():
        for at, line in enumerate(lines):
            if name != CHECKPOINTS and number_of(line) == number:
                change(lines, at)
                return files
    raise AssertionError(number)


NUMBERS = st.integers(1, ENTRIES)


def test_what_was_written_is_proven(tmp_path: Path) -> None:
    made(tmp_path / "audit")

    found = proof(tmp_path / "audit")

    assert (found.first, found.last, found.signed_to) == (1, ENTRIES, ENTRIES)
    assert len(list((tmp_path / "audit").glob(SEGMENTS))) > 2


@settings(max_examples=300, deadline=None)
@given(number=NUMBERS, at=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_any_flipped_bit_is_found(log: Files, number: int, at: int, bit: int) -> None:
    def flip(lines: list[bytes], index: int) -> None:
        line = bytearray(lines[index])
        line[at % len(line)] ^= 1 << bit
        lines[index] = bytes(line)

    assert broken(changed(log, number, flip)).number == number


@settings(deadline=None)
@given(number=NUMBERS)
def test_a_dropped_row_is_found(log: Files, number: int) -> None:
    found = broken(changed(log, number, lambda lines, at: lines.__delitem__(at)))

    assert (found.number, found.what) == (number, "missing")


@settings(deadline=None)
@given(pair=st.lists(NUMBERS, min_size=2, max_size=2, unique=True))
def test_two_reordered_rows_are_found(log: Files, pair: list[int]) -> None:
    taken: list[bytes] = []
    changed(log, pair[0], lambda lines, at: taken.append(lines[at]))
    changed(log, pair[1], lambda lines, at: taken.append(lines[at]))
    once = changed(log, pair[0], lambda lines, at: lines.__setitem__(at, b"other"))
    both = changed(once, pair[1], lambda lines, at: lines.__setitem__(at, taken[0]))
    for lines in both.values():
        if b"other" in lines:
            lines[lines.index(b"other")] = taken[1]

    assert broken(both).number == min(pair)


@settings(deadline=None)
@given(number=NUMBERS, at=st.integers(0, 10_000))
def test_a_truncated_end_is_found(log: Files, number: int, at: int) -> None:
    def cut(lines: list[bytes], index: int) -> None:
        lines[index] = lines[index][: at % len(lines[index])]
        del lines[index + 1 :]

    files = changed(log, number, cut)
    last = next(name for name, lines in files.items() if lines != log[name])
    kept = {name: lines for name, lines in files.items() if name <= last or name == CHECKPOINTS}

    assert broken(kept).number == number


@settings(deadline=None)
@given(at=st.integers(0, 100_000), bit=st.integers(0, 7))
def test_a_forged_checkpoint_is_found(log: Files, at: int, bit: int) -> None:
    content = bytearray(b"".join(log[CHECKPOINTS]))
    content[at % len(content)] ^= 1 << bit

    broken({**log, CHECKPOINTS: bytes(content).splitlines(keepends=True)})


def test_a_checkpoint_of_another_key_is_found(tmp_path: Path) -> None:
    with opened(tmp_path / "audit", signer=Signer(new_key())) as chain:
        write(chain, 1, 3)
        chain.checkpoint()

    found = broken(files_of(tmp_path / "audit"))

    assert (found.number, found.what) == (3, "key")


@settings(deadline=None)
@given(number=NUMBERS)
def test_a_chain_made_anew_without_the_key_is_found(log: Files, number: int) -> None:
    files = {name: list(lines) for name, lines in log.items()}
    before = b""
    for name, lines in files.items():
        for at, line in enumerate(lines if name != CHECKPOINTS else ()):
            entry = line.rstrip(b"\n")
            if number_of(entry) == number:
                entry = entry.replace(b'"outcome":"done"', b'"outcome":"DONE"')
            elif (number_of(entry) or 0) > number:
                head, tail = entry.split(b'"before":"')
                entry = head + b'"before":"' + before + tail[64:]
            before = hash_of(entry).encode()
            lines[at] = entry[:-66] + before + b'"}\n'

    found = broken(files)

    assert found.what == "checkpoint"
    assert number <= found.number <= ENTRIES


def test_a_missing_checkpoint_of_a_segments_end_is_found(log: Files) -> None:
    first = next(iter(log))
    end = number_of(log[first][-1]) or 0
    kept = [line for line in log[CHECKPOINTS] if b'"checkpoint":%d,' % end not in line]

    assert broken({**log, CHECKPOINTS: kept}).number == end


def test_a_log_that_nobody_signed_proves_nothing(log: Files) -> None:
    assert broken({next(iter(log)): log[next(iter(log))]}).what == "checkpoint"


def test_a_first_segment_that_is_gone_is_found(log: Files) -> None:
    assert broken(dict(list(log.items())[1:])).what == "missing"


def test_what_retention_removed_leaves_the_rest_proven(tmp_path: Path) -> None:
    folder = tmp_path / "audit"
    made(folder)
    with opened(folder) as chain:
        chain.remove_before(10 * NOW_US)
        chain.checkpoint()

    found = proof(folder)

    assert len(list(folder.glob(SEGMENTS))) == 1
    assert (found.first > 1, found.last) == (True, ENTRIES + 1)


def exported(folder: Path, wanted: Wanted) -> Path:
    last = max(folder.glob(SEGMENTS))
    found = batches(Written(folder, last, last.stat().st_size), wanted)
    file = folder.parent / "export.jsonl"
    file.write_bytes(b"".join(line + b"\n" for batch in found for line in batch))
    return file


def test_an_export_verifies_alone(tmp_path: Path) -> None:
    made(tmp_path / "audit")
    file = exported(tmp_path / "audit", Wanted(from_number=5))

    found = verify_file(file, KEYS)

    assert (found.first, found.last, found.signed_to) == (5, ENTRIES, ENTRIES)


def test_an_export_of_a_time_begins_with_the_first_of_it(tmp_path: Path) -> None:
    made(tmp_path / "audit")
    file = exported(tmp_path / "audit", Wanted(since_unix_us=NOW_US + 7))

    assert verify_file(file, KEYS).first == 7


def test_an_export_of_one_tenant_has_its_entries_alone(tmp_path: Path) -> None:
    with opened(tmp_path / "audit") as chain:
        chain.append([said(deed(1), 1), said(deed(2, tenant="globex"), 2)])
        chain.checkpoint()
    lines = exported(tmp_path / "audit", Wanted(tenant="globex")).read_bytes().splitlines()

    assert [number_of(line) for line in lines] == [2, None]


def test_another_public_key_proves_nothing(tmp_path: Path) -> None:
    made(tmp_path / "audit")

    with pytest.raises(Broken, match="none of those that are trusted"):
        verify_folder(tmp_path / "audit", public_keys([Signer(new_key()).public_pem]))
