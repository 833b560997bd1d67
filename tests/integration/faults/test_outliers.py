"""A runtime much slower than its peers gets no new requests, and is used again when it is well."""

import asyncio
from pathlib import Path

from services.router.core.outliers import EJECTED_S, IN_A_ROW, SLOW
from tests.integration.faults.small_mesh import SmallMesh, small_mesh
from tests.integration.faults.streams import Load, Stream

WORKERS = 9
SLOWER_BY_S = 1.5
FOUND_WITHIN_S = 30.0
ON_ITS_WAY_S = 0.5  # what was let go before the router knew
USED_AGAIN_WITHIN_S = 20.0


async def why_left_out(mesh: SmallMesh, stream: Stream, address: str) -> str:
    told = await mesh.asked.explain(stream.request_id)
    return next(each.left_out for each in told.candidates if each.address == address)


async def until_left_out(mesh: SmallMesh, load: Load, address: str) -> None:
    async with asyncio.timeout(FOUND_WITHIN_S):
        while True:
            begun = [each for each in load.streams if each.request_id]
            if begun and await why_left_out(mesh, begun[-1], address) == SLOW:
                return
            await asyncio.sleep(0.02)


def test_a_slow_runtime_is_left_out_and_used_again_when_it_is_well(tmp_path: Path) -> None:
    async def run() -> None:
        clock = asyncio.get_running_loop().time
        async with small_mesh(tmp_path, runtimes=3) as mesh:
            slow = next(iter(mesh.engines))
            mesh.engines[slow].delay_s = SLOWER_BY_S
            load = Load(mesh.address, mesh.tenant, "simulated", tokens=5)
            async with load.running(WORKERS):
                await until_left_out(mesh, load, slow)
                found_s = clock()
                assert (await mesh.asked.endpoints())[slow].left_out == SLOW
                mesh.engines[slow].delay_s = 0.0
                used_s = await load.until_used(
                    slow, since_s=found_s + ON_ITS_WAY_S, within_s=USED_AGAIN_WITHIN_S
                )
                assert not (await mesh.asked.endpoints())[slow].left_out
                await asyncio.sleep(1.0)
        begun = [each for each in load.streams if each.begun_s < found_s and each.endpoint == slow]
        assert IN_A_ROW <= len(begun) <= IN_A_ROW + WORKERS
        away = [
            each
            for each in load.streams
            if each.began_within(found_s + ON_ITS_WAY_S, found_s + EJECTED_S - 2 * ON_ITS_WAY_S)
        ]
        assert len(away) > WORKERS
        assert slow not in {each.endpoint for each in away}
        assert used_s - found_s < USED_AGAIN_WITHIN_S
        assert not [each for each in load.streams if each.error is not None]
        said = mesh.router.log.read_text()
        assert said.count("endpoint.ejected") == 1
        assert said.count("endpoint.returned") == 1

    asyncio.run(run())
