"""How a request ends that nothing befell, for benchmarks in memory."""

from services.router.core.endings import Ended, Usage


def ended(
    request_id: str, *, usage: Usage, endpoint: str = "10.0.0.1:9101", began_unix_s: float = 0.0
) -> Ended:
    return Ended(
        request_id,
        method="/evenflow.inference.v1.InferenceService/Generate",
        tenant="",
        began_unix_s=began_unix_s,
        duration_s=2.0,
        first_token_s=0.1,
        endpoint=endpoint,
        grpc_code=0,
        reason="",
        usage=usage,
        model_version="1",
        engine="simulated",
        attempts=1,
    )
