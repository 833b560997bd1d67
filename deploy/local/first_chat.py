"""The proof that the mesh works: one question as a tenant, through Envoy, over mTLS."""

import time
from pathlib import Path

from evenflow.blocking import BlockingClient, chat_request
from evenflow.inference.v1 import inference_service_pb2 as pb

QUESTION = "What is the capital of France? Answer in one sentence."
SAMPLING = pb.Sampling(temperature=0, max_output_tokens=48)
DEADLINE_S = 60.0


def ask_once(address: str, certificate_folder: Path, model: str) -> float:
    """Prints the answer as it comes; returns the seconds to its first token.

    Raises:
        EvenflowError: there was no answer, or half of one.
    """
    first_token_s = 0.0
    with BlockingClient(address, certificate_folder=certificate_folder) as client:
        print(f'  acme asks: "{QUESTION}"\n  {model} answers: "', end="", flush=True)
        asked_at_s = time.monotonic()
        events = client.generate(
            chat_request(model, QUESTION, sampling=SAMPLING), deadline_s=DEADLINE_S
        )
        for event in events:
            if isinstance(event, pb.Started):
                first_token_s = time.monotonic() - asked_at_s
            elif isinstance(event, pb.Delta):
                print(event.text, end="", flush=True)
        print('"')
    return first_token_s
