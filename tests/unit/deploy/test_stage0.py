"""Stage 0: what it refuses, and when it finds that nothing is to be done."""

import base64
import hashlib
import subprocess
import sys
from importlib.metadata import distribution, distributions
from pathlib import Path

import pytest

from deploy.local.stage0 import OVERWRITTEN, ROOT, SetUpFailed, check_machine, digest, pinned

PLENTY_BYTES = 10**12


def test_another_python_is_refused_by_version() -> None:
    with pytest.raises(SetUpFailed, match=r"needs Python 3\.11, got 3\.9(.|\n)*make PYTHON="):
        check_machine((3, 9), PLENTY_BYTES)


def test_it_imports_nothing_but_the_standard_library() -> None:
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import deploy.local.stage0"
    imported = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=False
    )

    assert imported.stderr == ""


def test_the_lock_s_own_pin_of_uv_is_used() -> None:
    block = "uv==0.1 \\\n    --hash=sha256:2 \\\n    --hash=sha256:3\n"

    assert pinned("uv", f"a==1 \\\n    --hash=sha256:1\n{block}    # via x\n") == block
    assert "--hash" in pinned("uv", (ROOT / "requirements.lock").read_text())


def test_a_lock_without_uv_is_refused() -> None:
    with pytest.raises(SetUpFailed, match="must name uv"):
        pinned("uv", "uvloop==1\n")


def test_a_digest_changes_with_content_and_circumstances() -> None:
    lock, project = Path(ROOT / "requirements.lock"), Path(ROOT / "pyproject.toml")

    assert digest([lock]) == digest([lock])
    assert len({digest([lock]), digest([project]), digest([lock], extra=["3.11"])}) == 3


def test_no_two_packages_bring_the_same_file() -> None:
    """Which of them would be read is chance, and another one on each machine."""
    owners: dict[str, set[str]] = {}
    for package in distributions():
        for file in package.files or ():
            if "__pycache__" not in file.parts:
                owners.setdefault(str(file), set()).add(package.name)
    shared = {frozenset(names) for names in owners.values() if len(names) > 1}

    assert shared == {frozenset({"xds-protos", name}) for name in OVERWRITTEN}


@pytest.mark.parametrize("name", OVERWRITTEN)
def test_a_package_has_its_own_files_and_not_another_package_s_copies(name: str) -> None:
    changed = [
        str(file)
        for file in distribution(name).files or ()
        if file.hash is not None and file.hash.value != _digest(file.read_binary(), file.hash.mode)
    ]

    assert changed == []


def _digest(content: bytes, algorithm: str) -> str:
    """As wheels' RECORD files have it."""
    raw = hashlib.new(algorithm, content).digest()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
