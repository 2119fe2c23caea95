"""The house stays as drawn: who may import whom, and what a light command must not load."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted(path for package in ("tasks", "gvae", "metalearn") for path in (ROOT / package).rglob("*.py"))
ONLY = {  # third party package: the only modules that may import it
    "learn2learn": ("metalearn/learn2learn_loop.py",),
    "tensorboard": ("metalearn/board.py",),
    "yaml": ("metalearn/config.py",),
    "ray": ("metalearn/cluster.py", "metalearn/connect.py", "metalearn/node.py"),
    "typer": ("metalearn/cli.py", "metalearn/cli_data.py", "metalearn/arguments.py"),
}
HEAVY = {"torch", "torchvision", "learn2learn", "gym", "numpy", "scipy", "matplotlib", "tensorboard", "yaml"}


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imported(path: Path) -> set[str]:
    """Dotted names of everything imported anywhere in a module."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name(path)}: relative import; write the full name"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", MODULES, ids=name)
class TestDirections:
    def test_packages_look_only_downwards(self, path):
        forbidden = {"tasks": {"gvae", "metalearn"}, "gvae": {"tasks", "metalearn"}, "metalearn": set()}
        package = path.relative_to(ROOT).parts[0]
        roots = {module.split(".")[0] for module in imported(path)}
        assert not roots & (forbidden[package] | {"tests", "benchmarks", "configs"})

    def test_one_module_knows_each_foreign_engine(self, path):
        modules = imported(path)
        for package, owners in ONLY.items():
            known = {module for module in modules if module.split(".")[0] == package}
            if package == "tensorboard":
                known |= {module for module in modules if module.startswith("torch.utils.tensorboard")}
            assert not known or name(path) in owners, f"{name(path)} imports {known}; only {owners} may"

    def test_shapes_are_checked_only_without_postponed_annotations(self, path):
        modules = imported(path)
        postponed = "__future__.annotations" in modules
        assert not (postponed and any(module.startswith("jaxtyping") for module in modules))

    def test_a_file_holds_one_idea(self, path):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 250

    def test_it_says_what_it_is(self, path):
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))

    def test_no_path_of_one_machine(self, path):
        assert not re.search(r"""["'](/home/|/root/|/Users/|/tmp/)""", path.read_text(encoding="utf-8"))

    def test_no_global_randomness(self, path):
        calls = [
            ast.unparse(node.func)
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Call)
        ]
        assert not {"torch.manual_seed", "np.random.seed", "random.seed"} & set(calls)


def loaded(*code: str) -> set[str]:
    """Top-level packages in sys.modules after `code` ran in a fresh process."""
    lines = "\n".join([*code, "import sys", "print('LOADED', *{name.split('.')[0] for name in sys.modules})"])
    done = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, cwd=ROOT, check=True)
    return set(done.stdout.rpartition("LOADED")[2].split())


def command(*arguments: str) -> tuple[str, ...]:
    return (
        "import sys, contextlib",
        f"sys.argv = {['metalearn', *arguments]}",
        "from metalearn.cli import main",
        "with contextlib.suppress(SystemExit): main()",
    )


@pytest.mark.parametrize(
    "code",
    [
        ("import metalearn",),
        command("--help"),
        command("--version"),
        command("bench", "--help"),
        command("data", "--help"),
        command("bensh"),
    ],
    ids=["import", "help", "version", "bench help", "data help", "unknown command"],
)
def test_light_paths_load_nothing_heavy(code):
    assert not loaded(*code) & HEAVY


def test_packages_alone_load_nothing_heavy():
    heavy = HEAVY | {"pydantic"}  # which typer loads by itself
    assert not loaded("import tasks, gvae, metalearn, metalearn.errors, gvae.errors") & heavy


def test_a_benchmark_without_gradient_learners_stays_free_of_learn2learn():
    assert not loaded("import metalearn.run, metalearn.learners, metalearn.report, metalearn.listing",
                      "metalearn.listing.listing('learners')") & {"learn2learn", "gym", "cvxpy"}  # fmt: skip


@pytest.mark.parametrize(
    ("given", "then"),
    [
        ({}, "PASSIVE 3000"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE None"),
        ({"GOMP_SPINCOUNT": "7"}, "None 7"),
    ],
)
def test_threads_wait_as_the_environment_says_or_spin_shortly(given, then):
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    code = f"import os, metalearn; print(*[os.environ.get(name) for name in {names}])"
    environment = {name: value for name, value in os.environ.items() if name not in names} | given
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment)
    assert told.stdout.strip() == then
