"""What is shipped and installed: dependencies, metadata, and how light `import s2pipe` is."""

import ast
import importlib.metadata
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import s2pipe

REPOSITORY = Path(__file__).parents[1]
CONDA_NAMES = {"dask": "dask-core", "matplotlib": "matplotlib-base", "torch": "pytorch"}
"""Conda-forge names that differ from PyPI's; dask-core and matplotlib-base are what the PyPI packages hold."""
NOTEBOOK = {"IPython"}
"""Imported in a notebook only, whose kernel brings it."""
USER_EXTRAS = ("odc", "planetary-computer", "s3")


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def citation() -> dict[str, Any]:
    return yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())


def requirements(project: dict[str, Any], *extras: str) -> dict[str, SpecifierSet]:
    lines = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    return {canonicalize_name(parsed.name): parsed.specifier for parsed in map(Requirement, lines)}


def test_environment_yml_equals_the_dependencies(project: dict[str, Any]) -> None:
    lines = yaml.safe_load((REPOSITORY / "environment.yml").read_text())["dependencies"]
    conda = {name: SpecifierSet(bounds) for name, _, bounds in (line.partition(" ") for line in lines)}
    assert conda.pop("pip") == SpecifierSet()
    assert conda.pop("python") == SpecifierSet(project["requires-python"])
    assert conda == {CONDA_NAMES.get(name, name): bounds for name, bounds in requirements(project, *USER_EXTRAS).items()}


def test_constraints_pin_every_dependency_within_its_bounds(project: dict[str, Any]) -> None:
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert pins["torch"] == "2.13.0"
    for name, bounds in requirements(project, *USER_EXTRAS, "dev").items():
        assert bounds.contains(pins[name]), f"{name}: {pins[name]} is outside {bounds}"


@pytest.mark.parametrize(("folder", "extras"), [("s2pipe", USER_EXTRAS), ("tests", (*USER_EXTRAS, "dev"))])
def test_every_import_is_a_declared_dependency(project: dict[str, Any], folder: str, extras: tuple[str, ...]) -> None:
    declared = set(requirements(project, *extras))
    own = {"s2pipe", "tests"} | {path.stem for path in (REPOSITORY / "tests").rglob("*.py")}
    providers = importlib.metadata.packages_distributions()
    undeclared = {
        f"{path.relative_to(REPOSITORY)}: {module}"
        for path in (REPOSITORY / folder).rglob("*.py")
        for module in imported_modules(path)
        if module not in own | NOTEBOOK | sys.stdlib_module_names
        and not declared & {canonicalize_name(distribution) for distribution in providers.get(module, ())}
    }
    assert not undeclared


def imported_modules(path: Path) -> set[str]:
    """Top-level names of the absolute imports of a file, those inside functions and optional ones of tests included."""
    modules = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            modules.add(node.module)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.importorskip":
            modules.add(ast.literal_eval(node.args[0]))
    return {module.partition(".")[0] for module in modules}


def run_python(*arguments: str) -> str:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_takes_less_than_a_second() -> None:
    code = "import time; start = time.process_time(); import s2pipe; print(time.process_time() - start)"  # whoever else computes
    assert min(float(run_python("-c", code)) for _ in range(3)) < 1


def test_import_loads_no_torch() -> None:
    loaded = run_python("-c", "import sys, s2pipe; print(*sys.modules)").split()
    assert "s2pipe" in loaded
    assert "torch" not in loaded


def test_module_runs_as_the_command() -> None:
    shown = run_python("-m", "s2pipe", "--help")
    assert all(command in shown for command in ("search", "sharpen", "fit", "evaluate", "info", "demo"))


def test_version_is_the_same_everywhere(project: dict[str, Any], citation: dict[str, Any]) -> None:
    assert s2pipe.__version__ == importlib.metadata.version("s2pipe") == project["version"] == citation["version"]
    assert f"## [{project['version']}]" in (REPOSITORY / "CHANGELOG.md").read_text()


def test_citation_names_both_papers(citation: dict[str, Any]) -> None:
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= set(citation)
    assert {reference["notes"]: (reference["title"], reference["doi"]) for reference in citation["references"]} == {
        "S2SUCNN": (
            "Sentinel-2 Sharpening Using a Single Unsupervised Convolutional Neural Network With MTF-Based Degradation Model",
            "10.1109/JSTARS.2021.3092286",
        ),
        "SSC-CNN": (
            "Zero-Shot Sentinel-2 Sharpening Using a Symmetric Skipped Connection Convolutional Neural Network",
            "10.1109/IGARSS39084.2020.9323614",
        ),
    }


def test_wheel_ships_types_licence_weights_and_command(tmp_path: Path) -> None:
    run_python("-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path))
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (entry_points,) = (name for name in names if name.endswith("entry_points.txt"))
        assert "s2pipe = s2pipe.cli.app:app" in archive.read(entry_points).decode()
    sources = {path.relative_to(REPOSITORY).as_posix() for path in (REPOSITORY / "s2pipe").rglob("*.py")}
    assert (
        sources
        | {
            "s2pipe/__init__.pyi",
            "s2pipe/py.typed",
            "s2pipe/methods/mtf_resnet/weights/mtf-resnet.safetensors",
            "s2pipe/methods/mtf_resnet/weights/mtf-resnet.md",
        }
        <= names
    )
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert all(name.startswith("s2pipe") for name in names)
