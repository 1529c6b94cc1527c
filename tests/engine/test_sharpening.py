from collections import Counter
from types import SimpleNamespace

import dask
import numpy as np
import pytest
import torch
import xarray as xr
from quick import DISTINCT, quick_options
from refusals import refused
from scenes import as_one_array, random_arrays, random_cube, with_chunks, with_numbers
from scipy import ndimage
from skimage.registration import phase_cross_correlation

import s2pipe
from s2pipe import InputError, Sensor
from s2pipe.core.bands import BANDS, BANDS_BY_GSD
from s2pipe.core.cube import Cube
from s2pipe.core.encoding import Encoding
from s2pipe.methods.classical.injection import Glp
from s2pipe.simulation.fakes import FakeSharpener
from s2pipe.simulation.landscape import simulate_scene

TWENTY, SIXTY = BANDS_BY_GSD[20], BANDS_BY_GSD[60]


@pytest.fixture(scope="module")
def cube():
    return random_cube(120, 132)


def test_the_result_is_labelled_and_says_how_it_was_made(cube):
    result = s2pipe.sharpen(cube, "glp")
    assert result.name == "reflectance" and result.dims == ("time", "band", "y", "x")
    assert list(result["band"].values) == list(BANDS)
    fine = cube["r10m"]["reflectance"]
    for name in ("time", "y", "x", "spatial_ref"):
        assert result.coords[name].variable.identical(fine.coords[name].variable)
    assert result.dtype == fine.dtype
    for key in ("scale_factor", "add_offset", "_FillValue"):
        assert result.attrs[key] == fine.attrs[key]
    assert result.attrs["s2pipe_method"] == "glp" and len(result.attrs["s2pipe_weights_sha256"]) == 64
    np.testing.assert_array_equal(result.sel(band=list(BANDS_BY_GSD[10])).compute(), fine)


def test_reflectance_and_dn_agree_in_every_dtype():
    arrays = random_arrays(120, 132, low=4000)  # so far from the ends of uint16 that nothing clips
    cube = s2pipe.from_arrays(*arrays, offset=-0.1)
    sharpener = s2pipe.fit(cube, "glp")
    expected = s2pipe.sharpen(cube, sharpener).compute().values * 1e-4 - 0.1
    for dtype in (np.float32, np.float64):
        scene = s2pipe.from_arrays(*((a * 1e-4 - 0.1).astype(dtype) for a in arrays))
        result = s2pipe.sharpen(scene, sharpener)
        assert result.dtype == dtype and np.isnan(result.attrs["_FillValue"])
        np.testing.assert_allclose(result.compute(), expected, atol=6e-5)
    scene = s2pipe.from_arrays(*(a.astype(np.int16) for a in arrays), offset=-0.1, nodata=-1)
    np.testing.assert_allclose(s2pipe.sharpen(scene, sharpener).compute() * 1e-4 - 0.1, expected, atol=1e-6)


def test_nodata_is_nan_in_float_reflectance(cube):
    numbers = {name: cube[name]["reflectance"].values * 1e-4 - 0.1 for name in cube.children}
    for name, part in (("r10m", 24), ("r20m", 12), ("r60m", 4)):
        numbers[name][..., :part, :part] = np.nan
    result = s2pipe.sharpen(s2pipe.from_arrays(*(numbers[n] for n in ("r10m", "r20m", "r60m"))), "glp").compute()
    expected = np.zeros((120, 132), bool)
    expected[:24, :24] = True
    np.testing.assert_array_equal(np.isnan(result.values[0]), np.broadcast_to(expected, (12, 120, 132)))


@pytest.mark.parametrize("method", DISTINCT)
def test_without_60_m_bands(method):
    r10m, r20m, _ = random_arrays(120, 132)
    result = s2pipe.sharpen(s2pipe.from_arrays(r10m, r20m), method, **quick_options(method))
    assert list(result["band"].values) == [band for band in BANDS if band not in SIXTY]
    assert (result.compute() > 0).all()


