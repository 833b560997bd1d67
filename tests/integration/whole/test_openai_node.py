"""The official OpenAI client for JavaScript against the front end, on a real model."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.integration.whole.mesh import Mesh


@pytest.fixture(scope="module")
def findings(real_mesh: Mesh, node_folder: Path) -> dict[str, Any]:
    """What one run of the script saw."""
    environ = {
        **os.environ,
        "BASE_URL": f"{real_mesh.frontend}/v1",
        "API_KEY": real_mesh.api_key("globex"),
        "MODEL": real_mesh.model,
    }
    done = subprocess.run(
        ["node", "openai.mjs"],
        cwd=node_folder,
        env=environ,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_streams(findings: dict[str, Any]) -> None:
    assert "Paris" in findings["streamed"]["text"]
    assert findings["streamed"]["chunks"] > 3
    assert findings["streamed"]["finish_reason"] == "stop"


def test_answers_in_one_piece(findings: dict[str, Any]) -> None:
    assert "Paris" in findings["whole"]["text"]
    assert findings["whole"]["completion_tokens"] > 0


def test_lists_the_models(findings: dict[str, Any], real_mesh: Mesh) -> None:
    assert findings["models"] == [real_mesh.model]


def test_errors_are_openais(findings: dict[str, Any]) -> None:
    assert findings["bad_request"] == {
        "status": 400,
        "param": "top_p",
        "code": "FIELD_INVALID",
        "type": "invalid_request_error",
    }
    assert findings["wrong_key"]["status"] == 401
    assert findings["unknown_model"]["status"] == 404
    assert findings["unknown_model"]["code"] == "MODEL_NOT_FOUND"
