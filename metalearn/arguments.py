"""What the commands of the command line take: arguments and options that several have, each said once."""

from pathlib import Path
from typing import Annotated, Any

import typer

CONFIG_HELP = "YAML file; see configs/."
RunDirectory = Annotated[Path, typer.Argument(help="Directory of a run.", show_default=False)]
Assignments = Annotated[
    list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="Override a setting; may be repeated.")
]
Options = Annotated[
    list[str] | None, typer.Option("--set", metavar="OPTION=VALUE", help="Option of the dataset; may be repeated.")
]
Out = Annotated[Path | None, typer.Option(help="Run directory; runs/<name of the config> if not given.")]
DataRoot = Annotated[
    Path | None, typer.Option(envvar="METALEARN_DATA", help="Folder of the data; ~/.cache/metalearn if not given.")
]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Seed = Annotated[int | None, typer.Option(help="Override the seed (bench: the seeds) of the config.")]
Jobs = Annotated[
    int | None, typer.Option(help="Benchmark: steps at once, each in a process with its part of the cores; default 1.")
]
Memory = Annotated[float | None, typer.Option(help="Benchmark: GB that these processes may take together.")]
Ray = Annotated[
    str | None,
    typer.Option(
        "--ray", metavar="ADDRESS",
        help="Benchmark: steps on a Ray cluster, HOST:PORT or auto, each with the cores that --jobs gives it here.",
    ),
]  # fmt: skip
Quiet = Annotated[bool, typer.Option("--quiet", help="Show no progress and no report.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Dataset = Annotated[str, typer.Argument(help="Name of a dataset; see: metalearn list datasets", show_default=False)]
PLAIN: dict[str, Any] = {"add_completion": False, "pretty_exceptions_enable": False, "rich_markup_mode": None}
"""How every group of commands is shown."""
