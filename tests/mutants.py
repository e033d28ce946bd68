"""Change function/ in one place at a time, and see whether a test fails: `make mutants`.

Operators, constants, strings without a space, calls, and what is returned or raised are changed. Each mutant meets the
tests that run its line, in a process forked after the slow imports.
"""

import argparse
import ast
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple, NoReturn

import coverage
import pytest

ROOT: Final = Path(__file__).parent.parent
FUNCTION: Final = ROOT / "function"
TESTS: Final = ("tests/unit", "tests/integration")
SECONDS_PER_MUTANT: Final = 120
OPPOSITES: Final[dict[type[ast.AST], type[ast.AST]]] = {
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.And: ast.Or, ast.Or: ast.And,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult,
}  # fmt: skip


class Mutant(NamedTuple):
    """A change: the place of the node in its module's tree, and the node's source before and after."""

    module: str
    place: int
    line: int
    change: str


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


def all_mutants() -> Iterator[Mutant]:
    for file in sorted(FUNCTION.glob("*.py")):
        nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
        annotations = [getattr(node, name, None) for node in nodes for name in ("annotation", "returns")]
        types = {id(inner) for annotation in annotations if annotation for inner in ast.walk(annotation)}
        for place, node in enumerate(nodes):
            if id(node) not in types and (new := mutate(node)):
                change = f"{ast.unparse(node)[:80]}  =>  {ast.unparse(new)[:80]}"
                yield Mutant(file.stem, place, node.lineno, change)  # type: ignore[attr-defined]  # it has a line


def source_of(mutant: Mutant) -> str:
    class Replace(ast.NodeTransformer):
        def visit(self, node: ast.AST) -> ast.AST | None:
            return mutate(node) if node is target else self.generic_visit(node)

    tree = ast.parse((FUNCTION / f"{mutant.module}.py").read_text(encoding="utf-8"))
    target = list(ast.walk(tree))[mutant.place]
    Replace().visit(tree)
    return ast.unparse(ast.fix_missing_locations(tree))


def tests_of_lines(folder: str) -> dict[str, dict[int, list[str]]]:
    """Run the tests, and return for each module which of them run which of its lines."""
    file = f"{folder}/coverage"
    command = [sys.executable, "-m", "pytest", "-q", "-n", "auto", "--dist", "loadfile", "--cov=function"]
    options = ["--cov-context=test", "--cov-report=", "--cov-fail-under=0"]
    subprocess.run([*command, *options, *TESTS], check=True, env={**os.environ, "COVERAGE_FILE": file})  # noqa: S603 -- pytest
    data = coverage.CoverageData(file)
    data.read()
    return {path.stem: data.contexts_by_lineno(str(path)) for path in FUNCTION.glob("*.py")}


class Selection:
    """A pytest plugin: runs the wanted tests alone, and keeps the name of the one that fails."""

    def __init__(self, wanted: set[str]) -> None:
        self.wanted, self.killer = wanted, ""

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [item for item in items if item.nodeid in self.wanted]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.killer = report.nodeid


def killer_of(task: tuple[Mutant, set[str]]) -> tuple[Mutant, str]:
    """Return the mutant with the test that kills it, or with nothing. Runs in a process for this mutant alone."""
    mutant, wanted = task

    def give_up(*_: object) -> NoReturn:
        raise TimeoutError

    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(SECONDS_PER_MUTANT)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(1, 2)
    own = {name for name in wanted if f"test_{mutant.module}." in name}
    with tempfile.TemporaryDirectory() as folder:
        function = shutil.copytree(FUNCTION, Path(folder, "function"))
        (function / f"{mutant.module}.py").write_text(source_of(mutant), encoding="utf-8")
        options = ["-x", "-q", "-p", "no:cacheprovider", "-o", f"pythonpath={function} ."]
        for names in filter(None, (own, wanted - own)):  # Its own tests first: they kill most, and are quick to import.
            selection = Selection(names)
            try:
                code = pytest.main([*options, *{name.partition("::")[0] for name in names}], plugins=[selection])
            except Exception:  # noqa: BLE001 -- an error that pytest cannot attribute to a test
                code = 1
            if code:
                return mutant, selection.killer or "an error"
    return mutant, ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=300, help="for how long mutants are tried; 0: all of them")
    parser.add_argument("--modules", nargs="*", help="of function/, such as flow; default: all")
    options = parser.parse_args()
    os.chdir(ROOT)
    with tempfile.TemporaryDirectory() as folder:
        lines = tests_of_lines(folder)
    pytest.main(
        ["-q", "tests/integration/test_app.py"]
    )  # Imports the packages, and moto's parts, once for all mutants.
    for name, module in list(sys.modules.items()):
        file = Path(getattr(module, "__file__", None) or "/")
        if ROOT in file.parents and "site-packages" not in file.parts and name != "__main__":
            del sys.modules[name]  # Each mutant has this project's modules imported anew.
    tasks = []
    for mutant in all_mutants():
        if options.modules and mutant.module not in options.modules:
            continue
        contexts = lines[mutant.module]
        first = next((line for line in range(mutant.line, 0, -1) if line in contexts), 0)
        of_line = set(contexts.get(first, ()))
        if "" in of_line:  # It runs when the module is imported: any test of the module may notice.
            of_line.update(*contexts.values())
        tasks.append((mutant, {context.partition("|")[0] for context in of_line if context}))
    random.Random(1).shuffle(tasks)  # noqa: S311 -- the same sample each time
    killed: Counter[str] = Counter()
    tried: Counter[str] = Counter()
    start = time.monotonic()
    with multiprocessing.get_context("fork").Pool(maxtasksperchild=1) as pool:
        for mutant, killer in pool.imap_unordered(killer_of, tasks):
            tried[mutant.module] += 1
            killed[mutant.module] += bool(killer)
            print(f"function/{mutant.module}.py:{mutant.line}: {mutant.change}: {killer or 'SURVIVED'}", flush=True)
            if options.seconds and time.monotonic() - start > options.seconds:
                break
    for name in sorted(tried):
        print(f"{name:14}{killed[name]:5} of {tried[name]:4} killed")
    print(f"{'all':14}{killed.total():5} of {tried.total():4} killed")


if __name__ == "__main__":
    main()
