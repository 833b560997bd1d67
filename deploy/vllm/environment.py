"""The environment variables that vLLM reads before it is imported; whoever starts it sets them."""

from collections.abc import Mapping

_ALWAYS = {
    "HF_HUB_OFFLINE": "1",  # the model is on disk; never ask a hub
    "VLLM_NO_USAGE_STATS": "1",  # never report to its makers
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",  # stdout is ours
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # a fork would copy gRPC's threads half-way
}
_CPU = {
    # One child process for the engine and its worker. With the default, two, all is slower.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    # Else the first request for logprobs compiles C++ for 20 s, and everybody waits.
    "TORCH_COMPILE_DISABLE": "1",
}


def environment(*, gpu: bool, replicas_here: int, cores: int) -> Mapping[str, str]:
    """What to add to a runtime's environment, with `replicas_here` of them on `cores`."""
    if gpu:
        return _ALWAYS
    # A thread that has lost its core to somebody else holds up all the others at every step: on 2
    # busy cores, 2 threads made 2 tokens/s and 1 thread made 53. So one core stays free of them.
    threads = max(1, (cores - 1) // replicas_here)
    return {**_ALWAYS, **_CPU, "OMP_NUM_THREADS": str(threads)}
