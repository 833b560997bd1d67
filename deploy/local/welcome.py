"""What a newcomer reads once the mesh serves: where it listens, and what to try next."""

from pathlib import Path

from deploy.local.settings import Settings, address


def welcome(settings: Settings, model: str) -> str:
    home = _shown(settings.home)
    key = f"$(cat {home}/api-keys/acme)"
    base = f"http://{address(settings.frontend_port)}/v1"
    messages = '[{"role": "user", "content": "Hello!"}]'
    body = f'{{"model": "{model}", "stream": true, "messages": {messages}}}'
    return f"""\
evenflow: ready

  {address(settings.mesh_port)}  gRPC and gRPC-Web over mTLS; certificates in {home}/certs/tenants
  {address(settings.frontend_port)}  OpenAI's API; keys in {home}/api-keys
  logs in {home}/logs; Ctrl-C ends everything

Try next, in another terminal:

  {_variables(settings)}.venv/bin/evenflow chat "Tell me a story."

  curl -N {base}/chat/completions -H "Authorization: Bearer {key}" \\
    -H "Content-Type: application/json" \\
    -d '{body}'

  OPENAI_BASE_URL={base} OPENAI_API_KEY="{key}" .venv/bin/python -c '
  import openai
  for chunk in openai.OpenAI().chat.completions.create(model="{model}", stream=True,
          messages={messages}):
      print(chunk.choices[0].delta.content or "", end="", flush=True)'
"""


def _variables(settings: Settings) -> str:
    """What the command must be told because it is not the default."""
    told = {
        "EVENFLOW_HOME": (str(_shown(settings.home)), ".evenflow"),
        "EVENFLOW_MESH_PORT": (str(settings.mesh_port), "8443"),
        "EVENFLOW_ROUTER_PORT": (str(settings.router_port), "9010"),
    }
    return "".join(f"{name}={value} " for name, (value, usual) in told.items() if value != usual)


def _shown(path: Path) -> Path:
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
