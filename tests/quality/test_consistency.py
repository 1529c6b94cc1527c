"""Consistency: degraded again, sharpened bands are compared with what was observed, where both are valid and nowhere else."""

import dask
import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refused
from scenes import as_one_array, random_cube, with_chunks, with_numbers

import s2pipe
from s2pipe import Sensor
from s2pipe.core.bands import BANDS, BANDS_BY_GSD
from s2pipe.inputs.files import read_scene
from s2pipe.quality.consistency import measure_consistency
from s2pipe.simulation.landscape import simulate_scene

COARSE = [*BANDS_BY_GSD[20], *BANDS_BY_GSD[60]]
COLUMNS = ["gsd", "rmse", "bias", "pixels", "noise", "chi2"]
MARGIN = 2
"""Coarse pixels at each edge that the centre sensor reads beyond the scene for: 3 px of 10 m at 20 m, 9 at 60 m."""


@pytest.fixture(scope="module")
def truth():
    return np.stack([simulate_scene(120, seed=seed).truth for seed in range(2)])


def observe(truth, sensor):
    """The cube of reflectance that a sensor sees of `truth` (time, 12, y, x)."""
    arrays = []
    for gsd, bands in BANDS_BY_GSD.items():
        fine = truth[:, [list(BANDS).index(band) for band in bands]]
        arrays.append(sensor.degrade(torch.from_numpy(fine), bands, gsd // 10).numpy() if gsd > 10 else fine)
    return s2pipe.from_arrays(*arrays)


def as_sharp(truth, cube):
    fine = cube["r10m"]["reflectance"]
    return xr.DataArray(truth, dims=fine.dims, coords={"band": list(BANDS), "y": fine.y, "x": fine.x})


@pytest.mark.parametrize("protocol", ["centre", "corner", "box"])
def test_the_truth_is_consistent_under_its_own_sensor_only(protocol, truth):
    cube = observe(truth, Sensor.named(protocol))
    tables = {
        name: measure_consistency(as_sharp(truth, cube), cube, sensor=Sensor.named(name)) for name in ("centre", "corner", "box")
    }
    assert list(tables[protocol].index) == COARSE and list(tables[protocol]) == COLUMNS
    for name, table in tables.items():
        if name == protocol:
            assert (table["rmse"] < 1e-6).all()
        else:
            assert (table["rmse"] > 1e-4).all(), name


def test_the_sensor_that_a_result_states_is_the_default(truth):
    for sensor in (Sensor.named("corner"), Sensor(mtf=tuple((band, 0.2) for band in BANDS))):
        cube = observe(truth, sensor)
        sharp = s2pipe.sharpen(cube, "glp", sensor=sensor).compute()
        pd.testing.assert_frame_equal(measure_consistency(sharp, cube), measure_consistency(sharp, cube, sensor=sensor))
        assert not measure_consistency(sharp, cube).equals(measure_consistency(sharp, cube, sensor="center"))


def test_what_is_left_is_told_in_units_of_the_noise_that_a_result_states(truth):
    cube = observe(truth, Sensor.named("centre"))
    sharp = as_sharp(truth + 0.001, cube).assign_attrs(s2pipe_noise='{"B05": 0.002, "B06": 0.0}')
    table = measure_consistency(sharp, cube, sensor="centre")
    assert table["noise"].notna().sum() == table["chi2"].notna().sum() == 1
    assert table.loc["B05", "chi2"] == pytest.approx(0.25, rel=1e-3)


def test_every_pixel_whose_degradation_stays_inside_is_compared(truth):
    cube = observe(truth, Sensor())
    table = measure_consistency(as_sharp(truth, cube), cube)
    assert (table.loc[list(BANDS_BY_GSD[20]), "pixels"] == 2 * (60 - 2 * MARGIN) ** 2).all()
    assert (table.loc[list(BANDS_BY_GSD[60]), "pixels"] == 2 * (20 - 2 * MARGIN) ** 2).all()


@settings(max_examples=10)
@given(offsets=st.tuples(*[st.floats(-0.05, 0.05)] * 8))
def test_bias_is_degraded_minus_observed_in_reflectance(offsets, truth):
    cube = observe(truth, Sensor())
    sharp = as_sharp(truth, cube)
    sharp = sharp + xr.DataArray(np.float32(offsets), dims="band", coords={"band": COARSE}).reindex(
        band=list(BANDS), fill_value=0
    )
    table = measure_consistency(sharp, cube)
    np.testing.assert_allclose(table["bias"], offsets, atol=1e-6)
    np.testing.assert_allclose(table["rmse"], np.abs(offsets), atol=1e-6)


def test_dn_and_all_dates_give_the_figures_of_a_direct_computation():
    cube = random_cube(120, 96, dates=3)
    sharp = s2pipe.sharpen(cube, "glp")
    table = measure_consistency(sharp, cube)
    for gsd in (20, 60):
        bands = list(BANDS_BY_GSD[gsd])
        fine = torch.from_numpy(sharp.sel(band=bands).compute().values.astype(np.float64) * 1e-4)
        residual = Sensor().degrade(fine, bands, gsd // 10).numpy() - cube[f"r{gsd}m"]["reflectance"].values * 1e-4
        inside = residual[..., MARGIN:-MARGIN, MARGIN:-MARGIN]
        np.testing.assert_allclose(table.loc[bands, "rmse"], np.sqrt((inside**2).mean(axis=(0, 2, 3))), rtol=1e-3)
        np.testing.assert_allclose(table.loc[bands, "bias"], inside.mean(axis=(0, 2, 3)), atol=1e-6)


def test_chunks_and_a_10_m_dataarray_do_not_matter():
    cube = random_cube(120, 96)
    sharp = s2pipe.sharpen(cube, "bicubic")
    expected = measure_consistency(sharp, cube)
    for data in (with_chunks(cube, 60, 36), as_one_array(cube)):
        assert measure_consistency(sharp, data).equals(expected)
    assert measure_consistency(sharp.chunk(y=30, x=48), cube).equals(expected)


def test_bands_asked_for_are_the_ones_checked():
    cube = random_cube(120, 96)
    sharpener = s2pipe.fit(cube, "bicubic")
    part = measure_consistency(s2pipe.sharpen(cube, sharpener, bands=["B03", "B8A", "B01"]), cube)
    whole = measure_consistency(s2pipe.sharpen(cube, sharpener), cube)
    pd.testing.assert_frame_equal(part, whole.loc[["B8A", "B01"]])
    pd.testing.assert_frame_equal(measure_consistency(s2pipe.sharpen(cube, sharpener, bands=["B8A", "B01"]), cube), part)


def test_invalid_pixels_are_left_out(truth):
    cube = observe(truth, Sensor())
    whole = measure_consistency(as_sharp(truth, cube), cube)["pixels"]
    sharp = truth.copy()
    sharp[0, list(BANDS).index("B06"), 60, 61] = np.nan  # four coarse pixels along each axis read it
    sharp[0, list(BANDS).index("B09"), 60, 61] = np.nan
    coarse = cube["r20m"]["reflectance"].values.copy()
    coarse[1, 4, 20:22, 30] = np.nan
    coarse[:, 5] = np.nan
    holed = with_numbers(cube, r20m=coarse)
    table = measure_consistency(as_sharp(sharp, cube), holed)
    lost = (whole - table["pixels"]).to_dict()
    assert lost == dict.fromkeys(COARSE, 0) | {"B06": 16, "B09": 16, "B11": 2, "B12": whole["B12"]}
    assert table.loc["B12", ["rmse", "bias"]].isna().all() and (table["rmse"].drop("B12") < 1e-6).all()


def test_a_scene_smaller_than_its_margins_has_no_pixels():
    cube = random_cube(24, 24)
    table = measure_consistency(s2pipe.sharpen(cube, "bicubic"), cube)
    assert (table.loc[["B01", "B09"], "pixels"] == 0).all() and table.loc[["B01", "B09"], "rmse"].isna().all()
    assert (table.loc[list(BANDS_BY_GSD[20]), "pixels"] == 8 * 8).all()


def test_a_method_that_uses_the_sensor_is_more_consistent_on_a_real_scene(data_dir):
    cube = read_scene(data_dir / "papers" / "S2A_MSIL1C_20170527_T33UUB.mat").cube
    glp, bicubic = (measure_consistency(s2pipe.sharpen(cube, method), cube) for method in ("glp", "bicubic"))
    assert (glp["rmse"] < bicubic["rmse"]).all() and (glp["bias"].abs() < 1e-4).all()


@pytest.mark.parametrize(
    ("change", "arguments", "named"),
    [
        (lambda sharp, cube: (cube, cube), ("sharp",), "time"),
        (lambda sharp, cube: (sharp.drop_vars("band"), cube), ("sharp",), "named bands"),
        (lambda sharp, cube: (sharp.isel(y=slice(60)), cube), ("sharp", "data"), 60),
        (lambda sharp, cube: (sharp.astype("int32"), cube), ("sharp", "data"), "int32"),
        (lambda sharp, cube: (sharp.sel(band=["B02"]), cube), ("sharp", "data"), "B02"),
        (lambda sharp, cube: (sharp.sel(band=["B01"]), without_60_m(cube)), ("sharp", "data"), "B01"),
        (lambda sharp, cube: (sharp.assign_coords(band=[f"X{i}" for i in range(12)]), cube), ("sharp",), "X0"),
        (lambda sharp, cube: (sharp.assign_coords(band=[BANDS[b].keys[0] for b in BANDS]), cube), ("sharp",), "coastal"),
    ],
)
def test_bad_input_is_refused_before_anything_is_computed(change, arguments, named):
    cube, sharp = lazy()
    with dask.config.set(scheduler=explode), refused(*arguments, naming=(named,)):
        measure_consistency(*change(sharp, cube))


@pytest.mark.parametrize("options", [{"sensor": "middle"}, {"sensor": 3}, {"seed": -1}])
def test_bad_options_are_refused_before_anything_is_computed(options):
    cube, sharp = lazy()
    with dask.config.set(scheduler=explode), refused(*options, naming=tuple(options.values())):
        measure_consistency(sharp, cube, **options)


def explode(*_, **__):
    raise AssertionError("computed")


def lazy():
    cube = with_chunks(random_cube(120, 96), 60, 48)
    return cube, s2pipe.sharpen(cube, "bicubic")


def without_60_m(cube):
    return xr.DataTree.from_dict({name: cube[name].to_dataset() for name in ("r10m", "r20m")})
