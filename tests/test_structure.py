"""The shape of the package: few things at the top, no long module, no import in a circle."""

import sys
from graphlib import TopologicalSorter
from itertools import pairwise
from pathlib import Path
from types import FrameType

import dask
import grimp
import pytest
import xarray as xr
from scenes import random_cube

import s2pipe
from s2pipe.core.cube import Cube
from s2pipe.core.pixels import Pixels
from s2pipe.methods.base import TensorPixels

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


FLOORS = (("accessor",), ("engine",), ("inputs", "methods"), ("physics", "fitting", "networks"), ("core",))
"""Of the rooms that data walk through, the highest first."""


@pytest.mark.parametrize("method", ["glp", "mtf-resnet"])
def test_data_walk_down(method: str) -> None:
    """From one function that gets the data to the next, they climb to a room above at most four times."""
    cube = random_cube(120, 120)
    s2pipe.sharpen(cube, method)  # imports what it needs
    floor = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
    walk: list[int] = []

    def look(frame: FrameType, event: str, _: object) -> None:
        path = Path(frame.f_code.co_filename)
        if event != "call" or not path.is_relative_to(PACKAGE):
            return
        code = frame.f_code
        given = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        data = (frame.f_locals.get(name) for name in given if name != "self")
        if any(isinstance(value, (xr.DataTree, Cube, Pixels, TensorPixels)) for value in data):
            walk.append(floor[path.relative_to(PACKAGE).parts[0].removesuffix(".py")])

    with dask.config.set(scheduler="synchronous"):
        sys.setprofile(look)
        try:
            cube.s2.sharpen(method).compute()
        finally:
            sys.setprofile(None)
    assert {floor["accessor"], floor["engine"], floor["inputs"], floor["core"], floor["fitting"]} <= set(walk)
    assert sum(after < before for before, after in pairwise(walk)) <= 4
