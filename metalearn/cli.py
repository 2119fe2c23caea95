"""The command line: thin commands that load a config, open a run and hand over. Imports nothing heavy by itself."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from metalearn import __version__
from metalearn.arguments import (
    CONFIG_HELP,
    PLAIN,
    Assignments,
    DataRoot,
    Debug,
    Device,
    Jobs,
    Memory,
    Out,
    Quiet,
    Ray,
    RunDirectory,
    Seed,
)
from metalearn.cli_data import data
from metalearn.errors import UserError
from metalearn.given import choose_device, find_data_root
from metalearn.mistakes import INTERRUPTED, MISTAKE, Stop, Work, explained
from metalearn.processes import require_one, speaks

JOBS = {
    "pretrain": ("metalearn.jobs", "Pretrain an encoder."),
    "train": ("metalearn.jobs", "Meta-train a learner on episodes, then test it."),
    "bench": ("metalearn.bench", "Compare extractors x learners x settings x seeds on the same episodes."),
    "measure": ("metalearn.measure", "Disentanglement metrics and latent traversals of a checkpoint."),
    "extract": ("metalearn.jobs", "Write features of a dataset to .npz."),
}

_USAGE: Any = typer.BadParameter.__base__  # click's UsageError, whether click is typer's own or not
app = typer.Typer(no_args_is_help=True, help="Few-shot benchmarks of Guided-VAE features.", **PLAIN)
app.add_typer(data, name="data")


@app.callback(invoke_without_command=True)
def _common(version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False) -> None:
    if version:
        print(f"metalearn {__version__}")


@app.command()
def quickstart(
    out: Annotated[Path, typer.Option(help="Run directory.")] = Path("runs/quickstart"),
    device: Device = "auto",
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Pretrain, benchmark and report on embedded data: no download, under 3 minutes on 2 CPU cores."""
    with explained(debug) as work:
        require_one("quickstart")
        chosen = choose_device(device)
        from metalearn import jobs

        work.run = out
        jobs.quickstart(out, chosen, quiet)


def _config_command(command: str) -> Callable[..., None]:
    what = CONFIG_HELP + " Or a checkpoint: its file, folder or run." * (command == "measure")

    def run_config(
        config: Annotated[Path, typer.Argument(help=what, show_default=False)],
        set: Assignments = None,
        out: Out = None,
        data_root: DataRoot = None,
        device: Device = "auto",
        seed: Seed = None,
        quiet: Quiet = False,
        debug: Debug = False,
    ) -> None:
        _start(command, config, set, out, data_root, device, seed, quiet, debug)

    return run_config


def _start(
    command: str, config: Path, set: list[str] | None, out: Path | None, data_root: Path | None, device: str,
    seed: int | None, quiet: bool, debug: bool, **options: Any,
) -> None:  # fmt: skip
    """Start the job of `command` by a config."""
    with explained(debug) as work:
        require_one(command)
        from metalearn.config import load_config
        from metalearn.schema import CONFIGS

        seeds = [] if seed is None else [f"seeds=[{seed}]" if command == "bench" else f"seed={seed}"]
        overrides = [*(set or []), *seeds]
        if command == "measure" and (config.is_dir() or config.suffix == ".safetensors"):
            from metalearn.measure import checkpoint_config, default_out

            measured, place = checkpoint_config(config, overrides), out or default_out(config)
            _carry_out(work, command, measured, None, place, data_root, device, quiet)
            return
        loaded = load_config(config, CONFIGS[command], overrides)
        _carry_out(work, command, loaded, config, out, data_root, device, quiet, **options)


for _name, (_, _help) in JOBS.items():
    if _name != "bench":
        app.command(_name, help=_help)(_config_command(_name))


@app.command(help=JOBS["bench"][1])
def bench(
    config: Annotated[Path, typer.Argument(help=CONFIG_HELP, show_default=False)],
    jobs: Jobs = None,
    memory: Memory = None,
    ray: Ray = None,
    set: Assignments = None,
    out: Out = None,
    data_root: DataRoot = None,
    device: Device = "auto",
    seed: Seed = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Run a benchmark."""
    _start("bench", config, set, out, data_root, device, seed, quiet, debug, jobs=jobs, memory=memory, ray=ray)


@app.command()
def resume(
    directory: RunDirectory,
    jobs: Jobs = None,
    memory: Memory = None,
    ray: Ray = None,
    data_root: DataRoot = None,
    device: Device = "auto",
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Go on with an unfinished run."""
    with explained(debug) as work:
        from metalearn.config import load_config
        from metalearn.run import read_start
        from metalearn.schema import CONFIGS

        start = read_start(directory)
        require_one(start["command"])
        recorded = Path(start["data_root"]) if start["data_root"] else None
        config = load_config(directory / "resolved.yaml", CONFIGS[start["command"]])
        given = {"jobs": jobs, "memory": memory, "ray": ray}
        _carry_out(work, start["command"], config, None, directory, data_root or recorded, device, quiet, **given)


def _carry_out(
    work: Work,
    command: str,
    config: Any,
    source: Path | None,
    out: Path | None,
    data_root: Path | None,
    device: str,
    quiet: bool,
    **options: Any,
) -> None:
    """Let the job of `command` do what `config` describes, in its run; an option that is None was not given."""
    given = {name: value for name, value in options.items() if value is not None}
    if given and command != "bench":
        raise UserError(f"--{next(iter(given))} is for benchmarks, and this is a run of `metalearn {command}`; omit it")
    root = find_data_root(data_root)
    chosen = choose_device(device)
    from metalearn.launch import carry_out

    carry_out(work, JOBS[command][0], command, config, source, out, root, chosen, quiet, given)


@app.command()
def report(
    directories: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Finished runs.", show_default=False)],
    baseline: Annotated[str | None, typer.Option(help="Extractor to compare with.")] = None,
    format: Annotated[str, typer.Option(help="md, csv, tex or json.")] = "md",
    plots: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write plots there too, as png and svg.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Print one paired comparison over finished benchmarks; with --plots, draw it, and scores of runs of measure."""
    with explained(debug):
        require_one("report")
        from metalearn.reporting import reported

        text, drawn = reported(directories, baseline, format, plots)
        print(text, end="")
        if drawn:
            print(drawn, end="", file=sys.stderr)


@app.command("list")
def list_(
    kind: Annotated[str | None, typer.Argument(help="extractors, learners, datasets, objectives or metrics.")] = None,
    debug: Debug = False,
) -> None:
    """List what a config can name."""
    with explained(debug):
        require_one("list")
        from metalearn.listing import listing

        print(listing(kind))


def main() -> None:
    """Entry point of the console script: exit status 0, 2 for a mistake (said on stderr), 130 for an interrupt."""
    try:
        status = app(standalone_mode=False)
    except _USAGE as error:
        if speaks():
            error.show()
        sys.exit(MISTAKE)
    except Stop as stop:
        sys.exit(stop.status)
    except (KeyboardInterrupt, typer.Abort):
        print("\ninterrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    sys.exit(status)
