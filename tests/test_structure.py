"""The shape of the package: few things at the top, no long module, no import in a circle."""

from graphlib import TopologicalSorter
from pathlib import Path

import grimp

import s2pipe

PACKAGE = Path(s2pipe.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))


def test_few_rooms_and_files_stand_at_the_top() -> None:
    folders = [path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"]
    files = [path.name for path in PACKAGE.iterdir() if path.is_file()]
    assert len(folders) <= 13, folders
    assert len(files) <= 5, files


def test_no_module_is_long() -> None:
    assert {path: lines for path in MODULES if (lines := len(path.read_text().splitlines())) > 400} == {}


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = grimp.build_graph("s2pipe", exclude_type_checking_imports=True, cache_dir=None)
    TopologicalSorter({module: graph.find_modules_directly_imported_by(module) for module in graph.modules}).prepare()
