"""The store: what is written is read back equal, in aligned shards, readable to others, and never looks complete too early."""

import itertools
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
import rioxarray  # noqa: F401
import xarray as xr
import zarr
from affine import Affine
from dask.base import tokenize
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refused
from zarr.storage import LocalStore, MemoryStore

import s2pipe.store
import s2pipe.store.layout
from s2pipe.core.bands import BANDS, BANDS_BY_GSD
from s2pipe.core.encoding import Encoding
from s2pipe.core.errors import InputError, StoreError
from s2pipe.store.location import locate
from s2pipe.store.lock import hold
from s2pipe.store.permission import check_store
from s2pipe.store.zarr_io import list_chunks, list_results, open_zarr, to_zarr

PROVENANCE = {
    "s2pipe_version": "0.1.0",
    "s2pipe_method": "bicubic",
    "s2pipe_options": '{"steps": 3}',
    "s2pipe_seed": 0,
    "s2pipe_bicubic_bands": ["B01", "B09"],
}
ORIGIN = (435780.0, 4179420.0)
EDGE_DN = np.array([0, 1, 2, 1000, 3000, 32768, 65534, 65535], dtype=np.uint16)


def make_array(
    shape: tuple[int, int, int, int] = (1, 12, 96, 84), dtype: Any = "uint16", gsd: int = 10, bands: Any = tuple(BANDS)
) -> xr.DataArray:
    """Array in memory as the pipeline labels it, with every DN that could be re-encoded wrongly, or with NaN."""
    times, count, height, width = shape
    dtype = np.dtype(dtype)
    rng = np.random.default_rng(7)
    if dtype.kind == "f":
        values = rng.random(shape).astype(dtype)
        values.flat[::7] = np.nan
    else:
        values = rng.choice(EDGE_DN, size=shape).astype(dtype)
    time_axis = np.array(["2020-02-23T03:27:39.024000001", "2021-12-31T23:59:59"], "datetime64[ns]")[:times]
    encoding = Encoding.default(dtype, scale=1e-4, offset=-0.1) if dtype.kind == "u" else Encoding.default(dtype)
    array = xr.DataArray(
        values,
        dims=("time", "band", "y", "x"),
        name="reflectance",
        coords={
            "time": time_axis,
            "band": list(bands)[:count],
            "y": ORIGIN[1] - gsd * (np.arange(height) + 0.5),
            "x": ORIGIN[0] + gsd * (np.arange(width) + 0.5),
            "item_id": ("time", [f"S2B_T48QUE_{index}" + "x" * index for index in range(times)]),
            "platform": ("time", ["sentinel-2b"] * times),
        },
        attrs={**encoding.attrs(), **PROVENANCE},
    )
    array = array.rio.write_crs(32618)
    return array.rio.write_transform(Affine(gsd, 0, ORIGIN[0], 0, -gsd, ORIGIN[1]))


