"""`python -m benchmarks NAME`: runs one benchmark; its last line of output is one JSON object."""

import os
import sys

from benchmarks import (
    audit,
    budget_race,
    chaos,
    decide,
    endurance,
    fairness,
    hedging,
    isolation,
    overhead,
    overload,
    policies,
    prefix,
)

BENCHMARKS = {
    "overhead": overhead.main,
    "hedging": hedging.main,
    "fairness": fairness.main,
    "prefix": prefix.main,
    "overload": overload.main,
    "isolation": isolation.main,
    "decide": decide.main,
    "chaos": chaos.main,
    "audit": audit.main,
    "policies": policies.main,
    "budget_race": budget_race.main,
    "load": endurance.load,
    "soak": endurance.soak,
}


def main(arguments: list[str]) -> int:
    if not arguments or arguments[0] not in BENCHMARKS:
        print(f"usage: python -m benchmarks {' | '.join(BENCHMARKS)}", file=sys.stderr)
        return os.EX_USAGE
    return BENCHMARKS[arguments[0]](arguments[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
