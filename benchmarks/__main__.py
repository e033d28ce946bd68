"""`make bench`: measures every figure, prints one table, writes it as JSON; exits 1 when a target is not met."""

import json
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks import figures
from benchmarks.environment import running_environment
from benchmarks.figures import Figure
from benchmarks.package import built_packages
from local.runtime import emulator
from local.terminal import painted, progress

_RESULTS = Path(__file__).with_name("results.json")
_ROW = "{:<42} {:>10} {:>10} {:>7} {:>7}  {}"


def main() -> int:
    """Measure and report."""
    python = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    print(f"{python}. Building the package with bytecode for it.", flush=True)
    print(_ROW.format("figure", "ours", "baseline", "ratio", "target", ""))
    measured = []
    figures_to_come = _measure()
    while True:
        with progress("measuring"):
            figure = next(figures_to_come, None)
        if figure is None:
            break
        measured.append(figure)
        print(_line(figure), flush=True)
    _RESULTS.write_text(json.dumps([figure.as_dict() for figure in measured], indent=2) + "\n")
    missed = [figure.name for figure in measured if not figure.met]
    if not emulator():
        print("The cold starts were left out: AWS's runtime emulator, which measures them, runs on Linux only.")
    print(f"\n{'All targets are met.' if not missed else 'Not met: ' + ', '.join(missed)}")
    return 1 if missed else 0


def _measure() -> Iterator[Figure]:
    with built_packages() as packages, running_environment() as around:
        yield figures.package(packages)
        yield figures.mapping()
        yield figures.warm(around)
        yield figures.warm_queued(around)
        yield figures.hundred_events(around)
        if emulator():
            yield figures.cold(around, packages)
        yield from figures.growth(around)
        yield figures.memory(around)


def _line(figure: Figure) -> str:
    value = f"{figure.value:.3g} {figure.unit}"
    baseline = "" if figure.baseline is None else f"{figure.baseline:.3g} {figure.unit}"
    measured = "" if figure.baseline is None else f"{figure.measured:.2f}"
    return _ROW.format(
        figure.name,
        value,
        baseline,
        measured,
        f"{figure.target:g}",
        painted("met", "green") if figure.met else painted("NOT MET", "red"),
    )


if __name__ == "__main__":
    sys.exit(main())
