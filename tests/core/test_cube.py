import dask.array as da
import numpy as np
import pytest
import rioxarray  # noqa: F401
import xarray as xr
from refusals import refused
from scenes import as_one_array, random_arrays, random_cube

import s2pipe
from s2pipe import InputError
from s2pipe.core.bands import BANDS, BANDS_BY_GSD
from s2pipe.core.cube import check_bands
from s2pipe.inputs.dataarray import as_cube


def test_from_arrays_labels_every_pixel_and_keeps_the_numbers():
    arrays = random_arrays(24, 36, dates=2)
    cube = random_cube(24, 36, dates=2)
    for (gsd, array), given in zip(as_cube(cube).arrays.items(), arrays, strict=True):
        np.testing.assert_array_equal(array.values, given)
        assert tuple(array["band"].values) == BANDS_BY_GSD[gsd]
        assert array["x"].values[0] == 300000 + gsd / 2 and array["y"].values[0] == 4000020 - gsd / 2
        assert array.rio.crs.to_epsg() == 32633
        assert array.rio.transform()[:6] == (gsd, 0, 300000, 0, -gsd, 4000020)
        assert array.attrs["scale_factor"] == 1e-4 and array.attrs["add_offset"] == -0.1 and array.attrs["_FillValue"] == 0


@pytest.mark.parametrize(
    ("dtype", "scale", "nodata"), [("uint16", 1e-4, 0), ("int16", 1e-4, 0), ("float32", 1.0, np.nan), ("float64", 1.0, np.nan)]
)
def test_defaults_of_integers_and_floats(dtype, scale, nodata):
    cube = s2pipe.from_arrays(np.ones((4, 12, 12), dtype), np.ones((6, 6, 6), dtype))
    encoding = as_cube(cube).encoding
    assert (encoding.dtype, encoding.scale, encoding.offset) == (np.dtype(dtype), scale, 0)
    np.testing.assert_equal(encoding.nodata, nodata)


def test_three_dimensions_mean_one_date_and_dask_arrays_stay_lazy():
    def explode(block):
        raise AssertionError("computed")

    lazy = da.ones((4, 12, 12), dtype="uint16", chunks=(1, 6, 6)).map_blocks(explode, meta=np.empty((0, 0, 0), "uint16"))
    cube = s2pipe.from_arrays(lazy, np.ones((6, 6, 6), "uint16"))
    assert cube["r10m"]["reflectance"].shape == (1, 4, 12, 12)
    assert cube["r10m"]["reflectance"].chunks is not None


TEN, TWENTY, SIXTY = (np.ones(shape, "uint16") for shape in ((4, 12, 12), (6, 6, 6), (2, 2, 2)))
INFINITE = np.full((4, 12, 12), np.inf)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((None, TWENTY), {}, "r10m is missing"),
        ((TEN[:3], TWENTY), {}, "3 bands.*B02 B03 B04 B08"),
        ((TEN, TWENTY[:, :5]), {}, "one lattice, 2 to 1"),
        ((TEN, TWENTY, np.ones((2, 2, 3), "uint16")), {}, "one lattice, 6 to 1"),
        ((TEN[0], TWENTY), {}, "2 dimensions"),
        ((TEN, TWENTY.astype("float32")), {}, "uint16.*float32.*give all resolutions one"),
        ((TEN.astype(complex), TWENTY.astype(complex)), {}, "complex128 is not supported"),
        ((TEN.astype(bool), TWENTY.astype(bool)), {}, "bool is not supported"),
        ((TEN, TWENTY), {"scale": 0.0}, "scale=0.0"),
        ((TEN, TWENTY), {"nodata": 70000}, "nodata=70000"),
        ((TEN, TWENTY), {"transform": (20, 0, 0, 0, -20, 0)}, "north-up 10 m grid"),
        ((TEN, TWENTY), {"transform": 5}, "transform=5 is no affine"),
        ((TEN, TWENTY), {"transform": (1, 2, 3)}, "is no affine"),
        ((TEN, TWENTY), {"crs": "nowhere"}, "crs='nowhere' is no CRS"),
        ((TEN, TWENTY), {"scale": "x"}, "scale='x'"),
        ((TEN, TWENTY), {"time": "NaT"}, "NaT"),
        ((xr.DataArray(TEN), TWENTY), {}, r"give its \.data"),
        (([[1], [2, 3]], TWENTY), {}, "rows differ in length"),
        ((TEN, TWENTY), {"time": ["2020-01-01", "2020-01-02"]}, "time has 2 dates, the arrays have 1"),
        ((TEN, TWENTY), {"time": "soon"}, "not a date"),
        (
            (np.stack([TEN, TEN]), np.stack([TWENTY, TWENTY])),
            {"time": ["2020-01-01"] * 2},
            "2020-01-01.* occurs 2 times",
        ),
        ((INFINITE, TWENTY.astype(float)), {}, "infinities"),
        ((np.full((4, 12, 12), np.nan), TWENTY.astype(float)), {"nodata": -1}, "NaN although their nodata is -1"),
        ((np.ones((4, 0, 0), "uint16"), np.ones((6, 0, 0), "uint16")), {}, "empty"),
    ],
)
def test_unusable_arrays_are_refused(arguments, options, message):
    with pytest.raises(InputError, match=message):
        s2pipe.from_arrays(*arguments, **options)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        *(("offset", value) for value in (-1000, 1, np.nan, "much")),
        *(("nodata", value) for value in (70_000, 0.5)),
        *(("scale", value) for value in (-1e-4, 0, True, "1e-4")),
        *(("time", value) for value in (5, [5.0], "soon")),
        ("crs", "EPSG:4326"),
        ("transform", (20, 0, 0, 0, -20, 0)),
    ],
)
def test_what_would_mislead_is_refused_by_name(argument, value):
    with refused(argument):
        s2pipe.from_arrays(TEN, TWENTY, **{argument: value})


