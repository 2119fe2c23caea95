"""The live table of a benchmark on a terminal: steps being done, counts of cells, time left, cells measured last."""

import sys
from collections.abc import Callable, Iterator

from rich.console import Console, ConsoleOptions, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from metalearn.standing import Doing, Measured, Standing, duration, time_left

REFRESH = 2.0  # a second
WIDEST = 100  # columns that it takes
MARGIN = 2  # columns left free: a terminal echoes ^C there, which must not begin a line
WIDE = 72  # columns from which a step also says what it is at


class StandingTable:
    """What `standing` says, in as many lines as the terminal has, less one for the cursor."""

    def __init__(self, standing: Callable[[], Standing]):
        self._standing = standing

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        now, width = self._standing(), max(1, min(options.max_width - MARGIN, WIDEST))
        room = max(1, options.size.height - 1)
        for line in _counts(now, width)[:room]:
            yield _line(line, width)
            room -= 1
        steps = now.doing if len(now.doing) <= room else now.doing[: max(0, room - 1)]
        if steps:
            yield _steps(steps, width)
        if len(steps) < len(now.doing) and room > 0:
            yield _line(f"and {len(now.doing) - len(steps)} more steps", width)
            return
        room -= len(steps)
        if now.measured and room > 1:
            yield _line("measured last", width, "dim")
            yield _measured(now.measured[: room - 1], width)


def live_table(standing: Callable[[], Standing]) -> Live:
    """The table on stderr, shown inside the context that this is; what is printed meanwhile appears above it."""
    return Live(
        StandingTable(standing), console=Console(stderr=True), refresh_per_second=REFRESH, transient=True,
        redirect_stdout=sys.stdout.isatty(), vertical_overflow="crop",
    )  # fmt: skip


def _line(text: str, width: int, style: str = "") -> Text:
    line = Text(text, style=style, no_wrap=True)
    line.truncate(width, overflow="ellipsis")
    return line


def _counts(now: Standing, width: int) -> list[str]:
    """Of cells and steps, and the time left: in a line, or in two where that is narrow."""
    failed = f", {now.failed} failed" if now.failed else ""
    words = f"{now.done} done{failed}, {now.waiting} waiting"
    left = time_left(now.left) or "time left not known yet"
    steps = f"steps: {now.steps_done} of {now.steps}"
    return [f"cells: {words}; {steps}; {left}"] if width >= WIDE else [words, left]


def _grid(width: int) -> Table:
    table = Table.grid(padding=(0, 1, 0, 0), pad_edge=False, expand=True)
    table.width = width
    return table


def _steps(steps: tuple[Doing, ...], width: int) -> Table:
    """A line a step: name, what it is at where there is room, bar, time left."""
    table = _grid(width)
    table.add_column(no_wrap=True, overflow="ellipsis", ratio=3)
    if width >= WIDE:
        table.add_column(no_wrap=True, overflow="ellipsis", ratio=2)
    bar = max(4, width // 5)
    table.add_column(width=bar)
    table.add_column(no_wrap=True, justify="right", width=10)
    for step in steps:
        shown = ProgressBar(total=step.total or 1, completed=step.done if step.total else 0, width=bar)
        told = [Text(step.text)] if width >= WIDE else []
        table.add_row(Text(step.name), *told, shown, "" if step.left is None else duration(step.left))
    return table


def _measured(cells: tuple[Measured, ...], width: int) -> Table:
    """A line a cell: name, accuracy with its interval."""
    table = _grid(width)
    table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    table.add_column(no_wrap=True, justify="right")
    for cell in cells:
        table.add_row(Text(cell.name), str(cell))
    return table
