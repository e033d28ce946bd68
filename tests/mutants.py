"""Change function/ in one place at a time, and see whether a test fails: `make mutants`.

Operators, constants, strings without a space, calls, and returned or raised values are changed. Each mutant meets the
tests of its module first, then all of tests/unit and tests/integration.
"""

import argparse
import ast
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parent.parent
FUNCTION: Final = ROOT / "function"
TIERS: Final = ("tests/unit", "tests/integration")
SECONDS_PER_RUN: Final = 300
OPPOSITES: Final[dict[type[ast.AST], type[ast.AST]]] = {
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.And: ast.Or, ast.Or: ast.And,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult,
}  # fmt: skip


class Mutant(NamedTuple):
    """A module with a change, at a line."""

    module: str
    line: int
    change: str
    source: str


def mutate(node: ast.AST) -> ast.AST | None:  # noqa: PLR0911 -- a table, as code
    """Return what replaces the node, or None if it is left alone."""
    match node:
        case ast.Compare(left, [operator], comparators) if type(operator) in OPPOSITES:
            return ast.Compare(left, [OPPOSITES[type(operator)]()], comparators)  # type: ignore[list-item]  # an operator
        case ast.BoolOp(operator, values):
            return ast.BoolOp(OPPOSITES[type(operator)](), values)  # type: ignore[arg-type]  # an operator
        case ast.BinOp(left, operator, right) if type(operator) in OPPOSITES:
            return ast.BinOp(left, OPPOSITES[type(operator)](), right)  # type: ignore[arg-type]  # an operator
        case ast.UnaryOp(ast.Not(), operand):
            return operand
        case ast.Constant(bool(value)):
            return ast.Constant(not value)
        case ast.Constant(int(value) | float(value)):
            return ast.Constant(value + 1)
        case ast.Constant(str(value)) if " " not in value:
            return ast.Constant(value + "x")
        case ast.Return(ast.expr() as value) if not isinstance(value, ast.Constant):
            return ast.Return(ast.Constant(None))
        case ast.Expr(ast.Call()) | ast.AugAssign() | ast.Raise() | ast.Continue() | ast.Break():
            return ast.Pass()
    return None


def mutants(module: str) -> Iterator[Mutant]:
    """Yield every mutant of a module; annotations are left alone."""
    tree = ast.parse((FUNCTION / f"{module}.py").read_text(encoding="utf-8"))
    annotations = [getattr(node, name, None) for node in ast.walk(tree) for name in ("annotation", "returns")]
    types = {id(inner) for annotation in annotations if annotation for inner in ast.walk(annotation)}
    for parent in list(ast.walk(tree)):
        for name, value in ast.iter_fields(parent):
            children = value if isinstance(value, list) else [value]
            for place, child in enumerate(children):
                if id(child) in types or not (new := mutate(child)):
                    continue
                children[place] = ast.fix_missing_locations(ast.copy_location(new, child))
                setattr(parent, name, children if children is value else children[0])
                change = f"{ast.unparse(child)[:80]}  =>  {ast.unparse(new)[:80]}"
                yield Mutant(module, child.lineno, change, ast.unparse(tree))
                children[place] = child
                setattr(parent, name, value)


def killer_of(mutant: Mutant, end: float) -> str | None:
    """Return the test that kills the mutant, "" if it survives, or None if it was not tried before the end."""
    if time.monotonic() > end:
        return None
    own = [file for tier in TIERS if (ROOT / (file := f"{tier}/test_{mutant.module}.py")).exists()]
    with tempfile.TemporaryDirectory() as folder:
        function = shutil.copytree(FUNCTION, Path(folder, "function"))
        (function / f"{mutant.module}.py").write_text(mutant.source, encoding="utf-8")
        options = ["-x", "-q", "-p", "no:cacheprovider", "-o", f"pythonpath={function} ."]
        for tests in filter(None, (own, TIERS)):
            command = [sys.executable, "-m", "pytest", *options, *tests]
            try:
                done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS_PER_RUN)  # noqa: S603, PLW1510 -- pytest, whose exit code is the result
            except subprocess.TimeoutExpired:
                return "a time-out"
            if done.returncode:
                failed = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", done.stdout, re.MULTILINE)
                return failed[1] if failed else "an error"
    return ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=300, help="for how long mutants are tried; 0: all of them")
    parser.add_argument("--modules", nargs="*", help="of function/, such as flow; default: all")
    options = parser.parse_args()
    modules = options.modules or sorted(file.stem for file in FUNCTION.glob("*.py"))
    chosen = [mutant for module in modules for mutant in mutants(module)]
    random.Random(1).shuffle(chosen)  # noqa: S311 -- the same sample each time
    end = time.monotonic() + (options.seconds or float("inf"))
    killed: Counter[str] = Counter()
    tried: Counter[str] = Counter()
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for mutant, killer in zip(chosen, threads.map(partial(killer_of, end=end), chosen), strict=True):
            if killer is not None:
                tried[mutant.module] += 1
                killed[mutant.module] += bool(killer)
                print(f"function/{mutant.module}.py:{mutant.line}: {mutant.change}: {killer or 'SURVIVED'}", flush=True)
    for name in sorted(tried):
        print(f"{name:14}{killed[name]:5} of {tried[name]:4} killed")
    print(f"{'all':14}{killed.total():5} of {tried.total():4} killed, of {len(chosen)}")


if __name__ == "__main__":
    main()
