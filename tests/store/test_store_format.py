"""What docs/store_format.md says a store holds is what real stores hold."""

import json
import re
from pathlib import Path

import pytest
import zarr
from quick import quick_options
from scenes import random_cube

import s2pipe
from s2pipe import Sensor
from s2pipe.core.bands import BANDS
from s2pipe.store.location import locate
from s2pipe.store.lock import hold

PAGE = (Path(__file__).parents[2] / "docs" / "store_format.md").read_text()


def section(title):
    """The text under a heading, up to the next one."""
    return re.search(rf"^#+ {title}\n(.*?)(?=^#|\Z)", PAGE, flags=re.DOTALL | re.MULTILINE).group(1)


def rows(title):
    """The cells of the rows of the one table under a heading."""
    lines = re.findall(r"^\|.*\|$", section(title), re.MULTILINE)
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def names(title):
    return {name for row in rows(title) for name in re.findall(r"`([^`]+)`", row[0])}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """One that has everything: a CRS, items, an MTF of its own, bands that are interpolated, weights; beside it a cube."""
    store = tmp_path_factory.mktemp("store") / "a.zarr"
    cube = random_cube(96, 96)
    per_date = {name: ("time", ["a"]) for name in ("item_id", "platform", "processing_baseline")} | {
        "source_offset": ("time", [-0.1])
    }
    cube = cube.map_over_datasets(lambda node: node.assign_coords(per_date) if node.data_vars else node)
    sensor = Sensor(mtf=tuple((band, 0.2) for band in BANDS))
    s2pipe.sharpen_to_store(cube, store, method="ssc-cnn", group="array", sensor=sensor, **quick_options("ssc-cnn"))
    s2pipe.to_zarr(cube, store, group="cube")
    return zarr.open_group(store, mode="r")


def test_the_example_is_what_its_command_lists(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(re.search(r"```python\n(.*?)```", section("An example"), re.DOTALL).group(1), {})
    listed = re.search(r"```text\n(.*?)```", section("An example"), re.DOTALL).group(1).split()
    written = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())

    def without_hash(paths):
        return [re.sub("sharpener_[0-9a-f]{16}", "sharpener", path) for path in paths]

    assert without_hash(listed) == without_hash(written)


def test_attributes_of_groups(store):
    of_all = {name for row in rows("Attributes of a group") for name in re.findall(r"`([^`]+)`", row[0]) if not row[1]}
    assert set(store["cube"].attrs) == of_all
    assert set(store["array"].attrs) == names("Attributes of a group")
    assert set(store["cube/r20m"].attrs) == names("Attributes of a group") - of_all


def test_attributes_of_reflectance(store):
    documented = names("Attributes of reflectance")
    assert set(store["array/reflectance"].attrs) == documented
    encoding = {name for name in documented if not name.startswith("s2pipe_")}
    assert set(store["cube/r60m/reflectance"].attrs) == encoding


def test_arrays_and_groups(store):
    coordinates = names("Coordinates")
    assert set(store["array"].array_keys()) == coordinates | {"reflectance"}
    assert set(store["array"].group_keys()) == {"s2pipe"}
    assert set(store["cube"].group_keys()) == {"r10m", "r20m", "r60m", "s2pipe"} and not set(store["cube"].array_keys())
    assert set(store["cube/r20m"].array_keys()) == coordinates | {"reflectance"}
    dimensions = {name: row[1] for row in rows("Coordinates") for name in re.findall(r"`([^`]+)`", row[0])}
    for name, array in store["array"].arrays():
        if name not in ("reflectance", "y", "x"):
            assert ", ".join(array.metadata.dimension_names or ["none"]) == dimensions[name]


def test_the_ledger_and_the_weights(store):
    ledger = store["array/s2pipe"]
    assert set(ledger.attrs) == names("The ledger")
    run = ledger.attrs["runs"][0]
    assert set(run) == {name for name in names("Attributes of reflectance") if name.startswith("s2pipe_")} | {"started"}
    weights = f"sharpener_{run['s2pipe_weights_sha256'][:16]}"
    assert set(ledger.array_keys()) == {"chunks", weights}
    assert set(store["cube/r20m/s2pipe"].array_keys()) == {"chunks"} and not set(store["cube/s2pipe"].keys())


def test_weights_can_be_read_as_a_file(store, tmp_path):
    ledger = store["array/s2pipe"]
    sha256 = ledger.attrs["runs"][0]["s2pipe_weights_sha256"]
    (tmp_path / "a.safetensors").write_bytes(ledger[f"sharpener_{sha256[:16]}"][:].tobytes())
    assert s2pipe.load_sharpener(tmp_path / "a.safetensors").weights_sha256 == sha256


def test_the_lock(tmp_path):
    with hold(locate(tmp_path / "a.zarr", "T33TWM")):
        held = json.loads((tmp_path / "a.zarr" / "T33TWM" / "s2pipe" / ".lock").read_text())
    assert set(held) == names("The lock")