def make_cube(chunk: int = 48, **attrs: Any) -> xr.DataTree:
    """Cube of 96 x 84 px at 10 m in chunks of `chunk` px, its last 12 px joined to the chunk before."""
    nodes = {}
    for gsd, bands in BANDS_BY_GSD.items():
        factor = gsd // 10
        array = make_array((2, len(bands), 96 // factor, 84 // factor), gsd=gsd, bands=bands)
        edge = chunk // factor
        chunks = {"time": 1, "band": -1, "y": edge, "x": (edge, 84 // factor - edge)}
        nodes[f"r{gsd}m"] = array.chunk(chunks).to_dataset()
    tree = xr.DataTree.from_dict(nodes)
    tree.attrs = attrs
    return tree


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def forbid_computing(dsk: Any, keys: Any, **kwargs: Any) -> None:
    raise AssertionError(f"{len(list(keys))} tasks were computed")


# Written equals read


def assert_same(read: xr.DataArray, written: xr.DataArray) -> None:
    assert read.chunks is not None
    assert read.dtype == written.dtype
    assert read.name == "reflectance"
    xr.testing.assert_identical(read.compute(), written.compute())
    for name in written.coords:
        assert read[name].dtype.kind == written[name].dtype.kind
        assert read[name].dtype == written[name].dtype
    assert type(read.attrs["_FillValue"]) is type(written.attrs["_FillValue"])


@pytest.mark.parametrize("shards", [True, False])
@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32", "float64"])
@pytest.mark.parametrize("chunked", [True, False])
def test_array_reads_back_equal(tmp_path: Path, dtype: str, shards: bool, chunked: bool) -> None:
    written = make_array((2, 12, 96, 84), dtype)
    if chunked:
        written = written.chunk({"time": 1, "band": -1, "y": 48, "x": 48})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", category=PendingDeprecationWarning, module="rioxarray")
        assert to_zarr(written, tmp_path / "a.zarr", shards=shards) is None
        read = open_zarr(tmp_path / "a.zarr")
    assert isinstance(read, xr.DataArray)
    assert_same(read, written)
    assert read.rio.crs == 32618
    assert read.rio.transform() == Affine(10, 0, ORIGIN[0], 0, -10, ORIGIN[1])


@st.composite
def layouts(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Chunks of y, x and band: regular with a ragged or a joined end, or anything at all."""
    regular = st.builds(
        lambda edge, count, end: (*(edge,) * count, end), st.integers(1, 24), st.integers(0, 3), st.integers(1, 40)
    )
    anything = st.lists(st.integers(1, 20), min_size=1, max_size=4).map(tuple)
    axis = st.one_of(regular, anything)
    return draw(axis), draw(axis), draw(st.sampled_from([(3,), (1, 1, 1), (2, 1), (1, 2)]))


@settings(max_examples=12)
@given(layout=layouts(), dtype=st.sampled_from(["uint16", "float32"]), shards=st.booleans())
def test_any_layout_reads_back_equal(
    tmp_path_factory: pytest.TempPathFactory, layout: tuple[Any, Any, Any], dtype: str, shards: bool
) -> None:
    y, x, band = layout
    written = make_array((2, 3, sum(y), sum(x)), dtype).chunk({"time": (1, 1), "band": band, "y": y, "x": x})
    store = tmp_path_factory.mktemp("layout") / "a.zarr"
    to_zarr(written, store, shards=shards)
    read = open_zarr(store)
    np.testing.assert_array_equal(read.values, written.values)
    zarr_array = zarr.open_array(store, path="reflectance", mode="r")
    edges = zarr_array.shards or zarr_array.chunks
    for size, chunks in zip(edges, read.chunks, strict=True):
        assert all(chunk % size == 0 for chunk in chunks[:-1])


@pytest.mark.parametrize("shards", [True, False])
def test_cube_reads_back_equal(tmp_path: Path, shards: bool) -> None:
    written = make_cube(title="a cube")
    to_zarr(written, tmp_path / "cube.zarr", shards=shards)
    read = open_zarr(tmp_path / "cube.zarr")
    assert isinstance(read, xr.DataTree)
    assert list(read.children) == ["r10m", "r20m", "r60m"]
    assert read.attrs == {"title": "a cube"}
    for name in read.children:
        assert read[name].attrs == written[name].attrs
        assert_same(read[name]["reflectance"], written[name]["reflectance"])
        factor = int(name[1:3]) // 10
        assert read[name]["reflectance"].chunks[3][0] == 48 // factor
        assert read[name]["reflectance"].rio.resolution() == (10 * factor, -10 * factor)


def test_cube_without_coarse_nodes(tmp_path: Path) -> None:
    cube = make_cube()
    written = xr.DataTree.from_dict({"r10m": cube["r10m"].to_dataset()})
    to_zarr(written, tmp_path / "cube.zarr")
    assert list(open_zarr(tmp_path / "cube.zarr").children) == ["r10m"]


def test_without_georeference_or_item_ids(tmp_path: Path) -> None:
    written = make_array((1, 4, 12, 18)).drop_vars(["spatial_ref", "item_id", "platform", "time", "y", "x"])
    to_zarr(written, tmp_path / "a.zarr")
    read = open_zarr(tmp_path / "a.zarr")
    xr.testing.assert_identical(read.compute(), written)
    assert "spatial:bbox" not in zarr.open_group(tmp_path / "a.zarr", mode="r").attrs


def test_a_cut_array_keeps_its_place(tmp_path: Path) -> None:
    to_zarr(make_array().isel(y=slice(12, 40), x=slice(6, 7)), tmp_path / "a.zarr")
    transform = open_zarr(tmp_path / "a.zarr").rio.transform()
    assert transform == Affine(10, 0, ORIGIN[0] + 60, 0, -10, ORIGIN[1] - 120)


def test_values_read_from_elsewhere_are_not_encoded_their_way(tmp_path: Path) -> None:
    written = make_array()
    written.time.encoding.update(units="days since 2000-01-01", dtype="int16")
    written.encoding.update(dtype="int16", scale_factor=0.5, chunks=(1, 5, 7, 7), _FillValue=-1)
    to_zarr(written, tmp_path / "a.zarr")
    xr.testing.assert_identical(open_zarr(tmp_path / "a.zarr").compute(), make_array())


# Layout


@pytest.mark.parametrize(
    ("chunks", "shard", "inner"),
    [
        ((1830, 1830), 1830, 366),
        ((1830, 1842), 1830, 366),
        ((915, 921), 915, 305),
        ((305, 307), 305, 305),
        ((600, 600, 300), 600, 300),
        ((1926,), 1926, 321),
        ((1009, 1009), 1009, 1009),
        ((108,), 108, 108),
        ((100, 90, 110), 110, 110),
    ],
)
def test_shard_and_inner_chunk_edges(tmp_path: Path, chunks: tuple[int, ...], shard: int, inner: int) -> None:
    array = make_array((1, 2, sum(chunks), 6))
    array = array.copy(data=da.zeros(array.shape, dtype=array.dtype, chunks=(1, -1, chunks, -1)))
    to_zarr(array, tmp_path / "a.zarr", compute=False)
    stored = zarr.open_array(tmp_path / "a.zarr", path="reflectance", mode="r")
    assert stored.metadata.zarr_format == 3
    assert stored.shards == (1, 2, shard, 6)
    assert stored.chunks == (1, 1, inner, 6)


def test_plain_chunks_without_shards(tmp_path: Path) -> None:
    array = make_array().chunk({"y": 48, "x": 42, "band": -1})
    to_zarr(array, tmp_path / "a.zarr", shards=False)
    stored = zarr.open_array(tmp_path / "a.zarr", path="reflectance", mode="r")
    assert stored.shards is None
    assert stored.chunks == (1, 1, 48, 42)
    assert open_zarr(tmp_path / "a.zarr").chunks == ((1,), (12,), (48, 48), (42, 42))


def test_a_shard_is_one_file(tmp_path: Path) -> None:
    array = make_array((2, 12, 96, 84)) + np.uint16(1)  # no chunk is all nodata
    array.attrs = make_array().attrs
    to_zarr(array.chunk({"time": 1, "band": -1, "y": 48, "x": 42}), tmp_path / "a.zarr")
    assert len([name for name in files(tmp_path / "a.zarr/reflectance/c") if name.count("/") == 3]) == 2 * 2 * 2


def test_chunks_of_data_in_memory_are_those_of_the_loader(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(s2pipe.store.layout, "DEFAULT_CHUNK_METRES", 480)
    to_zarr(make_cube().map_over_datasets(lambda node: node.compute()), tmp_path / "cube.zarr")
    read = open_zarr(tmp_path / "cube.zarr")
    assert [read[name]["reflectance"].chunks[2][0] for name in read.children] == [48, 24, 8]


@pytest.mark.parametrize(("dtype", "nodata"), [("uint16", 0), ("int16", -9999), ("float32", np.nan)])
def test_unwritten_chunks_read_as_nodata(tmp_path: Path, dtype: str, nodata: float) -> None:
    array = make_array(dtype=dtype)
    array.attrs["_FillValue"] = np.dtype(dtype).type(nodata)
    to_zarr(array.chunk(), tmp_path / "a.zarr", compute=False)
    stored = zarr.open_array(tmp_path / "a.zarr", path="reflectance", mode="r")
    np.testing.assert_array_equal(stored[...], np.full(array.shape, nodata, dtype))


def test_strings_have_a_specified_type(tmp_path: Path) -> None:
    to_zarr(make_array(), tmp_path / "a.zarr")
    for name in ("band", "item_id", "platform"):
        assert json.loads((tmp_path / "a.zarr" / name / "zarr.json").read_text())["data_type"] == "string"


# Other readers


def test_xarray_alone_decodes_reflectance_and_crs(tmp_path: Path) -> None:
    raw = make_array()
    to_zarr(raw, tmp_path / "a.zarr")
    dataset = xr.open_zarr(tmp_path / "a.zarr", decode_coords="all", consolidated=False)
    expected = np.where(raw.values == 0, np.nan, raw.values * 1e-4 - 0.1)
    np.testing.assert_allclose(dataset.reflectance.values, expected, atol=1e-5)
    assert dataset.reflectance.rio.crs.to_epsg() == 32618
    assert dataset.reflectance.rio.transform() == Affine(10, 0, ORIGIN[0], 0, -10, ORIGIN[1])
    assert {"crs_wkt", "GeoTransform"} <= set(dataset.spatial_ref.attrs)
    assert dataset.band.values.tolist() == list(BANDS)
    assert dataset.item_id.values.tolist() == ["S2B_T48QUE_0"]


def test_geozarr_conventions_describe_the_grid(tmp_path: Path) -> None:
    to_zarr(make_cube(), tmp_path / "cube.zarr")
    attrs = zarr.open_group(tmp_path / "cube.zarr", path="r20m", mode="r").attrs.asdict()
    assert {convention["name"] for convention in attrs["zarr_conventions"]} == {"proj:", "spatial:"}
    assert attrs["proj:code"] == "EPSG:32618"
    assert attrs["spatial:dimensions"] == ["y", "x"]
    assert attrs["spatial:shape"] == [48, 42]
    assert attrs["spatial:transform"] == [20, 0, ORIGIN[0], 0, -20, ORIGIN[1]]
    assert attrs["spatial:bbox"] == [ORIGIN[0], ORIGIN[1] - 960, ORIGIN[0] + 840, ORIGIN[1]]


def test_a_crs_without_code_is_described_in_wkt(tmp_path: Path) -> None:
    crs = "+proj=tmerc +lat_0=1.5 +lon_0=7.25 +k=1 +x_0=0 +y_0=0 +ellps=GRS80 +units=m"
    to_zarr(make_array().rio.write_crs(crs), tmp_path / "a.zarr")
    attrs = zarr.open_group(tmp_path / "a.zarr", mode="r").attrs
    assert "proj:code" not in attrs
    assert "7.25" in attrs["proj:wkt2"]


# Laziness and completeness


def test_building_computes_nothing_and_completes_when_computed(tmp_path: Path) -> None:
    labels = make_array((2, 12, 96, 84))
    written = labels.copy(data=da.from_array(labels.values, chunks=(1, -1, 48, 48)))
    with dask.config.set(scheduler=forbid_computing):
        delayed = to_zarr(written, tmp_path / "a.zarr", compute=False)
    assert not (tmp_path / "a.zarr/reflectance/c").exists()
    with refused("store", "group", kind=StoreError, naming=(tmp_path / "a.zarr",)):
        open_zarr(tmp_path / "a.zarr")
    assert delayed is not None
    delayed.compute()
    with dask.config.set(scheduler=forbid_computing):
        read = open_zarr(tmp_path / "a.zarr")
    assert_same(read, written)
    assert zarr.open_group(tmp_path / "a.zarr", mode="r").attrs["s2pipe_version"]


def test_work_that_holds_no_lock_gives_way_to_a_writer(tmp_path: Path) -> None:
    array = make_array((2, 12, 96, 84))
    work = to_zarr(array, tmp_path / "a.zarr", compute=False)
    assert work is not None
    with hold(locate(tmp_path / "a.zarr", None)), refused("store", "group", kind=StoreError):
        work.compute()
    work.compute()
    assert_same(open_zarr(tmp_path / "a.zarr"), array)


def test_work_does_not_write_into_what_replaced_its_result(tmp_path: Path) -> None:
    work = to_zarr(make_array((2, 12, 96, 84)), tmp_path / "a.zarr", compute=False)
    assert work is not None
    other = make_array((2, 12, 96, 84), "float32")
    to_zarr(other, tmp_path / "a.zarr", overwrite=True)
    with refused(kind=StoreError, naming=(tmp_path / "a.zarr",)):
        work.compute()
    assert_same(open_zarr(tmp_path / "a.zarr"), other)


def test_a_write_that_breaks_off_stays_incomplete(tmp_path: Path) -> None:
    def broken(block: np.ndarray, block_info: Any = None) -> np.ndarray:
        if block_info[0]["chunk-location"][3] == 1:
            raise RuntimeError("the worker died")
        return block

    array = make_array().chunk({"band": -1, "y": 48, "x": 42})
    failing = array.copy(data=array.data.map_blocks(broken, dtype=array.dtype, meta=array.data._meta))
    with pytest.raises(RuntimeError, match="the worker died"):
        to_zarr(failing, tmp_path / "a.zarr")
    with refused("store", "group", kind=StoreError, naming=(tmp_path / "a.zarr",)):
        open_zarr(tmp_path / "a.zarr")
    with refused("overwrite", "resume", kind=StoreError):
        to_zarr(array, tmp_path / "a.zarr")
    to_zarr(array, tmp_path / "a.zarr", overwrite=True)
    assert_same(open_zarr(tmp_path / "a.zarr"), array)


def test_an_incomplete_cube_is_refused(tmp_path: Path) -> None:
    to_zarr(make_cube(), tmp_path / "cube.zarr", compute=False)
    with refused("store", "group", kind=StoreError, naming=(tmp_path / "cube.zarr",)):
        open_zarr(tmp_path / "cube.zarr")


@pytest.mark.parametrize(("make", "folder", "chunks"), [(make_array, "reflectance", "c"), (make_cube, "r20m", "reflectance/c/1")])
def test_an_interrupted_replacement_looks_neither_complete_nor_partly_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, make: Any, folder: str, chunks: str
) -> None:
    to_zarr(make(), tmp_path / "a.zarr")
    real = LocalStore.delete_dir

    async def broken(self: LocalStore, prefix: str) -> None:
        if "s2pipe" in prefix.split("/"):
            await real(self, prefix)
        elif prefix == folder:  # others come later
            shutil.rmtree(self.root / prefix / chunks)
            raise OSError("the disk went away")

    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, "delete_dir", broken)
        with refused("store", kind=StoreError, naming=("the disk went away",)):
            to_zarr(make(), tmp_path / "a.zarr", overwrite=True)
    with refused("store", "group", kind=StoreError, naming=(tmp_path / "a.zarr",)):
        open_zarr(tmp_path / "a.zarr")
    try:
        to_zarr(make(), tmp_path / "a.zarr", resume=True)
    except StoreError:  # pixels are left, and no ledger that says which
        to_zarr(make(), tmp_path / "a.zarr", overwrite=True)
    xr.testing.assert_identical(open_zarr(tmp_path / "a.zarr").compute(), make().compute())


def test_tokens_are_those_of_one_writing(tmp_path: Path) -> None:
    to_zarr(make_array(), tmp_path / "a.zarr")
    first, again = open_zarr(tmp_path / "a.zarr"), open_zarr(tmp_path / "a.zarr")
    assert tokenize(first) == tokenize(again)
    to_zarr(make_array(), tmp_path / "a.zarr", overwrite=True)
    assert tokenize(open_zarr(tmp_path / "a.zarr").data) != tokenize(first.data)


# Groups and overwriting


def test_groups_are_independent(tmp_path: Path) -> None:
    store = tmp_path / "tiles.zarr"
    first, second = make_array((1, 12, 24, 24)), make_array((1, 12, 36, 30), "float32")
    to_zarr(first, store, group="T18SVG")
    to_zarr(second, store, group="east/T48QUE")
    before = {name: (store / name).stat().st_mtime_ns for name in files(store) if name.startswith("east")}
    with refused("overwrite", "resume", kind=StoreError, naming=("T18SVG", store)):
        to_zarr(second, store, group="T18SVG")
    to_zarr(second, store, group="T18SVG", overwrite=True)
    xr.testing.assert_identical(open_zarr(store, group="T18SVG").compute(), second)
    xr.testing.assert_identical(open_zarr(store, group="east/T48QUE").compute(), second)
    assert before == {name: (store / name).stat().st_mtime_ns for name in files(store) if name.startswith("east")}
    with refused("store", "group", kind=StoreError, naming=("T18SVG", "east/T48QUE")):
        open_zarr(store)
    with refused("store", "group", kind=StoreError, naming=("T33UUB", "T18SVG", "east/T48QUE")):
        open_zarr(store, group="T33UUB")
    with refused("store", "group", kind=StoreError, naming=("T18SVG", "east/T48QUE")):
        to_zarr(first, store, overwrite=True)
    xr.testing.assert_identical(open_zarr(store, group="T18SVG").compute(), second)


LAZY_OPERATIONS = {
    "nothing": lambda array: array,
    "slicing": lambda array: array.isel(band=[0, 3], y=slice(6, 66)),
    "arithmetic": lambda array: (array * 2).astype("uint16").assign_attrs(array.attrs),
    "rechunking": lambda array: array.chunk(y=20, x=84),
    "optimising": lambda array: dask.optimize((array[:, :, 6:] + np.uint16(1)).assign_attrs(array.attrs))[0],
}


@pytest.mark.parametrize("operation", LAZY_OPERATIONS)
@pytest.mark.parametrize("group", [None, "east/T48QUE"])
def test_data_read_from_the_group_to_overwrite_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str, group: str | None
) -> None:
    store = tmp_path / "w.zarr"
    to_zarr(make_array().chunk({"band": -1, "y": 48, "x": 42}), store, group=group)
    lazy = LAZY_OPERATIONS[operation](open_zarr(store, group=group))
    (tmp_path / "link.zarr").symlink_to(store)
    monkeypatch.chdir(tmp_path)
    before = {name: (store / name).stat().st_mtime_ns for name in files(store)}
    for same in (store, "w.zarr", f"file://{store}", LocalStore(store), tmp_path / "link.zarr"):
        with refused("data", kind=StoreError):
            to_zarr(lazy, same, group=group, overwrite=True)
    assert before == {name: (store / name).stat().st_mtime_ns for name in files(store)}
    xr.testing.assert_identical(open_zarr(store, group=group).compute(), make_array())
    expected = lazy.values
    to_zarr(lazy, tmp_path / "other.zarr", group=group)
    np.testing.assert_array_equal(open_zarr(tmp_path / "other.zarr", group=group).values, expected)
    to_zarr(lazy.persist(), store, group=group, overwrite=True)
    np.testing.assert_array_equal(open_zarr(store, group=group).values, expected)


def test_cubes_read_from_the_group_to_overwrite_are_refused(tmp_path: Path) -> None:
    store = tmp_path / "cube.zarr"
    to_zarr(make_cube(), store, group="T18SVG")
    cube = open_zarr(store, group="T18SVG")
    only_coarse = cube.assign({"r10m": xr.DataTree(cube["r10m"].to_dataset().compute())})
    for data in (cube, only_coarse, cube["r20m"]["reflectance"], cube["r10m"]["reflectance"] + np.uint16(0)):
        with refused("data", kind=StoreError, naming=("T18SVG", store)):
            to_zarr(data, store, group="T18SVG", overwrite=True)
    to_zarr(cube, store, group="T48QUE")
    to_zarr(open_zarr(store, group="T48QUE"), store, group="T18SVG", overwrite=True)
    np.testing.assert_array_equal(
        open_zarr(store, group="T18SVG")["r60m"]["reflectance"].values, make_cube()["r60m"]["reflectance"].values
    )


def test_results_are_listed_at_any_depth(tmp_path: Path) -> None:
    store = tmp_path / "w.zarr"
    with refused("store", kind=StoreError, naming=(store,)):
        list_results(store)
    zarr.create_group(store)
    assert list_results(store) == []
    to_zarr(make_array((1, 12, 12, 12)), store, group="b")
    to_zarr(make_array((1, 12, 12, 12)), store, group="a/deep/er")
    to_zarr(make_cube(), store, group="a/cube", compute=False)
    assert list_results(store) == ["a/cube", "a/deep/er", "b"]
    to_zarr(make_array((1, 12, 12, 12)), tmp_path / "root.zarr")
    assert list_results(tmp_path / "root.zarr") == ["/"]
    assert open_zarr(tmp_path / "root.zarr", group="/").sizes["y"] == 12


def test_overwriting_replaces_everything(tmp_path: Path) -> None:
    to_zarr(make_cube(), tmp_path / "a.zarr")
    to_zarr(make_array(), tmp_path / "a.zarr", overwrite=True)
    xr.testing.assert_identical(open_zarr(tmp_path / "a.zarr").compute(), make_array())
    assert not (tmp_path / "a.zarr/r10m").exists()


@pytest.mark.parametrize("overwrite", [True, False])
def test_no_group_inside_a_result(tmp_path: Path, overwrite: bool) -> None:
    to_zarr(make_cube(), tmp_path / "cube.zarr")
    with refused("store", "group", kind=StoreError, naming=("r10m", tmp_path / "cube.zarr")):
        to_zarr(make_array(), tmp_path / "cube.zarr", group="r10m", overwrite=overwrite)
    assert isinstance(open_zarr(tmp_path / "cube.zarr"), xr.DataTree)


def test_what_s2pipe_did_not_write_is_never_deleted(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "cat.jpg").write_bytes(b"cat")
    foreign = tmp_path / "foreign.zarr"
    xr.Dataset({"a": ("x", [1, 2])}).to_zarr(foreign, zarr_format=3, consolidated=False)
    old = tmp_path / "old.zarr"
    xr.Dataset({"a": ("x", [1, 2])}).to_zarr(old, zarr_format=2, consolidated=False)
    before = files(tmp_path)
    for store, group, arguments in [
        (folder, None, ["store"]),
        (folder, "T18SVG", ["store"]),
        (foreign, None, ["store", "group"]),
        (foreign, "a", ["store", "group"]),
        (old, None, ["store", "group"]),
        (old, "T18SVG", ["store"]),
    ]:
        for overwrite in (True, False):
            with refused(*arguments, kind=StoreError, naming=(store,)):
                to_zarr(make_array(), store, group=group, overwrite=overwrite)
    assert files(tmp_path) == before


def test_a_group_beside_foreign_ones_is_accepted(tmp_path: Path) -> None:
    xr.Dataset({"a": ("x", [1, 2])}).to_zarr(tmp_path / "f.zarr", group="other", zarr_format=3, consolidated=False)
    to_zarr(make_array(), tmp_path / "f.zarr", group="T18SVG")
    xr.testing.assert_identical(open_zarr(tmp_path / "f.zarr", group="T18SVG").compute(), make_array())
    assert xr.open_zarr(tmp_path / "f.zarr", group="other", consolidated=False).a.values.tolist() == [1, 2]


# Bad locations


@pytest.fixture
def uncomputable() -> xr.DataArray:
    """Array that fails the test when a check comes too late."""

    def fail(block: np.ndarray) -> np.ndarray:
        raise AssertionError("computed before the store was checked")

    array = make_array().chunk({"band": -1})
    return array.copy(data=array.data.map_blocks(fail, dtype=array.dtype, meta=array.data._meta))


def test_unwritable_locations_are_refused_before_computing(tmp_path: Path, uncomputable: xr.DataArray) -> None:
    (tmp_path / "file").write_text("no folder")
    before = files(tmp_path)
    for store in (tmp_path / "file/a.zarr", tmp_path / "file", tmp_path / "missing/a.zarr", Path("/proc/a.zarr")):
        for write in (lambda store: to_zarr(uncomputable, store), check_store):
            with refused("store", kind=StoreError, naming=(store,)):
                write(store)
    assert files(tmp_path) == before


@pytest.fixture
def ordinary_user() -> Iterator[None]:
    """Permissions do not stop root, so root does without its rights for a while."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    yield
    os.seteuid(user)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may enter and none but root may write to."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o555)
    yield folder
    folder.chmod(0o700)
    folder.rmdir()


def test_permissions_are_respected(open_folder: Path, ordinary_user: None, uncomputable: xr.DataArray) -> None:
    with refused("store", kind=StoreError, naming=(open_folder,)):
        to_zarr(uncomputable, open_folder / "a.zarr")


def test_an_existing_store_is_refused_before_computing(tmp_path: Path, uncomputable: xr.DataArray) -> None:
    to_zarr(make_array(), tmp_path / "a.zarr")
    before = files(tmp_path)
    with refused("overwrite", "resume", kind=StoreError, naming=(tmp_path / "a.zarr",)):
        to_zarr(uncomputable, tmp_path / "a.zarr")
    with refused("overwrite", "resume", kind=StoreError):
        check_store(tmp_path / "a.zarr")
    check_store(tmp_path / "a.zarr", overwrite=True)
    assert files(tmp_path) == before
    xr.testing.assert_identical(open_zarr(tmp_path / "a.zarr").compute(), make_array())


def test_checking_leaves_nothing_behind(tmp_path: Path) -> None:
    check_store(tmp_path / "a.zarr")
    check_store(str(tmp_path / "a.zarr"), group="T18SVG", overwrite=True)
    check_store(LocalStore(tmp_path / "b.zarr"))
    memory = MemoryStore()
    check_store(memory)
    assert files(tmp_path) == []
    assert memory._store_dict == {}


def test_read_only_stores_are_refused(uncomputable: xr.DataArray) -> None:
    with refused("store", kind=StoreError):
        to_zarr(uncomputable, MemoryStore(read_only=True))


def test_missing_and_foreign_stores(tmp_path: Path) -> None:
    with refused("store", kind=StoreError, naming=(tmp_path / "missing.zarr",)):
        open_zarr(tmp_path / "missing.zarr")
    assert files(tmp_path) == []
    with refused("store", kind=StoreError, naming=(tmp_path,)):
        open_zarr(tmp_path)
    xr.Dataset({"a": ("x", [1, 2])}).to_zarr(tmp_path / "f.zarr", zarr_format=3, consolidated=False)
    with refused("store", "group", kind=StoreError, naming=(tmp_path / "f.zarr",)):
        open_zarr(tmp_path / "f.zarr")
    to_zarr(make_array(), tmp_path / "a.zarr")
    with refused("store", "group", kind=StoreError, naming=("T18SVG", "'/'")):
        open_zarr(tmp_path / "a.zarr", group="T18SVG")


def test_damaged_metadata(tmp_path: Path) -> None:
    to_zarr(make_array(), tmp_path / "a.zarr")
    (tmp_path / "a.zarr/zarr.json").write_text("{")
    for call in (open_zarr, check_store):
        with refused("store", kind=StoreError, naming=(tmp_path / "a.zarr",)):
            call(tmp_path / "a.zarr")


@pytest.mark.parametrize("group", ["a//b", "../b", "a/./b"])
def test_bad_group_names(tmp_path: Path, group: str) -> None:
    with refused("group", naming=(group,)):
        to_zarr(make_array(), tmp_path / "a.zarr", group=group)


@pytest.mark.parametrize("store", [3, None, "", object()])
def test_what_is_no_store(store: Any) -> None:
    with refused("store"):
        check_store(store)


def test_credentials_stay_out_of_messages() -> None:
    stores = ("nosuch://user:secret@host/a.zarr?sig=secret", "https://user:secret@127.0.0.1:1/a.zarr?sig=secret")
    for store, call in itertools.product(stores, (check_store, list_results)):
        with pytest.raises(StoreError) as caught:
            call(store)
        error: BaseException | None = caught.value
        while error is not None:
            assert "secret" not in str(error)
            error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


# Bad data


@pytest.mark.parametrize(
    ("make", "fact"),
    [
        (lambda: make_array().values, "ndarray"),
        (lambda: make_array().to_dataset(), "Dataset"),
        (lambda: make_array()[0], "dimensions"),
        (lambda: make_array().transpose("band", "time", "y", "x"), "dimensions"),
        (lambda: make_array()[:, :, :0], "dimensions"),
        (lambda: make_array().assign_coords(spec=((), {"a": 1})), "'spec'"),
        (lambda: make_array().assign_attrs(spec=Affine.identity, ids={1, 2}), "['spec', 'ids']"),
        (lambda: xr.DataTree.from_dict({"r20m": make_cube()["r20m"].to_dataset()}), "r10m"),
        (lambda: xr.DataTree.from_dict({"r10m": make_cube()["r10m"].to_dataset(), "scl": xr.Dataset()}), "scl"),
        (lambda: xr.DataTree.from_dict({"r10m": make_cube()["r10m"].to_dataset().assign(scl=1)}), "scl"),
    ],
)
def test_bad_data_is_refused_and_leaves_nothing(tmp_path: Path, make: Any, fact: str) -> None:
    with refused("data", naming=(fact,)):
        to_zarr(make(), tmp_path / "a.zarr")
    assert files(tmp_path) == []


def test_complex_numbers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="complex64"):
        to_zarr(make_array().astype("complex64"), tmp_path / "a.zarr")


# Other kinds of store


@pytest.mark.filterwarnings("ignore:Object at:UserWarning")  # obstore leaves empty folders where it deleted
def test_paths_urls_and_opened_stores(tmp_path: Path) -> None:
    obstore = pytest.importorskip("obstore.store")
    array = make_array().chunk({"band": -1, "y": 48})
    (tmp_path / "ob").mkdir()
    for store in (
        str(tmp_path / "string.zarr"),
        f"file://{tmp_path}/url.zarr",
        LocalStore(tmp_path / "zarr-store.zarr"),
        MemoryStore(),
        "memory://bucket/fsspec.zarr",
        obstore.LocalStore(tmp_path / "ob"),
    ):
        check_store(store)
        for overwrite in (False, True):
            to_zarr(array, store, group="T18SVG", overwrite=overwrite)
            assert_same(open_zarr(store, group="T18SVG"), array)
        with refused("overwrite", "resume", kind=StoreError):
            to_zarr(array, store, group="T18SVG")


def test_s3(s3_bucket: str) -> None:
    import s3fs

    bucket = s3fs.S3FileSystem()
    store = f"{s3_bucket}/results/a.zarr"
    array = make_array((2, 12, 96, 84)).chunk({"time": 1, "band": -1, "y": 48, "x": 48})
    check_store(store)
    assert bucket.find(s3_bucket) == []
    with refused("store", kind=StoreError, naming=(store,)):
        open_zarr(store)
    to_zarr(array, store, group="T18SVG")
    to_zarr(array.isel(time=[1]), store, group="T48QUE")
    with refused("overwrite", "resume", kind=StoreError, naming=(store,)):
        to_zarr(array, store, group="T18SVG")
    to_zarr(array, store, group="T18SVG", overwrite=True)
    assert_same(open_zarr(store, group="T18SVG"), array)
    assert_same(open_zarr(store, group="T48QUE"), array.isel(time=[1]))
    with refused("store", "group", kind=StoreError, naming=("T18SVG", "T48QUE")):
        open_zarr(store)
    with refused("store", kind=StoreError, naming=("s3://nosuchbucket/a.zarr",)):
        check_store("s3://nosuchbucket/a.zarr")
    with refused("store", kind=StoreError, naming=("s3://nosuchbucket/a.zarr",)):
        list_results("s3://nosuchbucket/a.zarr")
    assert list_results(store) == ["T18SVG", "T48QUE"]
    with refused("data", kind=StoreError):
        to_zarr(open_zarr(store, group="T18SVG"), f"{store}/", group="T18SVG", overwrite=True)
    s3fs.S3FileSystem.clear_instance_cache()


# What is known of chunks


def test_chunks_tell_whether_and_how_they_were_written(tmp_path: Path) -> None:
    array = make_array((2, 12, 96, 84)).chunk({"time": 1, "band": -1, "y": 48, "x": 42})
    to_zarr(array[:1], tmp_path / "a.zarr", group="T18SVG")
    to_zarr(array.assign_attrs(s2pipe_method="glp"), tmp_path / "a.zarr", group="T18SVG", resume=True, refit=True)
    table = list_chunks(tmp_path / "a.zarr", group="T18SVG")
    assert len(table) == 8
    assert table["written"].all()
    assert table.groupby("time")["method"].unique().map(list).tolist() == [["bicubic"], ["glp"]]
    assert sorted(set(zip(table["y"], table["x"], strict=True))) == [(0, 0), (0, 42), (48, 0), (48, 42)]
    assert set(table["bands"]) == {12}
    assert table["started"].notna().all() and set(table["version"]) == {s2pipe.__version__}


def test_chunks_of_a_cube_that_was_not_written_to_its_end(tmp_path: Path) -> None:
    to_zarr(make_cube(), tmp_path / "cube.zarr", compute=False)
    table = list_chunks(tmp_path / "cube.zarr")
    assert not table["written"].any()
    assert table.groupby("node").size().to_dict() == {"r10m": 8, "r20m": 8, "r60m": 8}


def test_chunks_of_what_is_no_result(tmp_path: Path) -> None:
    with refused("store", kind=StoreError, naming=(tmp_path / "a.zarr",)):
        list_chunks(tmp_path / "a.zarr")
    to_zarr(make_array(), tmp_path / "a.zarr", group="T18SVG")
    with refused("store", "group", kind=StoreError, naming=("T18SVG",)):
        list_chunks(tmp_path / "a.zarr")
