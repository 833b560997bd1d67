"""Coverage-guided fuzzing of the router's Check, for longer than a test may take.

In an environment of its own, since atheris is no dependency of the project:

    python3.11 -m venv /tmp/atheris && /tmp/atheris/bin/pip install atheris
    PYTHONPATH=.:client:.venv/lib/python3.11/site-packages \\
        /tmp/atheris/bin/python -m tests.fuzz.atheris_check -max_total_time=300

The first byte picks the method, the next the listener; the rest is the framed body. libFuzzer
prints what it does and keeps an input that fails.
"""

import sys

import atheris  # type: ignore[import-untyped] # not in our environment

with atheris.instrument_imports(include=["services.router", "google.protobuf"]):
    from services.router.core.demands import InvalidDemand
    from services.router.inbound.asked import Question, asked
    from services.router.inbound.bodies import InvalidBody, demand_of

METHODS = (
    "/evenflow.inference.v1.InferenceService/Generate",
    "/evenflow.inference.v1.InferenceService/Tokenize",
    "/evenflow.openai.v1.ChatService/CreateChatCompletion",
    "/evenflow.openai.v1.ChatService/StreamChatCompletion",
)
HEADERS = ("grpc-timeout", "authorization", "traceparent", "x-request-id", "x-evenflow-peer")


def decode(content: bytes) -> None:
    """Fails on any exception but the two that a refusal is made of."""
    provider = atheris.FuzzedDataProvider(content)
    path = provider.PickValueInList(list(METHODS))
    headers = {"x-evenflow-listener": provider.PickValueInList(["mesh", "frontend"])}
    for name in HEADERS:
        if provider.ConsumeBool():
            headers[name] = provider.ConsumeUnicodeNoSurrogates(40)
    body = provider.ConsumeBytes(provider.remaining_bytes())
    framed = bytes(1) + len(body).to_bytes(4, "big") + body
    sent = body if provider.ConsumeBool() else framed
    question = asked(Question(path, headers, sent), lambda *_: False)
    try:
        question.remaining_s()
        demand_of(question.method, question.body)
    except (InvalidDemand, InvalidBody):
        pass


if __name__ == "__main__":
    atheris.Setup(sys.argv, decode)
    atheris.Fuzz()