@pytest.mark.parametrize("method", [name for name in DISTINCT if name != "dsen2"])  # which refuses, see test_dsen2.py
def test_without_20_m_bands_and_with_one_10_m_band(method):
    cube = random_cube(252, 252)
    subset = xr.DataTree.from_dict({"r10m": cube["r10m"].to_dataset().isel(band=[3]), "r60m": cube["r60m"].to_dataset()})
    result = s2pipe.sharpen(subset, method, **quick_options(method))
    assert list(result["band"].values) == ["B01", "B08", "B09"]
    assert (result.compute() > 0).all()


def test_a_subset_of_bands_is_what_the_whole_gives(cube):
    sharpener = s2pipe.fit(cube, "glp")
    whole = s2pipe.sharpen(cube, sharpener).compute()
    part = s2pipe.sharpen(cube, sharpener, bands=["B11", "B09", "B03"])
    assert list(part["band"].values) == ["B03", "B09", "B11"]
    np.testing.assert_array_equal(part.compute(), whole.sel(band=["B03", "B09", "B11"]))
    refit = s2pipe.sharpen(cube, "glp", bands=["B11"]).compute()
    np.testing.assert_allclose(refit, whole.sel(band=["B11"]), atol=1)
    copied = s2pipe.sharpen(cube, "ssc-cnn", bands=["B02", "B08"])
    np.testing.assert_array_equal(copied.compute(), cube["r10m"]["reflectance"].sel(band=["B02", "B08"]))


def test_all_dates_are_sharpened_by_one_fit():
    cube = random_cube(120, 96, dates=3)
    sharpener = s2pipe.fit(cube, "glp")
    result = s2pipe.sharpen(cube, sharpener)
    assert result.chunks[0] == (1, 1, 1)
    one_by_one = [
        s2pipe.sharpen(
            xr.DataTree.from_dict({n: cube[n].to_dataset().isel(time=[i]) for n in cube.children}), sharpener
        ).compute()
        for i in range(3)
    ]
    xr.testing.assert_equal(result.compute(), xr.concat(one_by_one, "time"))


def test_a_10_m_dataarray_and_the_accessor_give_what_the_cube_gives(cube):
    expected = s2pipe.sharpen(cube, "glp").compute()
    xr.testing.assert_identical(as_one_array(cube).s2.sharpen("glp").compute(), expected)
    xr.testing.assert_identical(cube.s2.sharpen("glp").compute(), expected)


def test_a_method_given_as_a_recipe_and_a_foreign_sharpener(cube):
    class Doubled(FakeSharpener):
        def __call__(self, pixels):
            assert [array.shape[0] for array in pixels.reflectance.values()] == [1, 1]
            return 2 * super().__call__(pixels)

    xr.testing.assert_identical(s2pipe.sharpen(cube, Glp()).compute(), s2pipe.sharpen(cube, "glp").compute())
    result = s2pipe.sharpen(with_chunks(cube, 60, 60), Doubled(), bands=["B05"]).compute()
    coarse = cube["r20m"]["reflectance"].values[0, 0] * 1e-4 - 0.1
    np.testing.assert_allclose(result.values[0, 0] * 1e-4 - 0.1, (2 * coarse).repeat(2, axis=0).repeat(2, axis=1), atol=1e-4)


@pytest.fixture(scope="module")
def simulated():
    return simulate_scene(480, seed=3)


def shift(truth, estimate):
    """Distance along y and x in 10 m pixels, by phase correlation; the window keeps mean and edges from voting for none."""
    window = np.outer(np.hanning(408), np.hanning(408))
    a, b = (window * (image[36:-36, 36:-36] - image[36:-36, 36:-36].mean()) for image in (truth, estimate))
    return np.abs(phase_cross_correlation(a, b, upsample_factor=100, normalization=None)[0])


