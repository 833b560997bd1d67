"""gRPC-Web, as a browser speaks it: over mTLS on the mesh listener, by key on the front end."""

import ssl
import struct
from collections.abc import Iterator

import httpx

from evenflow.client import chat_request
from evenflow.inference.v1 import inference_service_pb2 as pb
from tests.integration.whole.mesh import Mesh

PATH = "/evenflow.inference.v1.InferenceService/Generate"
TRAILERS = 0x80  # flag of a frame that holds trailers, not a message


def frames(body: bytes) -> Iterator[tuple[int, bytes]]:
    while body:
        flag, size = struct.unpack(">BI", body[:5])
        yield flag, body[5 : 5 + size]
        body = body[5 + size :]


def post(client: httpx.Client, url: str, request: pb.GenerateRequest, **headers: str) -> bytes:
    message = request.SerializeToString()
    response = client.post(
        url + PATH,
        content=struct.pack(">BI", 0, len(message)) + message,
        headers={"content-type": "application/grpc-web+proto", "x-grpc-web": "1", **headers},
        timeout=30,
    )
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("application/grpc-web")
    return response.content


def check(body: bytes) -> None:
    received = list(frames(body))
    events = [pb.GenerateResponse.FromString(data) for flag, data in received if flag != TRAILERS]
    trailers = [data for flag, data in received if flag == TRAILERS]
    assert events[0].WhichOneof("event") == "started"
    assert events[-1].WhichOneof("event") == "finished"
    assert "Paris" in "".join(event.delta.text for event in events)
    assert b"grpc-status:0" in trailers[0].replace(b" ", b"")


def question(mesh: Mesh) -> pb.GenerateRequest:
    text = "What is the capital of France? Answer in one sentence."
    return chat_request(mesh.model, text, sampling=pb.Sampling(temperature=0))


def test_over_mtls(real_mesh: Mesh) -> None:
    folder = real_mesh.tenant("acme")
    context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    with httpx.Client(verify=context, trust_env=False) as client:
        check(post(client, f"https://{real_mesh.address}", question(real_mesh)))


def test_by_key_on_the_front_end(real_mesh: Mesh) -> None:
    key = real_mesh.api_key("globex")
    with httpx.Client(trust_env=False) as client:
        check(post(client, real_mesh.frontend, question(real_mesh), authorization=f"Bearer {key}"))


def test_a_refusal_is_a_status_in_the_body_or_the_headers(real_mesh: Mesh) -> None:
    with httpx.Client(trust_env=False) as client:
        response = client.post(
            real_mesh.frontend + PATH,
            content=b"\0\0\0\0\0",
            headers={
                "content-type": "application/grpc-web+proto",
                "x-grpc-web": "1",
                "authorization": "Bearer evf_wrong",
            },
        )

    said = dict(response.headers)
    for flag, data in frames(response.content):
        if flag == TRAILERS:
            for line in data.decode().strip().split("\r\n"):
                name, _, value = line.partition(":")
                said[name] = value
    assert said["grpc-status"].strip() == "16"
