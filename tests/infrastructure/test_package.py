"""What `sam build` packs, by the Makefile that it runs: our modules, the locked packages and their bytecode."""

import importlib.util
import re
import subprocess
import sys
from importlib.machinery import SourcelessFileLoader
from pathlib import Path

import pytest
from samcli.lib.package.utils import make_zip_with_lambda_permissions

import pagerduty
from local.options import ROOT
from tests.infrastructure.stack import written


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the function with bytecode for the Python of these tests."""
    directory = tmp_path_factory.mktemp("package")
    settings = [f"{name}={sys.executable}" for name in ("PYTHON", "BYTECODE_PYTHON")]
    command = ["make", "build-ApiFunction", f"ARTIFACTS_DIR={directory}", *settings]
    subprocess.run(command, cwd=ROOT / "function", check=True)  # noqa: S603 -- our own build
    return directory


def test_our_modules_and_the_locked_packages_are_packed_and_nothing_else(package: Path) -> None:
    ours = {path.name for path in (ROOT / "function").glob("*.py")}
    top = {path.name for path in package.iterdir() if path.suffix != ".dist-info"}

    # Lambda's runtime has the SDK.
    assert top - ours == {"__pycache__", "aws_lambda_powertools", "jmespath", "typing_extensions.py", "urllib3"}


def test_no_tests_and_no_compiled_code_are_packed(package: Path) -> None:
    packed = [path.relative_to(package) for path in package.rglob("*")]
    banned = {"test", "tests", "conftest.py"}

    assert [path for path in packed if banned & set(path.parts) or path.suffix in {".so", ".pyd", ".dylib"}] == []


def test_the_zip_has_at_most_three_megabytes(package: Path, tmp_path: Path) -> None:
    archive = Path(make_zip_with_lambda_permissions(str(tmp_path / "package"), str(package)))

    assert archive.stat().st_size <= 3_000_000


def test_every_module_has_bytecode_that_names_its_file_as_on_lambda_and_is_never_compared_with_it(
    package: Path,
) -> None:
    cached = {path: Path(importlib.util.cache_from_source(str(path))) for path in package.rglob("*.py")}
    names = {}
    for source, bytecode in cached.items():
        code = SourcelessFileLoader(source.stem, str(bytecode)).get_code(source.stem)
        names[source] = code.co_filename if code else None

    assert names == {source: f"/var/task/{source.relative_to(package)}" for source in cached}
    # The flags of an unchecked hash: https://docs.python.org/3/reference/import.html#cached-bytecode-invalidation
    assert {path.read_bytes()[4:8] for path in cached.values()} == {b"\x01\0\0\0"}


def test_the_packages_and_the_bytecode_are_for_the_python_of_the_functions() -> None:
    makefile = (ROOT / "function" / "Makefile").read_text(encoding="utf-8")
    template = (ROOT / "template.yaml").read_text(encoding="utf-8")

    assert re.findall(r"^RUNTIME := (.+)$", makefile, flags=re.MULTILINE) == ["3.13"]
    assert re.findall(r"Runtime: (.+)", template) == ["python3.13", "python3.13"]


def test_the_template_and_the_functions_have_one_version() -> None:
    application = written()["Metadata"]["AWS::ServerlessRepo::Application"]

    assert application["SemanticVersion"] == pagerduty.VERSION