def degraded(truth, protocol):
    """A cube of `truth` (band, y, x) as a sensor sees it; "mean" is the plain block mean."""
    arrays = []
    for gsd in (10, 20, 60):
        fine = truth[[list(BANDS).index(band) for band in BANDS_BY_GSD[gsd]]]
        ratio = gsd // 10
        if protocol == "mean":
            arrays.append(fine.reshape(len(fine), 480 // ratio, ratio, 480 // ratio, ratio).mean(axis=(2, 4)))
        else:
            sensor = Sensor.named(protocol)
            arrays.append(sensor.degrade(torch.from_numpy(fine), BANDS_BY_GSD[gsd], ratio).numpy() if ratio > 1 else fine)
    return s2pipe.from_arrays(*arrays)


@pytest.mark.parametrize(
    ("method", "protocol", "options"),
    [("glp", "centre", {}), ("glp", "box", {}), ("glp", "mean", {}), ("ssc-cnn", "centre", {"steps": 20})],
)
def test_nothing_is_shifted(method, protocol, options, simulated):
    told = Sensor.named(protocol if protocol != "mean" else "centre")
    result = s2pipe.sharpen(degraded(simulated.truth, protocol), method, sensor=told, **options).compute().values[0]
    for i, band in enumerate(BANDS):
        assert shift(simulated.truth[i], result[i]).max() <= 0.05, band


def test_at_full_scale_guides_are_degraded_by_the_band_that_is_wanted_unless_told_otherwise(cube, caplog):
    assert s2pipe.sharpen(cube, "glp").attrs["s2pipe_sensor"] == "matched" and "centre" not in caplog.text
    assert s2pipe.sharpen(cube, "glp", sensor="centre").attrs["s2pipe_sensor"] == "centre"
    assert "'centre'" in caplog.text


@pytest.mark.parametrize("protocol", ["centre", "box", "mean"])
def test_interpolation_is_not_shifted(protocol, simulated):
    # without detail finer than two 60 m pixels: aliasing, which interpolation keeps, is noise to a correlation
    smooth = ndimage.gaussian_filter(simulated.truth, (0, 6, 6))
    told = Sensor.named(protocol if protocol != "mean" else "centre")
    result = s2pipe.sharpen(degraded(smooth, protocol), "bicubic", sensor=told).compute().values[0]
    for i, band in enumerate(BANDS):
        assert shift(smooth[i], result[i]).max() <= 0.02, band


def test_the_corner_phase_shows_the_published_shift(simulated):
    # real (block-centred) pixels taken for corner ones: (ratio - 1) / 2 px, 5 m at 20 m and 25 m at 60 m
    cube = s2pipe.from_arrays(simulated.r10m, simulated.r20m, simulated.r60m, offset=-0.1)
    centre, corner = (
        s2pipe.sharpen(cube, "bicubic", sensor=Sensor.named(name)).compute().values[0] for name in ("centre", "corner")
    )
    for i, (band, entry) in enumerate(BANDS.items()):
        expected = {10: 0, 20: 0.5, 60: 2.5}[entry.gsd]
        np.testing.assert_allclose(shift(centre[i], corner[i]), expected, atol=0.05, err_msg=band)
        # against the sharp truth, correlation pulls the 60 m shift towards 2.1, as published for B09
        assert shift(simulated.truth[i], corner[i]).min() >= {10: 0, 20: 0.45, 60: 2.0}[entry.gsd], band


@pytest.mark.parametrize(
    ("call", "arguments", "facts"),
    [
        (lambda c, *_: s2pipe.sharpen(c, "lanczos"), "method", ("lanczos", "bicubic")),
        (lambda c, *_: s2pipe.sharpen(c, "lanczos", bands=["B02"]), "method", ("lanczos",)),
        (lambda c, *_: s2pipe.sharpen(c, "glp", bands=["B05", "B10"]), "bands", ("B10", "B01", "coastal")),
        (lambda c, *_: s2pipe.sharpen(c, "glp", device="gpu"), "device", ("gpu", "cuda")),
        (lambda c, *_: s2pipe.fit(c, "glp", device="cuda:7"), "device", ("cuda:7",)),
        (lambda c, *_: s2pipe.sharpen(c, "glp", steps=3), "steps", ("glp",)),
        (lambda c, *_: s2pipe.fit(c, "ssc-cnn", epochs=3), "epochs", ("ssc-cnn", "steps")),
        (lambda c, *_: s2pipe.sharpen(c, Glp(), steps=3), "steps", ("Glp",)),
        (lambda c, *_: s2pipe.sharpen(c, 7), "method", ("7",)),
        (lambda c, glp, _: s2pipe.sharpen(c, glp, steps=3), "steps", ("s2pipe.fit",)),
        (lambda c, glp, _: s2pipe.sharpen(c, glp, checkpoint="here"), "checkpoint", ("s2pipe.fit",)),
        (lambda c, glp, _: s2pipe.sharpen(c, glp, seed=0), "seed", ("s2pipe.fit",)),
        (lambda c, glp, _: s2pipe.sharpen(c, glp, sensor="box"), "sensor", ("'matched'", "'box'")),
        (lambda c, glp, _: s2pipe.sharpen(without(c, "r60m"), glp), "data", ("B01, B09",)),
        (lambda c, _, glp: s2pipe.sharpen(c, glp), "bands", ("B01, B09",)),
        (lambda c, *_: s2pipe.fit(without(c, "r60m", "r20m"), "glp"), "data", ("20 m or 60 m",)),
        (lambda c, *_: s2pipe.sharpen(None), "data", ("NoneType",)),
        (lambda c, *_: s2pipe.sharpen(with_chunks(c, 100, 132), "ssc-cnn"), "data chunks", ("[96, 102]",)),
        (lambda c, *_: s2pipe.fit(with_chunks(c, 120, 100), "glp"), "data chunks", ("[96, 102]",)),
        (lambda c, *_: s2pipe.sharpen(with_chunks(c, 12, 12), "ssc-cnn"), "data chunks", ("24 px",)),
        (lambda c, *_: s2pipe.sharpen(c, "glp", sensor="middle"), "sensor", ("middle", "centre")),
        (lambda c, *_: s2pipe.sharpen(c, "glp", seed=-1), "seed", ("-1",)),
        (lambda c, *_: s2pipe.sharpen(c, Glp), "method", ("Glp",)),
        (lambda c, *_: s2pipe.sharpen(c, SimpleNamespace(fit=print)), "method", ("s2pipe.methods.base",)),
    ],
)
def test_bad_input_is_refused_before_any_work(call, arguments, facts, cube):
    def explode(*_, **__):
        raise AssertionError("computed")

    glp = s2pipe.fit(cube, "glp"), s2pipe.fit(without(cube, "r60m"), "glp")
    with dask.config.set(scheduler=explode), refused(*arguments.split(), naming=facts):
        call(with_chunks(cube, 60, 60), *glp)


def test_a_sharpener_for_another_sensor_than_the_satellites_is_warned_of_unless_meant(cube, caplog):
    sharpener = s2pipe.fit(cube, "glp", sensor=Sensor.named("corner"))
    for meant in (Sensor.named("corner"), "corner"):
        s2pipe.sharpen(cube, sharpener, sensor=meant)
    assert not caplog.text
    s2pipe.sharpen(cube, sharpener)
    assert "fitted for the sensor 'corner'" in caplog.text


def test_shifted_bands_are_warned_of_when_a_method_is_fitted(caplog):
    scene = simulate_scene(240, seed=3)
    cube = s2pipe.from_arrays(scene.r10m[:, 6:, 6:], scene.r20m[:, :-3, :-3], scene.r60m[:, 1:, 1:], offset=-0.1)
    s2pipe.sharpen(cube, "glp")
    assert "those of 20 m by (-6.0, -6.0)" in caplog.text and "s2pipe.repair_registration(data)" in caplog.text
    caplog.clear()
    s2pipe.sharpen(s2pipe.from_arrays(scene.r10m, scene.r20m, scene.r60m, offset=-0.1), "glp")
    assert not caplog.text


def test_nodata_only_is_refused_at_the_fit(cube):
    numbers = {name: np.zeros_like(cube[name]["reflectance"].values) for name in cube.children}
    with pytest.raises(InputError, match="nodata only"):
        s2pipe.sharpen(with_numbers(cube, **numbers), "glp")


def without(cube, *names):
    return xr.DataTree.from_dict({name: cube[name].to_dataset() for name in cube.children if name not in names})


@pytest.mark.parametrize("given", ["a cube", "a DataArray"])
def test_one_call_checks_its_cube_once_and_decodes_its_encoding_once(cube, monkeypatch, given):
    data = cube if given == "a cube" else as_one_array(cube)
    calls = Counter()

    def counted(owner, name):
        real = getattr(owner, name)

        def call(_, *args, **options):
            calls[name] += 1
            return real(*args, **options)

        monkeypatch.setattr(owner, name, classmethod(call))

    counted(Cube, "checked")
    counted(Encoding, "from_attrs")
    s2pipe.sharpen(data, "glp").compute()
    assert calls == {"checked": 1, "from_attrs": 1}
