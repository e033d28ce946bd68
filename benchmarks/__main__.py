"""`make bench`: measures every figure, prints a table, writes it as JSON; exits with 1 if a target is missed."""

import json
import platform
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from benchmarks import figures
from benchmarks.environment import built_packages, running_environment
from benchmarks.figures import Figure
from local.runtime import emulator
from local.terminal import painted, progress

_RESULTS = Path(__file__).with_name("results.json")
_ROW = "{:<42} {:>10} {:>10} {:>7} {:>7}  {}"


def main() -> int:
    """Measure and report."""
    python = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    print(f"{python}. Building the package with bytecode for it.", flush=True)
    print(_ROW.format("figure", "ours", "baseline", "ratio", "target", ""))
    measured: list[Figure] = []
    remaining = _measure()
    while True:
        with progress("measuring"):
            figure = next(remaining, None)
        if figure is None:
            break
        measured.append(figure)
        print(_line(figure), flush=True)
    results = [{**asdict(figure), "measured": figure.measured, "met": figure.met} for figure in measured]
    _RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    missed = [figure.name for figure in measured if not figure.met]
    if not emulator():
        print("Cold starts and memory were skipped: AWS's runtime emulator runs on Linux only.")
    print(f"\n{'All targets are met.' if not missed else 'Missed: ' + ', '.join(missed)}")
    return 1 if missed else 0


def _measure() -> Iterator[Figure]:
    with built_packages() as packages, running_environment() as environment:
        yield figures.package(packages)
        yield figures.mapping()
        yield figures.warm(environment)
        yield from figures.queued(environment)
        yield from figures.growth(environment)
        if emulator():
            yield figures.cold(environment, packages)
            yield figures.memory(environment, packages)


def _line(figure: Figure) -> str:
    value, baseline, measured = f"{figure.value:.3g} {figure.unit}", "", ""
    if figure.baseline is not None:
        baseline, measured = f"{figure.baseline:.3g} {figure.unit}", f"{figure.measured:.2f}"
    result = painted("met", "green") if figure.met else painted("MISSED", "red")
    return _ROW.format(figure.name, value, baseline, measured, f"{figure.target:g}", result)


if __name__ == "__main__":
    sys.exit(main())
