import numpy as np
import pytest
import scipy.io
import torch
from quick import DISTINCT, quick_options, quick_training
from refusals import refused
from scenes import pixels_of, random_arrays, random_cube, with_numbers

import s2pipe
from s2pipe import Sensor
from s2pipe.core.bands import BANDS
from s2pipe.core.metrics import sre
from s2pipe.methods import METHODS, Sharpener, get_method
from s2pipe.methods.learned.lower_scale import SscCnn


def fit(cube, method, **options):
    return s2pipe.fit(cube, method, progress=lambda *_: None, **quick_options(method) | options)


@pytest.fixture(scope="module")
def cube():
    return random_cube(180, 168)


@pytest.fixture
def quick():
    with quick_training():
        yield


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_a_sharpener_that_keeps_the_protocol(method, cube):
    sharpener = fit(cube, method)
    assert isinstance(sharpener, Sharpener)
    assert sharpener.halo % 6 == 0
    assert set(sharpener.bands_out) <= set(sharpener.bands_in)
    arrays = [
        np.random.default_rng(0).random((n, 60 * 10 // gsd, 72 * 10 // gsd), np.float32) for n, gsd in ((4, 10), (6, 20), (2, 60))
    ]
    sharpened = sharpener(pixels_of(*arrays))
    assert (
        sharpened.shape == (len(sharpener.bands_out), 60, 72) and sharpened.dtype == np.float32 and np.isfinite(sharpened).all()
    )


@pytest.mark.parametrize("method", DISTINCT)
def test_the_halo_holds_all_that_a_pixel_depends_on(method, cube):
    sharpener = fit(cube, method)
    middle = sharpener.halo + 30
    rng = np.random.default_rng(0)
    arrays = [rng.random((n, *(2 * middle * 10 // gsd,) * 2), np.float32) for n, gsd in ((4, 10), (6, 20), (2, 60))]
    # a 60 m pixel at the middle must not see what lies farther than the halo from any of its pixels
    changed = [a.copy() for a in arrays]
    for array, ratio in zip(changed, (1, 2, 6), strict=True):
        reach = slice((middle - sharpener.halo) // ratio, (middle + 6 + sharpener.halo) // ratio)
        kept = array[:, reach, reach].copy()
        array += 1
        array[:, reach, reach] = kept
    before, after = (sharpener(pixels_of(*a))[(slice(None), *(slice(middle, middle + 6),) * 2)] for a in (arrays, changed))
    np.testing.assert_allclose(after, before, atol=1e-5)


@pytest.mark.parametrize("method", DISTINCT)
def test_equal_seeds_give_equal_weights(method, cube, quick):
    fitted = []
    for seed in (0, 0, 1):
        torch.rand(1)  # the caller's random numbers must not matter
        fitted.append(fit(cube, method, seed=seed))
    first, again, other = fitted
    assert first.weights_sha256 == again.weights_sha256
    assert (first.weights_sha256 != other.weights_sha256) == METHODS[method].trained
    assert first.provenance()["method"] == method and first.provenance()["weights_sha256"] == first.weights_sha256


def constant(cube, value):
    return with_numbers(cube, **{name: np.full_like(cube[name]["reflectance"].values, value) for name in cube.children})


@pytest.mark.parametrize("method", ["bicubic", "glp"])
def test_a_constant_scene_stays_constant(method, cube):
    scene = constant(cube, 3210)
    assert (s2pipe.sharpen(scene, method).compute() == 3210).all()


@pytest.mark.parametrize("method", DISTINCT)
def test_a_constant_scene_gives_finite_results(method, cube):
    scene = constant(cube, 3210)
    result = s2pipe.sharpen(scene, fit(scene, method)).compute()
    assert (result > 0).all()


def test_glp_finds_a_band_that_is_a_mixture_of_the_10_m_bands(cube):
    fine = cube["r10m"]["reflectance"].values[0] * 1e-4 - 0.1
    truth = 0.1 + np.einsum("bf,fyx->byx", np.random.default_rng(0).uniform(-0.2, 0.5, (6, 4)), fine)
    coarse = Sensor().degrade(torch.from_numpy(truth), ["B05", "B06", "B07", "B8A", "B11", "B12"], 2).numpy()
    scene = s2pipe.from_arrays(fine.astype(np.float32), coarse.astype(np.float32))
    result = s2pipe.sharpen(scene, "glp", bands=["B05", "B06", "B07", "B8A", "B11", "B12"]).compute().values[0]
    interpolated = s2pipe.sharpen(scene, "bicubic", bands=["B05", "B06", "B07", "B8A", "B11", "B12"]).compute().values[0]
    # the regression is exact only where every band has one MTF; theirs differ slightly
    assert np.abs(result - truth).mean() < 0.1 * np.abs(interpolated - truth).mean()


@pytest.mark.parametrize("method", [name for name, entry in METHODS.items() if entry.bfloat16])
def test_networks_compute_in_the_precision_that_is_named(method, cube, precision, quick):
    options = {"steps": 2} if method == "mtf-resnet" else {}
    own, named = fit(cube, method, **options), fit(cube, method, precision=precision, **options)
    assert own.precision == named.precision == precision
    assert own.weights_sha256 == named.weights_sha256
    in_float32 = fit(cube, method, precision="float32", **options)
    assert (in_float32.weights_sha256 == own.weights_sha256) == (precision == "float32")
    arrays = [array[0].astype(np.float32) * 1e-4 for array in random_arrays(60, 72)]
    np.testing.assert_allclose(own(pixels_of(*arrays)), in_float32(pixels_of(*arrays)), atol=0.2)


@pytest.mark.parametrize("method", [name for name in DISTINCT if not METHODS[name].bfloat16])
def test_methods_without_such_a_network_compute_in_float32(method, cube, precision):
    assert fit(cube, method, precision=precision).precision == "float32"


def mean_sre(truth, estimate):
    """Over the bands, two pixels of the edge left out."""
    return np.mean([sre(*pair) for pair in zip(truth[:, 2:-2, 2:-2], estimate[:, 2:-2, 2:-2], strict=True)])


def test_glp_meets_the_measured_figure_on_iceland(data_dir):
    # 30.85 dB +- 0.1: mean SRE one scale lower, repaired scene, centre
    mat = scipy.io.loadmat(data_dir / "papers" / "iceland.mat")
    fine, coarse = (torch.from_numpy(mat[key].astype(np.float32)).permute(2, 0, 1) for key in ("y10", "y20"))
    fine, coarse = fine[:, 1:409, 1:409], coarse[:, 1:205, 1:205]
    sensor = Sensor.named("centre")
    lower = [
        sensor.degrade(fine, ["B02", "B03", "B04", "B08"], 2),
        sensor.degrade(coarse, ["B05", "B06", "B07", "B8A", "B11", "B12"], 2),
    ]
    scene = s2pipe.from_arrays(*(array.numpy() for array in lower), scale=1e-4)
    result = s2pipe.sharpen(scene, "glp", bands=["B05", "B06", "B07", "B8A", "B11", "B12"], sensor=sensor).compute().values[0]
    assert mean_sre(coarse.numpy(), result) == pytest.approx(30.85, abs=0.1)


def test_ssc_cnn_learns_more_than_interpolation_knows(quick):
    from s2pipe.simulation.landscape import simulate_scene

    scene = simulate_scene(240, seed=1)
    cube = s2pipe.from_arrays(scene.r10m, scene.r20m, offset=-0.1)
    truth = scene.truth[[4, 5, 6, 8, 10, 11]]
    bands = ["B05", "B06", "B07", "B8A", "B11", "B12"]
    interpolated, sharpened = (
        s2pipe.sharpen(cube, fit(cube, method, **options)).sel(band=bands).compute().values[0] * 1e-4 - 0.1
        for method, options in (("bicubic", {}), ("ssc-cnn", {"steps": 90, "patches": 1024}))
    )
    assert mean_sre(truth, sharpened) > mean_sre(truth, interpolated) + 1


def test_ssc_cnn_interpolates_60_m_bands_where_the_scene_is_too_small_and_says_so(cube, caplog):
    sharpener = fit(cube, "ssc-cnn")
    assert sharpener.bicubic_bands == ("B01", "B09") and "B01, B09 are interpolated" in caplog.text
    result = s2pipe.sharpen(cube, sharpener)
    assert result.attrs["s2pipe_bicubic_bands"] == ["B01", "B09"]
    expected = s2pipe.sharpen(cube, "bicubic", bands=["B01", "B09"]).compute()
    np.testing.assert_allclose(result.sel(band=["B01", "B09"]).compute(), expected, atol=1)


def test_ssc_cnn_trains_a_60_m_network_where_there_is_a_batch_of_patches():
    edge = 36 * 14  # 84 pixels at 60 m: eight patches, eight pixels apart, within a margin of five
    assert SscCnn.batch == 8 * 8
    scene = random_cube(edge, edge)
    sharpener = fit(scene, "ssc-cnn", steps=1)
    assert sharpener.bicubic_bands == () and set(sharpener.networks) == {20, 60}
    result = s2pipe.sharpen(scene, sharpener, bands=["B01", "B02"]).compute()
    assert (result > 0).all()


def test_fewer_patches_than_a_batch_are_no_reason_to_interpolate():
    assert fit(random_cube(504, 504), "ssc-cnn", steps=1, patches=32).bicubic_bands == ()


def without_data(cube, **bands):
    numbers = {name: cube[name]["reflectance"].values.copy() for name in bands}
    for name, positions in bands.items():
        numbers[name][:, positions] = 0
    return with_numbers(cube, **numbers)


@pytest.mark.parametrize("method", ["glp", "ssc-cnn", "resnet", "s2sucnn"])
def test_a_band_without_data_harms_no_other(method, cube, quick):
    whole = fit(cube, method)
    holed = without_data(cube, r60m=[1], r20m=[3])
    sharpener = fit(holed, method)
    assert set(sharpener.bicubic_bands) >= {"B8A", "B09"} and not {"B05", "B12"} & set(sharpener.bicubic_bands)
    bands = ["B05", "B12"]
    interpolated, clean, result = (
        s2pipe.sharpen(c, s).compute().sel(band=bands).astype(int)
        for c, s in ((cube, fit(cube, "bicubic")), (cube, whole), (holed, sharpener))
    )
    assert np.abs(result - interpolated).max() > 5
    if method == "glp":
        assert np.abs(result - clean).max() <= 1
    assert (s2pipe.sharpen(holed, sharpener, bands=["B8A", "B09"]).compute() == 0).all()


def test_glp_of_like_or_constant_bands_stays_sane(cube):
    numbers = cube["r10m"]["reflectance"].values.copy()
    numbers[:, 1] = numbers[:, 2] + 500
    numbers[:, 3] = 4000
    result = s2pipe.sharpen(with_numbers(cube, r10m=numbers), "glp").compute()
    coarse = cube["r20m"]["reflectance"].values
    assert (result > 1).all() and result.sel(band="B05").max() < 2 * coarse.max()


def test_provenance_tells_an_mtf_of_ones_own(cube):
    mtf = tuple((band, 0.3) for band in BANDS)
    assert "mtf" not in fit(cube, "glp").provenance()
    assert s2pipe.fit(cube, "glp", sensor=Sensor(mtf=mtf)).provenance()["mtf"] == dict(mtf)


def test_a_scene_of_one_patch_is_enough():
    scene = random_cube(36, 36)
    assert set(fit(scene, "ssc-cnn").networks) == {20}
    holed = without_data(random_cube(96, 96), r20m=[2])
    numbers = holed["r20m"]["reflectance"].values.copy()
    numbers[:, 0, 30, 5] = 0
    assert set(fit(with_numbers(holed, r20m=numbers), "ssc-cnn").networks) == {20}


def test_ssc_cnn_needs_room_for_one_patch():
    with refused("data", naming=("16 x 16 px",)):
        fit(random_cube(24, 24), "ssc-cnn")


@pytest.mark.parametrize(
    ("name", "options", "named"),
    [
        ("ssc-cnn", {"epochs": 3, "size": 2}, ("'epochs', 'size'", "steps, patches, learning_rate")),
        ("bicubic", {"steps": 3}, ("bicubic", "steps")),
        ("ssc-cnn", {"steps": 0}, ("steps=0",)),
        ("ssc-cnn", {"steps": True}, ("steps=True",)),
        ("ssc-cnn", {"learning_rate": "5"}, ("learning_rate='5'",)),
        ("ssc-cnn", {"patches": 1.5}, ("patches=1.5",)),
        ("ssc-cnn", {"learning_rate": -1}, ("learning_rate=-1",)),
    ],
)
def test_bad_options_are_refused(name, options, named):
    with refused(*options, naming=named):
        get_method(name, **options)


def test_an_unknown_method_and_a_file_of_weights_are_refused():
    with refused("method", naming=("lanczos", *METHODS)):
        get_method("lanczos")
    with refused("method", naming=("my.safetensors",)):
        get_method("my.safetensors")


def test_every_method_is_listed():
    listed = s2pipe.list_methods()
    assert list(listed) == list(METHODS)
    about = listed["ssc-cnn"]
    assert about.fit == "training" and about.options["steps"] == 3200 and "Nguyen" in about.paper
    assert "steps" in repr(listed) and "object at" not in repr(listed)