@pytest.mark.parametrize(
    ("change", "axis"),
    [
        (lambda node: node.assign_coords(x=node.x * 2, y=node.y * 2), "y"),
        (lambda node: node.isel(y=slice(None, None, -1)), "y"),
        (lambda node: node.isel(x=slice(None, None, -1)), "x"),
    ],
)
def test_a_grid_that_is_not_north_up_at_10_m_is_refused(change, axis):
    cube = random_cube(24, 36)
    changed = xr.DataTree.from_dict({name: change(node.to_dataset()) for name, node in cube.children.items()})
    with refused("data", naming=("north-up", axis)):
        s2pipe.sharpen(changed, "bicubic")


def test_other_things_than_cubes_are_refused():
    cube = random_cube(24, 24)
    with refused("data", naming=("Dataset",)):
        as_cube(cube["r10m"].to_dataset())
    with pytest.raises(InputError, match="no node r10m"):
        as_cube(xr.DataTree.from_dict({"r20m": cube["r20m"].to_dataset()}))
    swapped = cube["r20m"].to_dataset().isel(band=[1, 0, 2, 3, 4, 5])
    with pytest.raises(InputError, match="in this order"):
        as_cube(xr.DataTree.from_dict({"r10m": cube["r10m"].to_dataset(), "r20m": swapped}))
    moved = cube["r20m"].to_dataset().assign_coords(x=cube["r20m"]["x"].values + 10)
    with pytest.raises(InputError, match="same ground"):
        as_cube(xr.DataTree.from_dict({"r10m": cube["r10m"].to_dataset(), "r20m": moved}))
    other = cube["r20m"].to_dataset(inherit=False)
    other["reflectance"] = other["reflectance"].assign_attrs(add_offset=0.0)
    with pytest.raises(InputError, match="one encoding"):
        as_cube(xr.DataTree.from_dict({"r10m": cube["r10m"].to_dataset(), "r20m": other}))


def test_bands_are_put_in_order_and_all_bad_ones_named():
    assert check_bands(["B11", "B02", "B8A"]) == ("B02", "B8A", "B11")
    assert check_bands("B11") == ("B11",)
    assert check_bands(["swir16", "nir", "B8A_20m", "B08"]) == ("B08", "B8A", "B11")
    with refused("bands", naming=("'B10'", "'red edge'", "B01", "B02", "blue")):
        check_bands(["B10", "B02", "red edge"])
    with refused("bands", naming=("'red'", "B05")):
        check_bands(["red"], available=["B05"])
    with refused("bands"):
        check_bands([])


def test_a_10_m_dataarray_gives_back_the_cube_it_came_from():
    cube = random_cube(60, 72, dates=2)
    recovered = as_cube(as_one_array(cube))
    for gsd, array in as_cube(cube).arrays.items():
        xr.testing.assert_equal(recovered.arrays[gsd].drop_vars("spatial_ref"), array.drop_vars("spatial_ref"))
        assert recovered.arrays[gsd].rio.crs == array.rio.crs


def test_a_10_m_dataarray_may_use_catalog_names_any_band_order_and_no_time():
    cube = random_cube(60, 72)
    array = as_one_array(cube).isel(band=[3, 0, 9, 11]).isel(time=0)
    array = array.assign_coords(band=["nir", "B02_10m", "swir22", "nir09"])
    recovered = as_cube(array).arrays
    assert [list(recovered[gsd]["band"].values) for gsd in (10, 20, 60)] == [["B02", "B08"], ["B12"], ["B09"]]
    for gsd, array in recovered.items():
        np.testing.assert_array_equal(array, cube[f"r{gsd}m"]["reflectance"].sel(band=array["band"]))


