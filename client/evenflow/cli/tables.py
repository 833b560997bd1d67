"""How tables look: without frames, and 80 columns wide."""

from rich.box import SIMPLE
from rich.table import Table


def table(*columns: str) -> Table:
    made = Table(*columns, box=SIMPLE, pad_edge=False)
    made.columns[0].no_wrap = True  # names and addresses may be copied
    for column in made.columns[1:]:
        column.overflow = "fold"  # nothing is left out
    return made
