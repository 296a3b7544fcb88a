"""Compare the time of ``import flask, flask_store`` with that of ``import flask``, in fresh processes in turn.

python benchmarks/importing.py [--rounds 40]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys

TIMED = "import time; start = time.perf_counter(); {imports}; print(time.perf_counter() - start)"


def milliseconds(imports: str) -> float:
    output = subprocess.check_output([sys.executable, "-P", "-c", TIMED.format(imports=imports)], text=True)
    return float(output) * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    rounds = parser.parse_args().rounds
    times: dict[str, list[float]] = {"import flask": [], "import flask, flask_store": []}
    for _ in range(rounds):
        for imports, figures in times.items():
            figures.append(milliseconds(imports))
    differences = [both - flask for flask, both in zip(*times.values(), strict=True)]
    for imports, figures in times.items():
        print(f"{imports:28} {statistics.median(figures):7.1f} ms")
    print(f"{'difference, pair by pair':28} {statistics.median(differences):7.1f} ms")


if __name__ == "__main__":
    main()