def test_a_10_m_dataarray_is_recovered_lazily_and_checked_inside_each_task():
    array = as_one_array(random_cube(120, 120)).chunk({"time": 1, "band": 1, "y": 60, "x": 60})
    spoiled = array.copy(data=da.where(da.from_array(np.arange(120) == 77)[None, None, None], array.data + 1, array.data))
    recovered = as_cube(spoiled).arrays[20]
    with refused("data", naming=("nearest",)):
        recovered.compute()
    recovered[..., :30].compute()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda a: a.assign_coords(band=[*[*BANDS][:11], "scl"]), "'scl'"),
        (lambda a: a.isel(x=slice(0, 70)), "multiple of 6"),
        (lambda a: a.isel(x=slice(2, None)), "60 m lattice"),
        (lambda a: a.assign_coords(x=a.x - 5, y=a.y + 5), "xy_coords='center'"),
        (lambda a: a.isel(x=slice(None, None, 2)), "resolution=10"),
        (lambda a: a.drop_vars("band"), "'band'"),
        (lambda a: a.isel(band=slice(4, None)), "10 m band"),
        (lambda a: a.rename(time="t"), "'t'"),
    ],
)
def test_an_unusable_10_m_dataarray_is_refused(change, named):
    with refused("data", naming=(named,)):
        as_cube(change(as_one_array(random_cube(60, 72))))


def test_a_10_m_dataarray_in_chunks_off_the_lattice_is_refused():
    with refused("data", "chunks", naming=("20 px", [18, 24])):
        as_cube(as_one_array(random_cube(60, 72)).chunk(x=20))


def test_an_interpolated_10_m_dataarray_is_refused_with_the_cure():
    array = as_one_array(random_cube(60, 72)).astype("float64").drop_attrs()
    smooth = array.rolling(x=3, center=True, min_periods=1).mean()
    with refused("data", naming=("Resampling.nearest",)):
        as_cube(smooth)


@pytest.mark.parametrize(
    ("coords", "offset"),
    [
        ({}, 0.0),
        ({"s2:processing_baseline": "02.14"}, 0.0),
        ({"s2:processing_baseline": "05.10"}, -0.1),
        ({"s2:processing_baseline": "05.10", "earthsearch:boa_offset_applied": True}, 0.0),
        ({"processing:version": "05.11"}, -0.1),
    ],
)
def test_a_stacked_dataarray_says_by_its_baseline_what_its_dn_mean(coords, offset):
    array = as_one_array(random_cube(60, 60, dates=2))
    del array.attrs["add_offset"]
    one = array.assign_coords(coords)
    per_date = array.assign_coords({name: ("time", np.array([value] * 2)) for name, value in coords.items()})
    assert as_cube(one).encoding.offset == as_cube(per_date).encoding.offset == offset


def test_a_stacked_dataarray_of_mixed_or_unknown_baselines_is_refused():
    array = as_one_array(random_cube(60, 60, dates=2))
    del array.attrs["add_offset"]
    with refused("data", naming=("s2pipe.load",)):
        as_cube(array.assign_coords({"s2:processing_baseline": ("time", ["02.14", "05.10"])}))
    with refused("data", naming=("99.99", "assign_attrs(add_offset")):
        as_cube(array.assign_coords({"s2:processing_baseline": ("time", ["99.99", "99.99"])}))


def test_attributes_left_over_from_dn_are_refused_on_floats():
    cube = random_cube(60, 60)
    reflectance = as_one_array(cube) * 1e-4 - 0.1
    reflectance.attrs = dict(
        cube["r10m"]["reflectance"].attrs
    )  # as arithmetic keeps them where xarray is told, or its default is, to
    with refused("data", naming=("_FillValue=0", "data.drop_attrs")):
        as_cube(reflectance)
    assert as_cube(reflectance.drop_attrs()).encoding.scale == 1


@pytest.mark.parametrize("kind", ["numpy", "dask"])
def test_without_60_m_bands_sizes_on_the_20_m_lattice_do(kind):
    r10m, r20m, _ = random_arrays(120, 132)
    arrays = [r10m[..., :110, :94], r20m[..., :55, :47]]
    if kind == "dask":
        arrays = [da.from_array(a, chunks=(1, -1, a.shape[2] * 6 // 11, a.shape[3])) for a in arrays]
    result = s2pipe.sharpen(s2pipe.from_arrays(*arrays), "glp").compute()
    assert result.shape == (1, 10, 110, 94) and (result > 0).all()
