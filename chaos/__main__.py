"""RudderStack's router against the local stack while everything around the functions fails; then the reckoning.

`make chaos`, or `python -m chaos --events N --seed S [--mode MODE ...]`. It ends with 1 when an event was lost, an
incident was opened twice or left open, the order within an incident was broken, an answer came late, or an event took
effect again though nothing was lost; each rule stands at its check, in chaos/reckoning.py. What a seed decides is which
events there are and what goes wrong with which of their calls; how the threads interleave, it cannot decide.
"""

import argparse
import sys
from collections.abc import Sequence

from chaos.plan import MODES
from chaos.run import run
from local.terminal import painted, progress


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the modes one after the other; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--events", type=int, default=2000, help="in all; the modes share them (default: 2000)")
    parser.add_argument("--incidents", type=int, help="in all (default: a tenth of the events)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--mode", nargs="+", choices=MODES, default=list(MODES), help="default: all")
    chosen = parser.parse_args(arguments)
    parts = len(chosen.mode)
    incidents = chosen.events // 10 if chosen.incidents is None else chosen.incidents
    problems = 0
    for name in chosen.mode:
        print(f"{name}: {chosen.events // parts} events ...", flush=True)
        with progress(name):
            result = run(MODES[name], events=chosen.events // parts, incidents=incidents // parts, seed=chosen.seed)
        for line in result.lines():
            print(painted(line, "red") if line.startswith("  PROBLEM") else line, flush=True)
        problems += len(result.problems)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
