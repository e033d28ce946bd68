"""What `sam build` packs: our modules, the locked packages and their bytecode, the same in every directory."""

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from importlib.machinery import SourcelessFileLoader
from pathlib import Path

import pytest
from samcli.lib.package.utils import make_zip_with_lambda_permissions

import pagerduty
from tests.infrastructure.stack import ROOT, TEMPLATE, written

BIN = Path(sys.executable).parent
SEARCH_PATH = f"{BIN}{os.pathsep}{os.environ['PATH']}"
PACKAGES = {"aws_lambda_powertools", "jmespath", "typing_extensions", "urllib3"}
# Lambda's runtime has the SDK.
SDK = ("boto3", "botocore", "s3transfer", "dateutil", "six")
IMPORT_HANDLERS = """
import sys
sys.path[:0] = sys.argv[1:]
import app, worker, aws_lambda_powertools, jmespath, typing_extensions, urllib3
print(app.lambda_handler.__name__, worker.lambda_handler.__name__)
"""


def run(command: list[str | Path], directory: Path, **environment: str) -> str:
    """Run a command in a directory, and return what it prints on both streams."""
    finished = subprocess.run(  # noqa: S603 -- our own build
        command,
        cwd=directory,
        env={**os.environ, "PATH": SEARCH_PATH, "SAM_CLI_TELEMETRY": "0", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout
    return finished.stdout


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build both functions with bytecode for the Python of these tests."""
    directory = tmp_path_factory.mktemp("sam") / "build"
    run([BIN / "sam", "build", "--build-dir", directory], ROOT, BYTECODE_PYTHON=sys.executable)
    return directory


@pytest.fixture(scope="module")
def package(build: Path) -> Path:
    return build / "ApiFunction"


def contents(root: Path) -> dict[Path, str]:
    """Return the digest of each file."""
    files = [path for path in root.rglob("*") if path.is_file()]
    return {path.relative_to(root): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_both_functions_are_packed_with_the_same_files(build: Path) -> None:
    assert contents(build / "ApiFunction") == contents(build / "WorkerFunction")


def test_our_modules_and_the_locked_packages_are_packed_and_nothing_else(package: Path) -> None:
    ours = {path.name for path in (ROOT / "function").glob("*.py")}
    top = {path.name for path in package.iterdir() if path.suffix != ".dist-info"}

    assert top - {"__pycache__"} == ours | PACKAGES - {"typing_extensions"} | {"typing_extensions.py"}


def test_no_tests_compiled_code_or_records_of_the_machine_are_packed(package: Path) -> None:
    banned = {"test", "tests", "conftest.py", "RECORD", "INSTALLER", "REQUESTED", "direct_url.json"}
    packed = contents(package)

    assert [path for path in packed if banned & set(path.parts) or path.suffix in {".so", ".pyd", ".dylib"}] == []


def test_every_package_has_its_licence_and_the_metadata_that_scanners_read(package: Path) -> None:
    records = {path.name.partition("-")[0]: path for path in package.glob("*.dist-info")}

    assert records.keys() == PACKAGES
    assert [name for name, path in records.items() if not (path / "METADATA").is_file()] == []
    assert [name for name, path in records.items() if not list(path.rglob("LICENSE*"))] == []


def test_the_zip_has_at_most_three_megabytes(package: Path, tmp_path: Path) -> None:
    archive = Path(make_zip_with_lambda_permissions(str(tmp_path / "package"), str(package)))

    assert archive.stat().st_size <= 3_000_000


def test_every_module_has_bytecode_that_names_its_file_as_on_lambda(package: Path) -> None:
    cached = {path: Path(importlib.util.cache_from_source(str(path))) for path in package.rglob("*.py")}
    names = {}
    for source, bytecode in cached.items():
        code = SourcelessFileLoader(source.stem, str(bytecode)).get_code(source.stem)
        names[source] = code.co_filename if code else None

    assert set(package.rglob("*.pyc")) == set(cached.values())
    assert names == {source: f"/var/task/{source.relative_to(package)}" for source in cached}


def test_both_handlers_start_from_the_bytecode_with_the_package_and_the_sdk_alone(
    package: Path, tmp_path: Path
) -> None:
    task = shutil.copytree(package, tmp_path / "task")
    for source in task.rglob("*.py"):
        source.write_text("raise ImportError('compiled anew')", encoding="utf-8")
    sdk = tmp_path / "sdk"
    sdk.mkdir()
    for name in SDK:
        spec = importlib.util.find_spec(name)
        assert spec
        assert spec.origin
        found = Path(spec.origin).parent if spec.submodule_search_locations else Path(spec.origin)
        (sdk / found.name).symlink_to(found)

    # -I and -S: neither this environment's packages nor this directory are on the path; -B: nothing is written there.
    printed = run(
        [sys.executable, "-I", "-S", "-B", "-c", IMPORT_HANDLERS, task, sdk], tmp_path, AWS_REGION="us-east-1"
    )

    assert printed == "lambda_handler lambda_handler\n"


def test_a_build_without_the_python_of_the_runtime_says_so_and_packs_the_same_but_for_the_bytecode(
    package: Path, tmp_path: Path
) -> None:
    names = tmp_path / "names"
    names.mkdir()
    for name in ("python3.13", "python3", "python"):
        # As pyenv's are when another version is the chosen one.
        (names / name).write_text("#!/bin/sh\nexit 127\n", encoding="utf-8")
        (names / name).chmod(0o755)
    sources = shutil.copytree(ROOT / "function", tmp_path / "function", ignore=shutil.ignore_patterns("__pycache__"))
    built = tmp_path / "built"

    said = run(
        ["make", "build-ApiFunction"],
        sources,
        ARTIFACTS_DIR=str(built),
        PATH=f"{names}{os.pathsep}{SEARCH_PATH}",
        PYTHON=sys.executable,
    )

    assert "No Python 3.13 was found, so no bytecode is packed" in said
    assert contents(built) == {path: digest for path, digest in contents(package).items() if path.suffix != ".pyc"}


def test_the_packages_and_the_bytecode_are_for_the_python_of_the_functions() -> None:
    makefile = (ROOT / "function" / "Makefile").read_text(encoding="utf-8")

    assert re.findall(r"^RUNTIME := (.+)$", makefile, flags=re.MULTILINE) == ["3.13"]
    assert re.findall(r"Runtime: (.+)", TEMPLATE.read_text(encoding="utf-8")) == ["python3.13", "python3.13"]


def test_the_template_the_functions_and_the_changelog_have_one_version() -> None:
    application = written()["Metadata"]["AWS::ServerlessRepo::Application"]
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.findall(r"^## \[?(\d+\.\d+\.\d+)", changelog, flags=re.MULTILINE)[:1]

    assert application["SemanticVersion"] == pagerduty.VERSION
    assert set(newest) <= {pagerduty.VERSION}
