import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from samcli.lib.package.utils import make_zip_with_lambda_permissions

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent

# What boto3 needs beside what we pack ourselves; Lambda's runtime brings it.
BOTO3 = ("boto3", "botocore", "s3transfer", "dateutil", "six")

IMPORT_HANDLERS = """
import sys
sys.path[:0] = sys.argv[1:]
import app, worker, aws_lambda_powertools, jmespath, typing_extensions, urllib3
for module in (app, worker, aws_lambda_powertools, jmespath, typing_extensions, urllib3):
    print(module.__file__)
"""


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build as for a deployment, and return the directory in which every function has one that would be packed."""
    built = tmp_path_factory.mktemp("sam") / "build"
    environment = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "SAM_CLI_TELEMETRY": "0"}
    finished = subprocess.run(  # noqa: S603 -- our own build
        [BIN / "sam", "build", "--build-dir", built],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return built


@pytest.fixture(scope="module")
def package(build: Path) -> Path:
    return build / "ApiFunction"


@pytest.fixture(scope="module")
def files(package: Path) -> list[Path]:
    return [path.relative_to(package) for path in package.rglob("*") if path.is_file()]


def test_the_worker_is_built_also_when_the_default_is_direct_delivery(build: Path) -> None:
    assert sorted(path.name for path in build.iterdir() if path.is_dir()) == ["ApiFunction", "WorkerFunction"]


def test_both_functions_are_packed_with_the_same_files(build: Path) -> None:
    api, worker = (
        {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        for root in (build / "ApiFunction", build / "WorkerFunction")
    )

    # The names only: a difference in the contents would be a very long message.
    assert {path for path in api.keys() | worker.keys() if api.get(path) != worker.get(path)} == set()


def test_all_our_modules_are_packed(files: list[Path]) -> None:
    ours = {path.name for path in (ROOT / "function").glob("*.py")}

    assert {path.name for path in files if len(path.parts) == 1} == ours | {"typing_extensions.py"}


def test_nothing_but_the_locked_packages_is_packed_with_them(files: list[Path]) -> None:
    directories = {path.parts[0] for path in files if len(path.parts) > 1}

    assert {name for name in directories if not name.endswith(".dist-info")} == {
        "aws_lambda_powertools",
        "jmespath",
        "urllib3",
    }


def test_the_sdk_is_left_to_the_runtime(files: list[Path]) -> None:
    assert [path for path in files if {"boto3", "botocore"} & set(path.parts)] == []


def test_no_tests_are_packed(files: list[Path]) -> None:
    assert [path for path in files if {"test", "tests", "conftest.py"} & set(path.parts)] == []


def test_no_byte_code_is_packed(files: list[Path]) -> None:
    assert [path for path in files if path.suffix == ".pyc" or "__pycache__" in path.parts] == []


def test_no_compiled_code_is_packed_so_that_any_machine_can_build(files: list[Path]) -> None:
    assert [path for path in files if path.suffix in {".so", ".pyd", ".dylib"}] == []


def test_no_record_of_the_building_machine_is_packed(files: list[Path]) -> None:
    assert [path for path in files if path.name in {"RECORD", "INSTALLER", "REQUESTED", "direct_url.json"}] == []


def test_scanners_find_the_version_of_every_package(files: list[Path]) -> None:
    described = {path.parts[0].partition("-")[0] for path in files if path.name == "METADATA"}

    assert described == {"aws_lambda_powertools", "jmespath", "typing_extensions", "urllib3"}


def test_no_build_files_are_packed(files: list[Path]) -> None:
    assert [path for path in files if path.name == "Makefile" or path.name.startswith("requirements")] == []


def test_the_zip_has_at_most_one_and_a_half_megabytes(package: Path, tmp_path: Path) -> None:
    archive = Path(make_zip_with_lambda_permissions(str(tmp_path / "package"), str(package)))

    assert archive.stat().st_size <= 1_500_000


def test_both_handlers_import_from_the_package_and_the_sdk_alone(package: Path, tmp_path: Path) -> None:
    for name in BOTO3:
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        origin = Path(spec.origin)
        source = origin.parent if origin.name == "__init__.py" else origin
        (tmp_path / source.name).symlink_to(source)

    # -I and -S: neither this environment's packages nor this directory are on the path; -B: nothing is written there.
    finished = subprocess.run(  # noqa: S603 -- our own package
        [sys.executable, "-I", "-S", "-B", "-c", IMPORT_HANDLERS, package, tmp_path],
        cwd=tmp_path,
        env={"AWS_DEFAULT_REGION": "us-east-1"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert finished.returncode == 0, finished.stderr
    assert [Path(line).relative_to(package).parts[0] for line in finished.stdout.splitlines()] == [
        "app.py",
        "worker.py",
        "aws_lambda_powertools",
        "jmespath",
        "typing_extensions.py",
        "urllib3",
    ]


def test_the_packages_are_chosen_for_the_python_of_the_function() -> None:
    makefile = (ROOT / "function" / "Makefile").read_text(encoding="utf-8")
    template = (ROOT / "template.yaml").read_text(encoding="utf-8")

    assert ("--python-version 3.13" in makefile, template.count("Runtime: python3.13")) == (True, 2)
