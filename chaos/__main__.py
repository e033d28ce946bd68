"""`make chaos`: RudderStack's router against the local stack while everything around the functions fails.

It exits with 1 if a promise was broken; chaos/report.py has the rules. A seed decides the events, how they are sent,
and the faults of their calls, but not how the threads interleave.
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
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    print(f"{options.events} events, seed {options.seed} ...", flush=True)
    from chaos.run import run  # noqa: PLC0415 -- takes a second, in which Ctrl-C has to work as well

    with progress("chaos"):
        report = run(options.events, str(options.seed))
    for line in report.lines():
        print(painted(line, "red") if line.startswith("PROBLEM") else line, flush=True)
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(command.run(main))
