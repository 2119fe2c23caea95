"""How long the command line takes to answer, beside the bare interpreter and an import of torch, in one run.

Run: python benchmarks/startup.py [runs]
"""

import statistics
import subprocess
import sys
import time

CASES = {
    "python -c pass": ["-c", "pass"],
    "metalearn --help": ["-m", "metalearn", "--help"],
    "import metalearn": ["-c", "import metalearn"],
    "import torch": ["-c", "import torch"],
    "import learn2learn": ["-c", "import learn2learn"],
}


def main(runs: int) -> None:
    """Time every case in turn, ``runs`` rounds, so that a busy moment of the machine meets all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in CASES}
    for _ in range(runs):
        for name, words in CASES.items():
            began = time.perf_counter()
            subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            seconds[name].append(time.perf_counter() - began)
    bare = statistics.median(seconds["python -c pass"])
    print(f"{'case':20} {'median s':>9} {'least s':>9} {'x bare':>7}   N = {runs}")
    for name, taken in seconds.items():
        median = statistics.median(taken)
        print(f"{name:20} {median:9.3f} {min(taken):9.3f} {median / bare:7.1f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 7)
