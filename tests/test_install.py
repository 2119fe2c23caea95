"""What scripts/install.sh says when something is missing: one line each, on a machine of stand-ins."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ["awk", "cat", "cksum", "cp", "cut", "date", "dirname", "grep"]
TOOLS += ["mkdir", "rm", "sed", "sh", "tail", "uname", "wc"]
FILES = ["Makefile", "constraints.txt", "pyproject.toml", "scripts/install.sh", "scripts/mend.py"]

# Answers the probe as told, makes a virtual environment that holds itself, and has a pip that does as told.
PYTHON = """#!/bin/sh
case "$*" in
"-c "*ensurepip*) echo "{verdict} {version} /usr/include" ;;
"-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
"-m pip "*) echo "$*" >>pip-calls; {pip} ;;
*) : ;;
esac
"""


def fails(words: str) -> str:
    """Return shell code for a pip that says these words and fails."""
    return f"echo '{words}'; exit 1"


NO_NETWORK = fails("WARNING: Retrying after connection broken by NewConnectionError")


class Machine:
    """A copy of what an install reads, and a PATH with nothing on it but the tools and what a test adds."""

    def __init__(self, folder: Path):
        self.home = folder / "a checkout"
        self.bin = folder / "bin"
        self.bin.mkdir(parents=True)
        (self.home / "scripts").mkdir(parents=True)
        for name in FILES:
            shutil.copy(ROOT / name, self.home / name)
        for tool in TOOLS:
            found = shutil.which(tool)
            assert found, f"the test needs {tool}"
            (self.bin / tool).symlink_to(found)

    def add(self, name: str, script: str = "#!/bin/sh\n") -> Path:
        """Put an executable on the PATH, in place of the one there."""
        path = self.bin / name
        path.unlink(missing_ok=True)
        path.write_text(script)
        path.chmod(0o755)
        return path

    def python(self, name="python3", verdict="ok", version="3.11", pip=":") -> Path:
        """Put a stand-in for Python on the PATH."""
        return self.add(name, PYTHON.format(verdict=verdict, version=version, pip=pip))

    def install(self, *args: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Call the script as the Makefile does."""
        return subprocess.run(
            [self.home / "scripts/install.sh", *(args or ("run",))],
            env={"PATH": str(self.bin), "HOME": str(self.home), **variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def refusal(self, *args: str, **variables: str) -> str:
        """Call the script, which must refuse with status 1 and one line on stderr; return that line."""
        done = self.install(*args, **variables)
        assert done.returncode == 1, done
        assert done.stderr.startswith("metalearn: ") and done.stderr.count("\n") == 1, done.stderr
        return done.stderr.strip()

    def pip_calls(self) -> list[str]:
        """Return what pip was called with since last asked."""
        calls = self.home / "pip-calls"
        said = calls.read_text().splitlines() if calls.exists() else []
        calls.unlink(missing_ok=True)
        return said


@pytest.fixture
def machine(tmp_path) -> Machine:
    """Return a machine that has a compiler, disk space and no Python."""
    made = Machine(tmp_path)
    made.add("cc")
    made.add("sleep", f"#!/bin/sh\nexec {shutil.which('sleep')} 0.02\n")
    made.add("df", "#!/bin/sh\nprintf 'head\\nfs 1 1 99999999 1%% /\\n'\n")
    return made


def test_no_python(machine):
    line = machine.refusal()
    assert "Python 3.10, 3.11 or 3.12 is needed and none was found: install one, or name it: PYTHON=" in line


def test_only_a_wrong_python(machine):
    machine.python("python3", "version", "3.13")
    assert "3.10, 3.11 or 3.12 is needed; found python3 (Python 3.13)" in machine.refusal()


def test_the_probe_refuses_a_real_wrong_python_without_a_traceback(machine):
    """The probe's own words, run by this Python under the pretence of another version."""
    probe = (ROOT / "scripts/install.sh").read_text().split("probe='")[1].split("'\n")[0]
    imports = "import os, sys, sysconfig"
    pretend = probe.replace(imports, imports + "\nsys.version_info = (2, 7, 18)")
    assert pretend != probe
    for code, expected in [(probe, ("ok", "headers")), (pretend, "version 2.7")]:
        said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert said.stdout.startswith(expected) and not said.stderr


def test_a_shim_that_fails_is_passed_over(machine):
    machine.add("python3.12", "#!/bin/sh\necho 'command not found' >&2\nexit 127\n")
    machine.python("python3.10", version="3.10")
    done = machine.install()
    assert done.returncode == 0, done
    assert "Python 3.10" in done.stdout


def test_a_usable_python_is_preferred_to_a_newer_one_without_venv(machine):
    machine.python("python3.12", "venv", "3.12")
    machine.python("python3.11")
    assert "Python 3.11" in machine.install().stdout


@pytest.mark.parametrize(
    ("verdict", "words"),
    [
        ("venv", "no venv module with pip: install it (Debian, Ubuntu: apt install python3.11-venv)"),
        ("headers", "no header files, which learn2learn is compiled with: install them (Debian, Ubuntu: apt"),
        ("headers", "apt install python3.11-dev; Fedora: dnf install python3.11-devel)"),
        ("partial", "was built without one of bz2, ctypes, lzma, ssl, zlib"),
    ],
)
def test_python_of_the_right_version_that_lacks_a_part(machine, verdict, words):
    machine.python("python3.11", verdict)
    machine.python("python3", "version", "3.13")
    line = machine.refusal()
    assert "python3.11 (Python 3.11)" in line and words in line


def test_given_python_cannot_be_run(machine):
    machine.python()
    assert "PYTHON=/nowhere/python cannot be run" in machine.refusal(PYTHON="/nowhere/python")


def test_given_python_is_of_a_wrong_version(machine):
    machine.python()
    wrong = str(machine.python("old", "version", "3.9"))
    assert f"found PYTHON={wrong} (Python 3.9)" in machine.refusal(PYTHON=wrong)


def test_no_compiler(machine):
    machine.python()
    (machine.bin / "cc").unlink()
    line = machine.refusal()
    assert "no C compiler (cc, gcc or clang)" in line and "apt install build-essential" in line
    assert not (machine.home / ".venv").exists()


def test_compiler_without_its_headers(machine):
    machine.python()
    machine.add("cc", "#!/bin/sh\necho 'fatal error: stdlib.h: No such file or directory' >&2\nexit 1\n")
    assert "the C compiler 'cc' does not compile a file that includes Python.h" in machine.refusal()
    assert "stdlib.h" in (machine.home / ".venv/install.log").read_text()


def test_disk_without_room(machine):
    machine.python()
    machine.add("df", "#!/bin/sh\nprintf 'head\\nfs 1 1 1048576 1%% /\\n'\n")
    line = machine.refusal()
    assert "disk full: the install needs" in line and "1 GB are free" in line


@pytest.mark.parametrize(
    ("pip", "words"),
    [
        (NO_NETWORK, "no network: pip could not reach its package index"),
        (fails("ERROR: Could not install: [Errno 28] No space left on device"), "disk full: make room"),
        (fails("ERROR: No matching distribution found for six==9"), "the package index has no six==9"),
        (fails("error: metadata-generation-failed"), "a package could not be built"),
        (fails("ERROR: something else"), "step 2 of 5 failed: ERROR: something else"),
    ],
)
def test_pip_fails(machine, pip, words):
    machine.python(pip=pip)
    line = machine.refusal()
    assert words in line and ".venv/install.log" in line


def test_broken_off_install_is_taken_up_and_the_next_call_does_nothing(machine):
    machine.python(pip=NO_NETWORK)
    machine.refusal("test")
    machine.python("python3")
    shutil.copy(machine.bin / "python3", machine.home / ".venv/bin/python")  # the network is back
    done = machine.install("test")
    assert done.returncode == 0, done
    assert "there already" in done.stdout and "installed in .venv" in done.stdout
    assert any(call.endswith("-e .[test]") for call in machine.pip_calls())

    again = machine.install("test"), machine.install("run")  # what tests need is more
    assert all(done.returncode == 0 and not done.stdout and not done.stderr for done in again), again
    assert not machine.pip_calls()


def test_run_then_test_installs_the_rest(machine):
    machine.python()
    machine.install("run")
    machine.pip_calls()
    machine.install("test")
    assert any(call.endswith("-e .[test]") for call in machine.pip_calls())


@pytest.mark.parametrize("file", ["pyproject.toml", "constraints.txt"])
def test_a_changed_file_installs_again(machine, file):
    machine.python()
    machine.install()
    machine.pip_calls()
    with (machine.home / file).open("a") as text:
        text.write("# changed\n")
    assert machine.install().returncode == 0
    assert machine.pip_calls()


def test_another_python_or_a_moved_checkout_makes_the_environment_anew(machine):
    machine.python()
    machine.install()
    other = str(machine.python("other", version="3.12"))
    assert "with Python 3.12, in place of the one there" in machine.install(PYTHON=other).stdout
    machine.home = machine.home.rename(machine.home.with_name("elsewhere"))
    assert "with Python 3.11, in place of the one there" in machine.install().stdout


def test_torch_from_a_given_index_is_kept_and_leaves_the_cuda_pins_out(machine):
    machine.python()
    machine.install(TORCH_INDEX="https://index.example/cpu")
    torch, *rest = [call for call in machine.pip_calls() if "--index-url" in call]
    assert not rest and "--index-url https://index.example/cpu --no-deps" in torch
    assert "torch==" in torch and "torchvision==" in torch
    pins = (machine.home / ".venv/constraints.txt").read_text()
    assert "torch==" in pins and "\nnvidia-" not in pins and "\ntriton" not in pins

    assert not machine.install().stdout, "not given again: nothing to do"
    machine.install("test")
    assert any("--index-url https://index.example/cpu" in call for call in machine.pip_calls())
    machine.install(TORCH_INDEX="https://index.example/other")
    assert any("--force-reinstall" in call for call in machine.pip_calls())


def test_unknown_call(machine):
    assert "usage: scripts/install.sh run|test" in machine.refusal("everything")


def test_mend_forgets_a_package_that_is_not_whole(tmp_path):
    """A real environment, without pip; packages as pip leaves them when it is killed."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    python = tmp_path / "venv/bin/python"
    ask = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site = Path(subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip())
    for name in ["whole", "short", "missing", "unrecorded", "unfinished"]:
        (site / f"{name}.py").write_text("x = 1\n")
        info = site / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "INSTALLER").write_text("pip\n")
        (info / "RECORD").write_text(f"{name}.py,sha256=x,6\n{name}-1.0.dist-info/RECORD,,\n")
    (site / "short.py").write_text("x\n")
    (site / "missing.py").unlink()
    (site / "unrecorded-1.0.dist-info/RECORD").unlink()
    (site / "unfinished-1.0.dist-info/INSTALLER").unlink()
    (site / "~hole").mkdir()

    mend = [python, ROOT / "scripts/mend.py"]
    said = subprocess.run(mend, capture_output=True, text=True, check=True).stdout
    assert [info.name for info in site.glob("*.dist-info")] == ["whole-1.0.dist-info"]
    assert "short-1.0" in said and "whole-1.0" not in said
    assert not (site / "~hole").exists()


@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
def test_make_help_names_every_target():
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    for target in ["quickstart", "test", "lint", "install", "clean"]:
        assert f"make {target}" in done.stdout


def test_every_dependency_is_pinned():
    """Each requirement of the project file has a pin for every Python that it may meet."""
    packaging = pytest.importorskip("packaging.requirements")
    tomllib = pytest.importorskip("tomllib", reason="Python 3.11 has it")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + sum(project["optional-dependencies"].values(), [])
    pins = [
        packaging.Requirement(line)
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    for requirement in map(packaging.Requirement, wanted):
        if requirement.name == project["name"]:  # an extra that brings another, which is among the wanted itself
            assert requirement.extras <= set(project["optional-dependencies"])
            continue
        for version in ["3.10", "3.11", "3.12"]:
            found = [
                pin
                for pin in pins
                if pin.name.lower() == requirement.name.lower()
                and (pin.marker is None or pin.marker.evaluate({"python_version": version}))
            ]
            assert len(found) == 1, (requirement, version, found)
            (pinned,) = found[0].specifier
            assert requirement.specifier.contains(pinned.version), (requirement, pinned)
