"""The environment variables that vLLM reads before it is imported; whoever starts it sets them."""

from collections.abc import Mapping

_ALWAYS = {
    "HF_HUB_OFFLINE": "1",  # the model is on disk; never ask a hub
    "VLLM_NO_USAGE_STATS": "1",  # never report to its makers
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",  # stdout is ours
}
_CPU = {
    # One child process for the engine and its worker. With the default, two, all is slower.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    # Else the first request for logprobs compiles C++ for 20 s, and everybody waits.
    "TORCH_COMPILE_DISABLE": "1",
}


def environment(*, gpu: bool, replicas_here: int) -> Mapping[str, str]:
    """What to add to a runtime's environment, with `replicas_here` of them on this machine."""
    if gpu:
        return _ALWAYS
    added = {**_ALWAYS, **_CPU}
    if replicas_here > 1:
        added["OMP_NUM_THREADS"] = "1"  # with more each, the replicas fight for the cores
    return added
