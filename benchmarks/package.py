"""The packages whose cold starts are measured: ours and the baseline, each with bytecode for this Python."""

import compileall
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from py_compile import PycInvalidationMode
from typing import Final

from local.options import ROOT

BASELINES: Final = Path(__file__).with_name("baselines")


@dataclass(frozen=True)
class Packages:
    """The directories that Lambda would find at /var/task."""

    ours: Path
    baselines: Path


@contextlib.contextmanager
def built_packages() -> Iterator[Packages]:
    """Build both, the function with `sam build`, and remove them when the block ends."""
    with tempfile.TemporaryDirectory() as folder:
        finished = subprocess.run(  # noqa: S603 -- SAM, from the virtual environment
            [Path(sys.executable).with_name("sam"), "build", "ApiFunction", "--build-dir", folder],
            cwd=ROOT,
            env=os.environ | {"BYTECODE_PYTHON": sys.executable},
            check=False,
            capture_output=True,
            text=True,
        )
        if finished.returncode != 0:
            raise RuntimeError(finished.stderr)
        baselines = Path(folder) / "baselines"
        shutil.copytree(BASELINES, baselines, ignore=shutil.ignore_patterns("__pycache__"))
        compileall.compile_dir(baselines, quiet=1, invalidation_mode=PycInvalidationMode.UNCHECKED_HASH)
        yield Packages(Path(folder) / "ApiFunction", baselines)
