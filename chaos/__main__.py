"""RudderStack's router against the local stack while everything around the functions fails; then a report.

`make chaos`, or `python -m chaos --events N --seed S`. It ends with 1 when a promise was broken: an event was lost, an
incident was opened twice, left open or closed by mistake, the order within an incident was broken, an answer came late,
or an event took effect again though nothing was lost; each rule stands at its check, in chaos/report.py. What a seed
decides is which events there are, how they are sent, and what goes wrong with which of their calls; how the threads
interleave, it cannot decide.
"""

import argparse
import sys
from collections.abc import Sequence

from local import command
from local.terminal import painted, progress


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print the report, and return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--events", type=int, default=2000, help="default: 2000")
    parser.add_argument("--incidents", type=int, help="default: a tenth of the events")
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args(arguments)
    incidents = chosen.events // 10 if chosen.incidents is None else chosen.incidents
    print(f"{chosen.events} events, seed {chosen.seed} ...", flush=True)
    from chaos.run import run  # noqa: PLC0415 -- takes a second, in which Ctrl-C has to work as well

    with progress("chaos"):
        report = run(events=chosen.events, incidents=incidents, seed=chosen.seed)
    for line in report.lines():
        print(painted(line, "red") if line.startswith("PROBLEM") else line, flush=True)
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(command.run(main))
