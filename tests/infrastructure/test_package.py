import importlib.util
import os
import re
import shutil
import subprocess
import sys
from importlib.machinery import SourcelessFileLoader
from pathlib import Path
from typing import Any, Final

import boto3
import pip
import pytest
from samcli.lib.package.utils import make_zip_with_lambda_permissions
from samtranslator.yaml_helper import yaml_parse

import pagerduty

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
SEARCH_PATH = f"{BIN}{os.pathsep}{os.environ['PATH']}"

NO_BYTECODE = "No Python 3.13 was found, so no bytecode is packed"

# What boto3 needs beside what we pack ourselves; Lambda's runtime brings it.
BOTO3 = ("boto3", "botocore", "s3transfer", "dateutil", "six")

IMPORT_HANDLERS = """
import sys
sys.path[:0] = sys.argv[1:]
import app, worker, aws_lambda_powertools, jmespath, typing_extensions, urllib3
for module in (app, worker, aws_lambda_powertools, jmespath, typing_extensions, urllib3):
    print(module.__file__)
"""


def sam_build(directory: Path, *arguments: str, **environment: str) -> str:
    """Build as for a deployment, and return what is said."""
    finished = subprocess.run(  # noqa: S603 -- our own build
        [BIN / "sam", "build", *arguments, "--build-dir", directory],
        cwd=ROOT,
        env={**os.environ, "PATH": SEARCH_PATH, "SAM_CLI_TELEMETRY": "0", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stderr


def make_build(directory: Path, workplace: Path, **environment: str) -> str:
    """Build the API function as SAM does, without SAM: in a copy of the sources. Return what is said."""
    finished = subprocess.run(
        ["make", "build-ApiFunction"],  # noqa: S607 -- as SAM calls it
        cwd=shutil.copytree(ROOT / "function", workplace, ignore=shutil.ignore_patterns("__pycache__")),
        env={**os.environ, "PATH": SEARCH_PATH, "ARTIFACTS_DIR": str(directory), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def sam_package(build: Path, aws_url: str) -> dict[str, Any]:
    """Package what was built, as for the Serverless Application Repository, and return the template that comes out."""
    packaged = build.parent / "packaged.yaml"
    options = ["--s3-bucket", "packages", "--region", "us-east-1", "--output-template-file", str(packaged)]
    finished = subprocess.run(  # noqa: S603 -- our own build
        [BIN / "sam", "package", "--template-file", build / "template.yaml", *options],
        cwd=ROOT,
        env={**os.environ, "AWS_ENDPOINT_URL": aws_url, "SAM_CLI_TELEMETRY": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    found: dict[str, Any] = yaml_parse(packaged.read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build with bytecode for the Python of these tests; every function has a directory that would be packed."""
    built = tmp_path_factory.mktemp("sam") / "build"
    sam_build(built, BYTECODE_PYTHON=sys.executable)
    return built


@pytest.fixture(scope="module")
def package(build: Path) -> Path:
    return build / "ApiFunction"


@pytest.fixture(scope="module")
def files(package: Path) -> list[Path]:
    return [path.relative_to(package) for path in package.rglob("*") if path.is_file()]


@pytest.fixture(scope="module")
def bytecode(package: Path) -> dict[Path, Path]:
    """Map every module to the file in which Python looks for its bytecode."""
    return {path: Path(importlib.util.cache_from_source(str(path))) for path in package.rglob("*.py")}


def contents(root: Path) -> dict[Path, bytes]:
    return {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def different_files(one: Path, other: Path) -> set[Path]:
    """Name them only: the contents would be a very long message."""
    left, right = contents(one), contents(other)
    return {path for path in left.keys() | right.keys() if left.get(path) != right.get(path)}


def bytecode_tags(package: Path) -> set[str]:
    """Tell which Pythons there is bytecode for, as in `app.cpython-313.pyc`."""
    return {path.name.split(".")[-2] for path in package.rglob("*.pyc")}


def runs_python_3_13(name: str) -> bool:
    """Run what sam_build would find under the name, which may be a shim with nothing behind it."""
    found = shutil.which(name, path=SEARCH_PATH)
    if found is None:
        return False
    ask = [found, "-c", "import sys; print(sys.version_info[:2])"]
    return subprocess.run(ask, capture_output=True, text=True, check=False).stdout == "(3, 13)\n"  # noqa: S603 -- a Python


def import_handlers(package: Path, directory: Path) -> list[str]:
    """Import both handlers with nothing but the package and the SDK, and tell where their modules come from."""
    sdk = directory / "sdk"
    sdk.mkdir()
    for name in BOTO3:
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        origin = Path(spec.origin)
        source = origin.parent if origin.name == "__init__.py" else origin
        (sdk / source.name).symlink_to(source)

    # -I and -S: neither this environment's packages nor this directory are on the path; -B: nothing is written there.
    finished = subprocess.run(  # noqa: S603 -- our own package
        [sys.executable, "-I", "-S", "-B", "-c", IMPORT_HANDLERS, package, sdk],
        cwd=directory,
        env={"AWS_DEFAULT_REGION": "us-east-1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return [Path(line).relative_to(package).parts[0] for line in finished.stdout.splitlines()]


def test_the_worker_is_built_also_when_the_default_is_direct_delivery(build: Path) -> None:
    assert sorted(path.name for path in build.iterdir() if path.is_dir()) == ["ApiFunction", "WorkerFunction"]


def test_both_functions_are_packed_with_the_same_files(build: Path) -> None:
    assert different_files(build / "ApiFunction", build / "WorkerFunction") == set()


def test_another_build_in_another_directory_has_the_same_bytes(package: Path, tmp_path: Path) -> None:
    make_build(tmp_path / "again", tmp_path / "workplace", BYTECODE_PYTHON=sys.executable)

    assert different_files(package, tmp_path / "again") == set()


def test_all_our_modules_are_packed(files: list[Path]) -> None:
    ours = {path.name for path in (ROOT / "function").glob("*.py")}

    assert {path.name for path in files if len(path.parts) == 1} == ours | {"typing_extensions.py"}


def test_nothing_but_the_locked_packages_is_packed_with_them(files: list[Path]) -> None:
    directories = {path.parts[0] for path in files if len(path.parts) > 1}

    assert {name for name in directories if not name.endswith(".dist-info")} == {
        "__pycache__",
        "aws_lambda_powertools",
        "jmespath",
        "urllib3",
    }


def test_the_sdk_is_left_to_the_runtime(files: list[Path]) -> None:
    assert [path for path in files if {"boto3", "botocore"} & set(path.parts)] == []


def test_no_tests_are_packed(files: list[Path]) -> None:
    assert [path for path in files if {"test", "tests", "conftest.py"} & set(path.parts)] == []


def test_every_module_is_packed_with_its_bytecode_and_no_other_is(package: Path, bytecode: dict[Path, Path]) -> None:
    assert set(package.rglob("*.pyc")) ^ set(bytecode.values()) == set()


def test_the_bytecode_names_the_files_as_on_lambda(package: Path, bytecode: dict[Path, Path]) -> None:
    named = {
        path: SourcelessFileLoader(path.stem, str(cached)).get_code(path.stem) for path, cached in bytecode.items()
    }

    expected = {path: f"/var/task/{path.relative_to(package)}" for path in bytecode}
    assert {path for path, code in named.items() if code is None or code.co_filename != expected[path]} == set()


def test_the_handlers_start_from_the_bytecode_whatever_the_time_and_the_content_of_the_sources(
    package: Path, tmp_path: Path
) -> None:
    task = shutil.copytree(package, tmp_path / "task")
    for source in task.rglob("*.py"):
        source.write_text("raise ImportError('compiled anew')", encoding="utf-8")

    assert import_handlers(task, tmp_path)[:2] == ["app.py", "worker.py"]


def test_a_build_packs_bytecode_for_the_runtime_when_its_python_is_at_hand_and_says_when_it_is_not(
    tmp_path: Path,
) -> None:
    is_at_hand = any(runs_python_3_13(name) for name in ("python3.13", "python3", "python"))

    said = make_build(tmp_path / "build", tmp_path / "workplace")

    expected = ({"cpython-313"}, False) if is_at_hand else (set(), True)
    assert (bytecode_tags(tmp_path / "build"), NO_BYTECODE in said) == expected


def test_a_python_that_has_the_name_only_is_not_taken_for_the_runtimes(tmp_path: Path) -> None:
    names = tmp_path / "names"
    names.mkdir()
    for name in ("python3.13", "python3", "python"):
        # As pyenv's are when another version is the chosen one.
        (names / name).write_text("#!/bin/sh\nexit 127\n", encoding="utf-8")
        (names / name).chmod(0o755)

    said = sam_build(tmp_path / "build", "ApiFunction", PATH=f"{names}{os.pathsep}{SEARCH_PATH}", PYTHON=sys.executable)

    assert (bytecode_tags(tmp_path / "build"), NO_BYTECODE in said, "sam build --use-container" in said) == (
        set(),
        True,
        True,
    )


def test_no_compiled_code_is_packed_so_that_any_machine_can_build(files: list[Path]) -> None:
    assert [path for path in files if path.suffix in {".so", ".pyd", ".dylib"}] == []


def test_no_record_of_the_building_machine_is_packed(files: list[Path]) -> None:
    assert [path for path in files if path.name in {"RECORD", "INSTALLER", "REQUESTED", "direct_url.json"}] == []


def test_scanners_find_the_version_of_every_package(files: list[Path]) -> None:
    described = {path.parts[0].partition("-")[0] for path in files if path.name == "METADATA"}

    assert described == {"aws_lambda_powertools", "jmespath", "typing_extensions", "urllib3"}


def test_no_build_files_are_packed(files: list[Path]) -> None:
    assert [path for path in files if path.name == "Makefile" or path.name.startswith("requirements")] == []


def test_the_zip_has_at_most_three_megabytes(package: Path, tmp_path: Path) -> None:
    archive = Path(make_zip_with_lambda_permissions(str(tmp_path / "package"), str(package)))

    assert archive.stat().st_size <= 3_000_000


def test_both_handlers_import_from_the_package_and_the_sdk_alone(package: Path, tmp_path: Path) -> None:
    assert import_handlers(package, tmp_path) == [
        "app.py",
        "worker.py",
        "aws_lambda_powertools",
        "jmespath",
        "typing_extensions.py",
        "urllib3",
    ]


def test_the_packages_and_the_bytecode_are_for_the_python_of_the_functions() -> None:
    makefile = (ROOT / "function" / "Makefile").read_text(encoding="utf-8")
    template = (ROOT / "template.yaml").read_text(encoding="utf-8")

    assert ("RUNTIME := 3.13\n" in makefile, template.count("Runtime: python3.13")) == (True, 2)


# -- the Serverless Application Repository ---------------------------------------------------------------------------

APPLICATION: Final = "AWS::ServerlessRepo::Application"


@pytest.fixture(scope="module")
def packaged(build: Path, aws_url: str) -> dict[str, Any]:
    s3: Any = boto3.client("s3", endpoint_url=aws_url, region_name="us-east-1")
    s3.create_bucket(Bucket="packages")
    return sam_package(build, aws_url)


def uploaded(url: str, aws_url: str) -> bytes:
    """Return what was uploaded under a URL such as s3://packages/0a1b."""
    s3: Any = boto3.client("s3", endpoint_url=aws_url, region_name="us-east-1")
    content: bytes = s3.get_object(Bucket="packages", Key=url.removeprefix("s3://packages/"))["Body"].read()
    return content


@pytest.mark.parametrize(("name", "file"), [("LicenseUrl", "LICENSE"), ("ReadmeUrl", "README.md")])
def test_an_application_is_packaged_with_its_documents(
    packaged: dict[str, Any], aws_url: str, name: str, file: str
) -> None:
    assert uploaded(packaged["Metadata"][APPLICATION][name], aws_url) == (ROOT / file).read_bytes()


def test_both_functions_of_an_application_are_packaged_as_one_file(packaged: dict[str, Any], aws_url: str) -> None:
    code = {packaged["Resources"][name]["Properties"]["CodeUri"] for name in ("ApiFunction", "WorkerFunction")}

    assert [uploaded(each, aws_url)[:2] for each in code] == [b"PK"]


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        # What the repository takes: https://docs.aws.amazon.com/serverless-application-model/latest/developerguide/
        # serverless-sam-template-publishing-applications-metadata-properties.html
        ("Name", "[a-zA-Z0-9-]{1,140}"),
        ("Description", ".{1,256}"),
        ("Author", "(?=.{1,127}$)[a-z0-9](([a-z0-9]|-(?!-))*[a-z0-9])?"),
        ("SpdxLicenseId", "MIT"),
        ("SemanticVersion", r"\d+\.\d+\.\d+"),
    ],
)
def test_the_application_is_described_as_the_repository_takes_it(
    packaged: dict[str, Any], name: str, pattern: str
) -> None:
    assert re.fullmatch(pattern, packaged["Metadata"][APPLICATION][name])


def test_the_application_has_labels_that_the_repository_takes(packaged: dict[str, Any]) -> None:
    labels = packaged["Metadata"][APPLICATION]["Labels"]

    assert len(labels) <= 10
    assert [label for label in labels if not re.fullmatch(r"[a-zA-Z0-9+\-_:/@]{1,127}", label)] == []


def test_there_is_one_version(packaged: dict[str, Any]) -> None:
    assert packaged["Metadata"][APPLICATION]["SemanticVersion"] == pagerduty.VERSION


def test_no_version_of_the_changelog_is_newer_or_older() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## \[?(\d+\.\d+\.\d+)", changelog, flags=re.MULTILINE)

    assert set(versions[:1]) <= {pagerduty.VERSION}


@pytest.mark.parametrize("way", ["environment", "pip.conf"])
def test_pip_may_be_set_to_install_for_the_user_and_into_virtual_environments_alone(tmp_path: Path, way: str) -> None:
    configuration = tmp_path / "pip.conf"
    configuration.write_text("[global]\nuser = true\nrequire-virtualenv = true\n")
    settings = {
        "environment": {"PIP_USER": "1", "PIP_REQUIRE_VIRTUALENV": "1"},
        "pip.conf": {"PIP_CONFIG_FILE": str(configuration)},
    }[way]
    # A Python outside of any virtual environment need not have pip.
    python = f"{sys.base_prefix}/bin/python{sys.version_info.major}.{sys.version_info.minor}"
    outside = {"PYTHON": python, "PYTHONPATH": str(Path(pip.__file__).parents[1])}
    make_build(tmp_path / "built", tmp_path / "function", BYTECODE_PYTHON="", **settings, **outside)

    assert (tmp_path / "built" / "urllib3").is_dir()
