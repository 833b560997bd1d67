"""Compiles the contracts: Python stubs into the client package, and one descriptor image.

The image is what Envoy's transcoder reads and what buf lints. Imports (google/api, google/rpc)
come from installed packages, so nothing is fetched.

Usage: python protos/generate.py [--image-only PROTO_ROOT IMAGE]
"""

import importlib.resources
import shutil
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

ROOT = Path(__file__).resolve().parent
CLIENT = ROOT.parent / "client"
IMAGE = CLIENT / "evenflow" / "openai" / "v1" / "evenflow.binpb"


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["--image-only"]:
        proto_root, image = map(Path, arguments[1:])
        _compile(proto_root, _image_flags(image))
        return 0
    _remove_stale()
    _compile(
        ROOT,
        [
            f"--python_out={CLIENT}",
            f"--grpc_python_out={CLIENT}",
            f"--mypy_out={CLIENT}",
            f"--mypy_grpc_out={CLIENT}",
        ],
    )
    _compile(ROOT, _image_flags(IMAGE))
    for folder in {path.parent for path in CLIENT.rglob("*_pb2.py")}:
        for package in (folder, folder.parent):
            (package / "__init__.py").touch()
    return 0


def _image_flags(image: Path) -> list[str]:
    return ["--include_imports", "--include_source_info", f"--descriptor_set_out={image}"]


def _remove_stale() -> None:
    for package in (CLIENT / "evenflow").glob("*/v1"):
        shutil.rmtree(package)


def _compile(proto_root: Path, outputs: list[str]) -> None:
    protos = sorted(str(path) for path in proto_root.rglob("*.proto"))
    googleapis = distribution("googleapis-common-protos").locate_file("")
    well_known = importlib.resources.files("grpc_tools") / "_proto"
    command = [
        *(sys.executable, "-m", "grpc_tools.protoc"),
        *(f"--plugin={_plugin(name)}" for name in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")),
        *(f"-I{path}" for path in (proto_root, googleapis, well_known)),
        *outputs,
        *protos,
    ]
    subprocess.run(command, check=True)  # noqa: S603 - our own arguments


def _plugin(name: str) -> str:
    return f"{name}={Path(sys.executable).parent / name}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
