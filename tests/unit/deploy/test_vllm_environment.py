"""vLLM's threads never outnumber the cores, or they hold each other up."""

import pytest

from deploy.vllm.environment import environment


@pytest.mark.parametrize(
    ("replicas", "cores", "threads"),
    [(1, 1, "1"), (1, 2, "1"), (2, 2, "1"), (1, 8, "7"), (2, 9, "4")],
)
def test_replicas_share_all_cores_but_one(replicas: int, cores: int, threads: str) -> None:
    added = environment(gpu=False, replicas_here=replicas, cores=cores)

    assert added["OMP_NUM_THREADS"] == threads


@pytest.mark.parametrize("gpu", [True, False])
def test_vllm_never_calls_out(gpu: bool) -> None:
    added = environment(gpu=gpu, replicas_here=1, cores=2)

    assert added["HF_HUB_OFFLINE"] == added["VLLM_NO_USAGE_STATS"] == "1"
