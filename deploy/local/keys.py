"""The demo tenants' API keys, the tenants' file that knows their hashes, and the mesh's secrets."""

import hashlib
import secrets
from pathlib import Path
from string import Template

from deploy.local.certificates import TENANTS
from deploy.local.drafts import drafted, write_whole
from evenflow.audit_signing import new_key
from evenflow.home import salt_file

TEMPLATE = Path(__file__).with_name("tenants.yaml")
PREFIX = "evf_"  # lets scanners for leaked secrets know one
SECRET_BYTES = 32


def ensure_keys(home: Path) -> dict[str, str]:
    """The API key of each tenant, made the first time."""
    return {
        tenant: _ensure(home / "api-keys" / tenant, PREFIX + secrets.token_urlsafe(SECRET_BYTES))
        for tenant in TENANTS
    }


def ensure_cache_salt(home: Path) -> Path:
    """A line for each epoch, the last one in force; `evenflow salts rotate` appends one."""
    path = salt_file(home)
    _ensure(path, f"0:{secrets.token_hex(SECRET_BYTES)}")
    return path


def ensure_key_secret(home: Path) -> Path:
    path = home / "secrets" / "api-keys"
    _ensure(path, secrets.token_hex(SECRET_BYTES))
    return path


def audit_key(home: Path) -> Path:
    return home / "secrets" / "audit-key.pem"


def ensure_audit_key(home: Path) -> None:
    _ensure(audit_key(home), new_key().decode())


def ensure_tenants(home: Path, keys: dict[str, str]) -> Path:
    """The policy file. Edits are kept; one that lacks a key's hash is put aside as `.old`."""
    path = home / "tenants.yaml"
    hashes = {tenant: hashlib.sha256(key.encode()).hexdigest() for tenant, key in keys.items()}
    if path.exists() and all(digest in path.read_text() for digest in hashes.values()):
        return path
    content = Template(TEMPLATE.read_text()).substitute(
        {f"{tenant}_key_sha256": digest for tenant, digest in hashes.items()}
    )
    draft = drafted(path, content)  # before anything is moved
    if path.exists():
        path.replace(path.with_suffix(".yaml.old"))
    draft.replace(path)
    return path


def _ensure(path: Path, fresh: str) -> str:
    """What the file holds; `fresh`, if there is none yet. An empty file is none."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.exists() and (held := path.read_text().strip()):
        return held
    write_whole(path, fresh)
    return fresh
