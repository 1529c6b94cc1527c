from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
import xarray as xr
from pandas.testing import assert_frame_equal
from PIL import Image
from quick import DISTINCT, QUICK, quick_options
from refusals import refused
from scenes import as_one_array, random_arrays, random_cube, with_chunks, with_numbers

import s2pipe
from s2pipe import InputError, Sensor
from s2pipe.core import metrics
from s2pipe.core.bands import BANDS, BANDS_BY_GSD, bands_at, node_name
from s2pipe.inputs.dataarray import as_cube
from s2pipe.inputs.files import read_scene
from s2pipe.methods import METHODS, get_method
from s2pipe.methods.classical.injection import Glp, InjectionSharpener
from s2pipe.methods.learned.lower_scale import LowerScaleCnn, SscCnn
from s2pipe.quality import evaluation
from s2pipe.quality.evaluation import score
from s2pipe.quality.reduced import Noise, reduce_scene, reductions
from s2pipe.simulation.fakes import FakeSharpener
from s2pipe.simulation.landscape import simulate_scene

COLUMNS = [
    *("method", "sensor", "gsd", "band", "sre_db", "rmse", "ssim", "uiqi", "sam_deg", "ergas", "seconds"),
    *("in_sample", "interpolated"),
]


def quiet(*_):
    """No progress bar."""


def evaluate(data, methods, **options):
    return s2pipe.evaluate(data, methods, progress=quiet, **options)


def fit(cube, method, **options):
    return s2pipe.fit(cube, method, progress=quiet, **quick_options(method) | options)


def overall(table):
    return table[table["band"] == "all"].set_index("method")


def without_seconds(table):
    return table.drop(columns="seconds")


@pytest.fixture(scope="module")
def cube():
    return random_cube(120, 96)


@pytest.fixture(scope="module")
def simulated():
    """A scene whose coarse bands have to do with the 10 m bands."""
    scene = simulate_scene(240, seed=1)
    return s2pipe.from_arrays(scene.r10m, scene.r20m, scene.r60m, offset=-0.1)


# Figures measured by others


PAPERS = {"iceland": "iceland.mat", "usa": "usa.mat", "T33UUB": "S2A_MSIL1C_20170527_T33UUB.mat"}


def paper_scene(data_dir, name):
    """Raw; those of the S2SUCNN paper are misregistered."""
    return read_scene(data_dir / "papers" / PAPERS[name]).cube


@pytest.fixture(scope="module")
def repaired(data_dir):
    return {name: s2pipe.repair_registration(paper_scene(data_dir, name)) for name in PAPERS}


@pytest.mark.parametrize(
    ("name", "protocol", "expected"),
    [  # SRE, SAM, ERGAS of bicubic and of GLP with a synthesised band, both told centre, measured by an independent code
        ("iceland", "centre", {"bicubic": (22.99, 1.767, 4.13), "glp": (30.85, 1.277, 1.66)}),
        ("usa", "centre", {"bicubic": (25.77, 1.228, 3.07), "glp": (33.97, 0.613, 1.30)}),
        ("T33UUB", "centre", {"bicubic": (22.90, 1.752, 4.12), "glp": (30.26, 0.946, 2.38)}),
        ("iceland", "box", {"bicubic": (24.48, 1.562, 3.55), "glp": (28.96, 1.396, 2.05)}),
        ("usa", "box", {"bicubic": (27.20, 1.030, 2.55), "glp": (31.31, 0.937, 2.22)}),
        ("T33UUB", "box", {"bicubic": (24.55, 1.448, 3.32), "glp": (27.72, 1.381, 3.59)}),
    ],
)
def test_figures_are_those_measured_elsewhere(repaired, name, protocol, expected):
    table = overall(evaluate(repaired[name], list(expected), sensor=protocol, told="centre"))
    for method, (sre, sam, ergas) in expected.items():
        assert table.loc[method, "sre_db"] == pytest.approx(sre, abs=0.02)
        assert table.loc[method, "sam_deg"] == pytest.approx(sam, abs=0.002)
        assert table.loc[method, "ergas"] == pytest.approx(ergas, abs=0.02)


def test_the_raw_scene_under_corner_gives_the_known_figures_and_a_warning(data_dir, caplog):
    raw = paper_scene(data_dir, "iceland")
    table = overall(evaluate(raw, ["bicubic", "glp"], sensor="corner", told="centre"))
    assert table["sre_db"].to_dict() == pytest.approx({"bicubic": 21.49, "glp": 25.97}, abs=0.02)
    assert "s2pipe.repair_registration(data) repairs" in caplog.text


def test_told_the_truth_glp_loses_nothing_under_box(repaired):
    table = overall(evaluate(repaired["iceland"], ["glp"], sensor="box"))
    assert table.loc["glp", "sre_db"] == pytest.approx(31.07, abs=0.02)


def test_a_repaired_scene_is_not_warned_of(repaired, caplog):
    evaluate(repaired["iceland"], ["bicubic"])
    assert "shifted" not in caplog.text


# The table


def test_the_table_has_a_row_for_each_method_and_band_and_one_for_all(cube):
    table = evaluate(cube, ["bicubic", "glp"], sensor="box")
    assert list(table.columns) == COLUMNS
    bands = [*BANDS_BY_GSD[20], "all"]
    assert list(zip(table["method"], table["band"], strict=True)) == [(m, b) for m in ("bicubic", "glp") for b in bands]
    assert set(table["sensor"]) == {"box"} and set(table["gsd"]) == {20}
    assert table["in_sample"].dtype == bool and (table["seconds"] > 0).all()
    assert np.isfinite(table[["sre_db", "rmse", "ssim", "uiqi"]]).all(axis=None)
    spectral = table.set_index("band")[["sam_deg", "ergas"]]
    assert (spectral.loc["all"] > 0).all(axis=None) and spectral.drop(index="all").isna().all(axis=None)


def test_the_row_of_all_bands_holds_means_and_the_rmse_of_all(cube):
    table = evaluate(cube, "bicubic").set_index("band")
    single, together = table.drop(index="all"), table.loc["all"]
    for name in ("sre_db", "ssim", "uiqi"):
        assert together[name] == pytest.approx(single[name].mean())
    assert together["rmse"] == pytest.approx(np.sqrt((single["rmse"] ** 2).mean()))


@pytest.mark.parametrize("gsd", [20, 60])
@pytest.mark.parametrize("protocol", ["centre", "corner", "box"])
def test_bicubic_is_scored_as_by_hand(protocol, gsd):
    scene, sensor, ratio = random_cube(216, 216), Sensor.named(protocol), gsd // 10
    observed = (scene[f"r{gsd}m"]["reflectance"].values[0] * 1e-4 - 0.1).astype(np.float32)
    lower = sensor.degrade(torch.from_numpy(observed), BANDS_BY_GSD[gsd], ratio)
    x, xh = (array[:, 3:-3, 3:-3] for array in (observed, sensor.upsample(lower, ratio).numpy()))
    table = evaluate(scene, "bicubic", sensor=protocol, gsd=gsd, crop=3).set_index("band")
    for band, *pair in zip(BANDS_BY_GSD[gsd], x, xh, strict=True):
        expected = [metric(*pair) for metric in (metrics.sre, metrics.rmse, metrics.ssim, metrics.uiqi)]
        assert table.loc[band, ["sre_db", "rmse", "ssim", "uiqi"]].tolist() == pytest.approx(expected, rel=1e-4)
    together = table.loc["all", ["rmse", "sam_deg", "ergas"]].tolist()
    assert together == pytest.approx([metrics.rmse(x, xh), metrics.sam(x, xh), metrics.ergas(x, xh, ratio)], rel=1e-4)


def test_methods_alike_are_numbered(cube):
    table = evaluate(cube, [Glp(), "bicubic", fit(cube, "glp")])
    assert list(overall(table).index) == ["glp #1", "bicubic", "glp #2"]


def test_a_name_is_the_label_whatever_other_name_has_the_same_recipe(cube, monkeypatch):
    monkeypatch.setitem(METHODS, "glp-again", METHODS["glp"])
    assert list(overall(evaluate(cube, ["glp-again", "glp", "bicubic"])).index) == ["glp-again", "glp", "bicubic"]


@pytest.mark.parametrize("method", ["glp", Glp()])
def test_one_method_needs_no_list(cube, method):
    assert_frame_equal(without_seconds(evaluate(cube, method)), without_seconds(evaluate(cube, ("glp",))))


# Every method


QUICK_ALL = {option: value for options in QUICK.values() for option, value in options.items()}
"""Options that make every method quick that can be fitted without others."""


def test_all_is_every_method_of_the_table_and_what_cannot_run_is_named(cube, caplog):
    table = evaluate(cube, "all", sensor="centre", **QUICK_ALL)
    assert set(METHODS) - set(table["method"]) == {"dsen2"}
    assert list(table["method"].unique()) == [name for name in METHODS if name != "dsen2"]
    assert table.attrs["left_out"]["dsen2"].startswith("dsen2 has no weights; give weights_20m=")
    assert "dsen2 is left out: dsen2 has no weights" in caplog.text


def test_all_has_the_rows_that_its_methods_have_when_they_are_named(cube, monkeypatch):
    monkeypatch.setattr(evaluation, "METHODS", {name: METHODS[name] for name in ("bicubic", "glp", "ssc-cnn")})
    options = {name: QUICK_ALL[name] for name in ("steps", "patches")}
    every = without_seconds(evaluate(cube, ("all",), **options)).set_index("method")
    named = without_seconds(evaluate(cube, ["ssc-cnn", "glp"], **options)).set_index("method")
    assert_frame_equal(every.loc[["ssc-cnn", "glp"]], named)


def test_a_method_that_has_what_it_lacked_is_no_longer_left_out(cube):
    table = evaluate(cube, "all", sensor="centre", **QUICK_ALL, **quick_options("dsen2"))
    assert table.attrs["left_out"] == {} and set(table["method"]) == set(METHODS)


@pytest.fixture
def few_methods(monkeypatch):
    """A table of three methods, of which one lacks its weights."""
    monkeypatch.setattr(evaluation, "METHODS", {name: METHODS[name] for name in ("bicubic", "glp", "dsen2")})


@pytest.mark.usefixtures("few_methods")
def test_sharpeners_stand_beside_all(cube):
    table = overall(evaluate(cube, ["all", fit(cube, "glp")]))
    assert table["in_sample"].to_dict() == {"bicubic": False, "glp #1": False, "glp #2": True}


@pytest.mark.usefixtures("few_methods")
def test_a_method_named_beside_all_stands_once_and_must_run(cube):
    assert list(overall(evaluate(cube, ["bicubic", "all"])).index) == ["bicubic", "glp"]
    with refused("weights_20m", "weights_60m"):
        evaluate(cube, ["all", "dsen2"])


def test_what_the_scene_is_too_small_for_is_left_out_with_its_reason(caplog):
    table = evaluate(random_cube(48, 48), "all", sensor="centre", steps=2)
    left_out = table.attrs["left_out"]
    assert {"bicubic", "glp"} <= set(table["method"]) and not set(left_out) & set(table["method"])
    assert {*left_out, *table["method"]} == set(METHODS)
    assert "no 16 x 16 px patch" in left_out["ssc-cnn"] and "needs at least 30 px" in left_out["s2sucnn"]
    assert all(f"{method} is left out: {reason}" in caplog.text for method, reason in left_out.items())


@pytest.mark.usefixtures("few_methods")
def test_a_method_that_gives_no_numbers_is_left_out(cube, monkeypatch):
    def not_finite(self, pixels):
        return torch.full((len(self.bands_out), *pixels.reflectance[10].shape[1:]), torch.nan)

    monkeypatch.setattr(InjectionSharpener, "forward", not_finite)
    table = evaluate(cube, "all")
    assert set(table["method"]) == {"bicubic"} and "not finite" in table.attrs["left_out"]["glp"]


@pytest.mark.usefixtures("few_methods")
def test_weights_that_cannot_be_read_are_no_reason_to_stop(cube, tmp_path):
    table = evaluate(cube, "all", weights_20m=str(tmp_path / "gone.h5"))
    assert "gone.h5" in table.attrs["left_out"]["dsen2"]


def test_methods_that_are_named_leave_out_nothing(cube):
    assert evaluate(cube, ["bicubic", "glp"]).attrs["left_out"] == {}


def test_the_progress_tells_which_method_of_how_many(cube):
    told = []
    given = ["bicubic", "ssc-cnn", fit(cube, "glp")]
    s2pipe.evaluate(cube, given, steps=2, patches=64, progress=lambda *what: told.append(what[:3]))
    assert told == [
        *[("1 of 3: bicubic", done, 1) for done in (0, 1)],
        ("2 of 3: ssc-cnn", 0, 1),
        *[("ssc-cnn 20 m", step, 2) for _ in ("VNIR", "SWIR") for step in (1, 2)],
        ("2 of 3: ssc-cnn", 1, 1),
        *[("3 of 3: glp", done, 1) for done in (0, 1)],
    ]


@pytest.mark.usefixtures("few_methods")
def test_what_is_left_out_beforehand_is_not_counted(cube):
    told = []
    s2pipe.evaluate(cube, "all", progress=lambda label, *_: told.append(label))
    assert list(dict.fromkeys(told)) == ["1 of 2: bicubic", "2 of 2: glp"]


# The picture


@pytest.mark.parametrize(("gsd", "shown"), [(20, ["B12", "B8A", "B05"]), (60, ["B09"])])
def test_the_picture_shows_what_was_compared(gsd, shown, cube, estimates, monkeypatch, tmp_path):
    drawn, real = [], evaluation.save_evaluation

    def save_evaluation(*what):
        drawn.append(what)
        real(*what)

    monkeypatch.setattr(evaluation, "save_evaluation", save_evaluation)
    path = tmp_path / "out.png"
    table = evaluate(cube, ["bicubic", "glp"], gsd=gsd, crop=0, plot=path)
    with Image.open(path) as picture:
        assert picture.format == "PNG"
    ((where, scores, truth, parts),) = drawn
    assert where == path and scores is table and list(parts) == ["bicubic", "glp"]
    assert list(truth["band"].values) == shown
    place = [BANDS_BY_GSD[gsd].index(band) for band in shown], slice(*truth["y"].values[[0, -1]] + [0, 1])
    reference = reduce_scene(as_cube(cube), Sensor(), gsd).reference
    for part, whole in zip((truth, *parts.values()), (reference, *estimates), strict=True):
        assert part.dtype == np.float32
        np.testing.assert_array_equal(part.values, whole[place][..., truth["x"].values])


def test_the_picture_changes_nothing_of_the_table(cube, tmp_path):
    with_picture, without = (evaluate(cube, ["bicubic", "glp"], plot=plot) for plot in (tmp_path / "out.png", None))
    assert_frame_equal(without_seconds(with_picture), without_seconds(without))


def test_a_picture_of_a_scene_with_holes(simulated, tmp_path):
    evaluate(holed(simulated), ["bicubic", "glp"], plot=tmp_path / "out.png")
    assert (tmp_path / "out.png").exists()


@pytest.mark.parametrize("name", ["out.docx", "missing/out.png"])
def test_a_picture_that_cannot_be_written_is_refused_before_anything_is_fitted(name, cube, tmp_path):
    def fail(*_):
        raise AssertionError("fitted before the path was looked at")

    with refused("plot", naming=(name,)):
        s2pipe.evaluate(cube, "ssc-cnn", steps=1, plot=tmp_path / name, progress=fail)


# What a method is handed


def arrays_in(thing):
    """Every array within, however deep it lies."""
    if isinstance(thing, xr.DataArray):
        yield thing.values
    elif isinstance(thing, (np.ndarray, torch.Tensor)):
        yield np.array(thing)
    elif isinstance(thing, Mapping):
        yield from arrays_in(list(thing.values()))
    elif isinstance(thing, (list, tuple)):
        for part in thing:
            yield from arrays_in(part)
    elif hasattr(thing, "__dict__"):
        yield from arrays_in(vars(thing))


@dataclass(kw_only=True)
class RecordingSharpener(FakeSharpener):
    """Interpolates, and keeps all that it is called with."""

    handed: list
    halo: int = 12

    def __dask_tokenize__(self):
        return id(self)  # a worker takes what is alike for one, and would call the first

    def __call__(self, pixels):
        self.handed.extend(arrays_in(pixels))
        coarse = [(gsd, array) for gsd, array in pixels.reflectance.items() if gsd > 10 and bands_at(self.bands_out, gsd)]
        parts = [self.sensor.upsample(torch.from_numpy(array.copy()), gsd // 10).numpy() for gsd, array in coarse]
        return np.concatenate(parts) + pixels.reflectance[10].mean(axis=0)


@dataclass(frozen=True, kw_only=True)
class RecordingMethod:
    """Keeps all that it is handed, and makes a Sharpener that does."""

    handed: list = field(default_factory=list)
    name: str = "recording"

    def halo(self, *told):
        self.handed.extend(arrays_in(told))
        return 12

    def fit(self, sample, context):
        self.handed.extend(arrays_in([sample, context]))
        bands = tuple(band for names in sample.bands.values() for band in names)
        return RecordingSharpener(sensor=context.sensor, bands_in=bands, bands_out=sample.targets, handed=self.handed)


@pytest.fixture
def estimates(monkeypatch):
    """Every estimate that is compared with a reference."""
    compared, real = [], evaluation.compare

    def compare(reduced, estimate, **options):
        compared.append(estimate.copy())
        return real(reduced, estimate, **options)

    monkeypatch.setattr(evaluation, "compare", compare)
    return compared


def holed(cube):
    """The cube with a few invalid pixels at every resolution."""
    numbers = {name: cube[name]["reflectance"].values.copy() for name in cube.children}
    numbers["r10m"][:, :, 30:33, 40] = numbers["r20m"][:, 1, 40, 8:12] = numbers["r60m"][:, :, 3, 3] = 0
    return with_numbers(cube, **numbers)


def with_noise(reduced):
    """The same to sharpen, but another reference."""
    return replace(reduced, reference=np.random.default_rng(9).random(reduced.reference.shape, np.float32))


def assert_identical(one, other):
    assert len(one) == len(other) > 0
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b, strict=True)


@pytest.mark.parametrize("gsd", [20, 60])
def test_no_method_is_handed_anything_that_follows_the_reference(cube, gsd, estimates):
    reduced = reduce_scene(as_cube(holed(cube)), Sensor(), gsd)
    handed = []
    for scene in (reduced, with_noise(reduced)):
        recorder = RecordingMethod()
        fitted = RecordingSharpener(sensor=Sensor(), bands_in=tuple(BANDS), bands_out=BANDS_BY_GSD[gsd], handed=recorder.handed)
        score(scene, [recorder, fitted], told=Sensor(), progress=quiet)
        handed.append(recorder.handed)
    assert_identical(*handed)
    assert_identical(estimates[:2], estimates[2:])


def test_nor_when_the_scene_comes_with_its_reference(cube):
    observed = np.random.default_rng(0).integers(1000, 9000, (2, 6, 120, 96), np.uint16)
    recorders = RecordingMethod(), RecordingMethod()
    first, second = (
        overall(evaluate(cube, [recorder], reference=reference)) for recorder, reference in zip(recorders, observed, strict=True)
    )
    assert_identical(recorders[0].handed, recorders[1].handed)
    assert first["sre_db"].item() != second["sre_db"].item()


@pytest.mark.parametrize("method", DISTINCT)
def test_no_estimate_follows_the_reference(cube, method, estimates):
    reduced = reduce_scene(as_cube(cube), Sensor(), 20)
    for scene in (reduced, with_noise(reduced)):
        score(scene, [get_method(method, **quick_options(method))], told=Sensor(), progress=quiet)
    assert_identical(*estimates)


def neighbours(array):
    """The pairs of neighbours along x, as one number each: two images of noise share none by chance."""
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32).astype(np.uint64)
    return np.unique(bits[..., :-1] << np.uint64(32) | bits[..., 1:])


@pytest.mark.parametrize("gsd", [20, 60])
def test_no_observed_pixel_is_handed_to_a_method(cube, gsd):
    recorder = RecordingMethod()
    evaluate(cube, [recorder], gsd=gsd)
    handed = np.unique(np.concatenate([neighbours(array) for array in recorder.handed]))
    assert len(handed) > 500
    for name in cube.children:
        numbers = cube[name]["reflectance"].values
        for observed in (numbers, as_cube(cube).encoding.decode(numbers)):
            assert not np.isin(neighbours(observed), handed).any()


# What was fitted on before


def cut(cube, y, x):
    """The cube from these 10 m pixels on, multiples of 6."""
    return xr.DataTree.from_dict(
        {
            node_name(gsd): array.isel(y=slice(y * 10 // gsd, None), x=slice(x * 10 // gsd, None)).to_dataset()
            for gsd, array in as_cube(cube).arrays.items()
        }
    )


def shifted_by_a_pixel(cube):
    """The cube without the first pixel of each resolution, as a repair of the papers' scenes leaves it."""
    arrays = {gsd: array.values[0] for gsd, array in as_cube(cube).arrays.items()}
    coarse = min(arrays[60].shape[1:]) - 1
    kept = {gsd: array[:, 1 : 1 + coarse * 60 // gsd, 1 : 1 + coarse * 60 // gsd] for gsd, array in arrays.items()}
    return s2pipe.from_arrays(*kept.values(), offset=-0.1)


@pytest.mark.parametrize("part", [lambda c: c, lambda c: cut(c, 24, 30), shifted_by_a_pixel, holed])
def test_a_sharpener_that_has_seen_the_reference_is_marked_and_no_other(cube, part):
    seen, other = fit(cube, "glp"), fit(random_cube(seed=1), "glp")
    table = evaluate(part(cube), [seen, other, "glp", Glp(), fit(cube, "bicubic")])
    assert overall(table)["in_sample"].tolist() == [True, False, False, False, False]
    assert table.groupby("method")["in_sample"].nunique().eq(1).all()


@pytest.mark.parametrize("method", ["ssc-cnn", "resnet", "s2sucnn"])
def test_a_network_trained_on_the_reference_is_marked_but_not_one_trained_one_scale_lower(cube, method):
    recipe = get_method(method, **quick_options(method))
    table = evaluate(shifted_by_a_pixel(cube), [fit(cube, method), recipe])
    assert overall(table)["in_sample"].tolist() == [True, False]


def test_that_holds_for_the_60_m_bands(simulated):
    seen, other = fit(simulated, "glp"), fit(random_cube(), "glp")
    assert overall(evaluate(simulated, [seen, other], gsd=60))["in_sample"].tolist() == [True, False]


def test_a_sharpener_of_the_degraded_scene_has_not_seen_the_reference_either(cube):
    fitted = fit(reduce_scene(as_cube(cube), Sensor.named("centre"), 20).cube, "glp", sensor="centre")
    table = overall(evaluate(cube, [fitted, "glp"], sensor="centre")).drop(columns="seconds")
    assert not table["in_sample"].any()
    assert table.loc["glp #1"].equals(table.loc["glp #2"])


# The sensor


def test_a_sharpener_for_another_sensor_is_refused_unless_that_is_stated(simulated):
    corner = fit(simulated, "glp", sensor=Sensor.named("corner"))
    with refused("sensor", "told", naming=("glp", "corner", "matched")):
        evaluate(simulated, [corner])
    for sensor, told in (("corner", None), ("centre", "corner")):
        table = evaluate(simulated, [corner], sensor=sensor, told=told)
        assert set(table["sensor"]) == {sensor}


def test_a_sharpener_for_another_mtf_is_refused(cube):
    own = fit(cube, "glp", sensor=Sensor(mtf=tuple((band, 0.3) for band in BANDS)))
    with refused("sensor", "told", naming=("glp", "mtf")):
        evaluate(cube, [own])


def test_a_wrong_statement_of_the_sensor_costs_what_the_truth_does_not(simulated):
    matched, corner, default = (
        overall(evaluate(simulated, "glp", told=sensor))["sre_db"].item()
        for sensor in (Sensor.named("matched"), Sensor.named("corner"), None)
    )
    assert matched > corner + 1 and default == matched


def test_matched_each_group_of_bands_is_a_run_of_its_own(simulated):
    cube, sensor = as_cube(simulated), Sensor.named("matched")
    table = evaluate(simulated, "glp", sensor="matched").set_index("band")
    groups = (("B05", "B06", "B07", "B8A"), ("B11", "B12"))
    for group, reduced in zip(groups, reductions(cube, sensor, 20), strict=True):
        as_it_is = reduce_scene(cube, sensor.matched_to(group), 20)
        np.testing.assert_array_equal(reduced.cube.fine, as_it_is.cube.fine)
        alone = score(as_it_is, [get_method("glp")], told=sensor, progress=quiet).set_index("band")
        np.testing.assert_array_equal(table.loc[list(group), "sre_db"], alone.loc[list(group), "sre_db"])
    together = table.loc["all"]
    assert together["sre_db"] == pytest.approx(table.drop("all")["sre_db"].mean()) and together["sam_deg"] > 0
    assert evaluate(simulated, "glp", gsd=60, sensor="matched")["band"].tolist() == ["B01", "B09", "all"]


# The scene


@pytest.mark.parametrize("gsd", [20, 60])
def test_noise_that_degrading_took_is_given_back(simulated, gsd):
    operator, random, seen = Sensor(), np.random.default_rng(0), as_cube(simulated)
    levels = {band: 0.001 * random.random() for bands in seen.bands.values() for band in bands}
    pairs = [reduce_scene(seen, operator, gsd, noise=noise) for noise in (None, Noise(levels=levels, seed=1))]
    matched = operator.matched_to(seen.bands[gsd])
    for own, bands in seen.bands.items():
        clean, noisy = (pair.cube.arrays[own].values[0] for pair in pairs)
        for band, before, after in zip(bands, clean, noisy, strict=True):
            lost = levels[band] ** 2 * (1 - matched.noise_left(band, gsd // 10) ** 2)
            assert np.std(after - before) == pytest.approx(np.sqrt(lost), rel=5 / np.sqrt(after.size))
    np.testing.assert_array_equal(pairs[0].reference, pairs[1].reference)


def test_native_noise_is_measured_and_costs_what_sharpens_it(simulated):
    clean, noisy = (evaluate(simulated, ["glp"], noise=noise) for noise in (None, "native"))
    assert clean.attrs["noise"] is None and noisy.attrs["noise"].keys() == {band for band in BANDS if band != "B10"}
    assert all(0 <= level < 0.01 for level in noisy.attrs["noise"].values())
    assert overall(noisy).loc["glp", "sre_db"] < overall(clean).loc["glp", "sre_db"]
    assert_frame_equal(without_seconds(noisy), without_seconds(evaluate(simulated, ["glp"], noise="native")))


@pytest.mark.parametrize("noise", ["loud", 0, -0.1, float("nan"), True])
def test_what_is_no_noise_is_refused(cube, noise):
    with refused("noise"):
        evaluate(cube, "bicubic", noise=noise)


def test_noise_cannot_be_measured_on_a_scene_that_is_degraded_already(cube):
    reference = np.zeros((6, 120, 96), np.float32)
    with refused("noise"):
        evaluate(cube, "bicubic", noise="native", reference=reference)


def test_a_storage_offset_inflates_nothing():
    arrays = random_arrays(120, 96)
    stored = [
        s2pipe.from_arrays(*arrays, offset=-0.1),
        s2pipe.from_arrays(*[array - np.uint16(1000) for array in arrays]),
        s2pipe.from_arrays(*[(array * 1e-4 - 0.1).astype(np.float32) for array in arrays]),
    ]
    first, *others = (without_seconds(evaluate(scene, ["bicubic", "glp"])) for scene in stored)
    for other in others:
        assert_frame_equal(other, first, rtol=1e-5)


@pytest.mark.parametrize("gsd", [20, 60])
def test_lazy_chunks_and_a_single_array_give_what_the_cube_in_memory_gives(gsd):
    scene = random_cube(144, 108)
    expected = without_seconds(evaluate(scene, ["bicubic", "glp"], gsd=gsd))
    lazy = xr.DataTree.from_dict({name: scene[name].to_dataset().chunk({"y": 24, "x": 18}) for name in scene.children})
    for data in (lazy, with_chunks(scene, (60, 84), 36), as_one_array(scene)):
        assert_frame_equal(without_seconds(evaluate(data, ["bicubic", "glp"], gsd=gsd)), expected)


@pytest.mark.parametrize(("gsd", "edge"), [(20, 12), (60, 36)])
def test_a_scene_is_cropped_right_and_bottom(gsd, edge):
    height, width = 4 * edge, 3 * edge
    arrays = random_arrays(height + edge - 6, width + 6)
    cropped = [array[..., : height * 10 // g, : width * 10 // g] for array, g in zip(arrays, (10, 20, 60), strict=True)]
    larger, smaller = (evaluate(s2pipe.from_arrays(*each), ["bicubic", "glp"], gsd=gsd) for each in (arrays, cropped))
    assert_frame_equal(without_seconds(larger), without_seconds(smaller))


def test_a_scene_that_comes_degraded_with_its_reference_is_scored_alike(cube):
    reduced = reduce_scene(as_cube(cube), Sensor.named("box"), 20)
    came, degraded = (
        evaluate(scene, ["bicubic", "glp"], sensor="box", reference=reference)
        for scene, reference in ((reduced.cube, reduced.reference), (cube, None))
    )
    assert_frame_equal(without_seconds(came), without_seconds(degraded))


def test_the_60_m_bands_are_fed(cube):
    other = with_numbers(cube, r60m=random_cube(120, 96, seed=1)["r60m"]["reflectance"].values)
    recipe = METHODS["s2sucnn"].recipe(**quick_options("s2sucnn"))
    one, two = (overall(evaluate(scene, ["glp", recipe]))["sre_db"] for scene in (cube, other))
    assert one["glp"] == two["glp"] and one["s2sucnn"] != two["s2sucnn"]


@pytest.mark.parametrize("method", DISTINCT)
def test_the_60_m_bands_are_judged_at_gsd_60(method):
    recipe = get_method(method, **quick_options(method))
    table = evaluate(random_cube(180, 180), [recipe], gsd=60)
    # too few patches at 60 m to train a pair-wise network on: what was interpolated instead is not passed off as its work
    assert table["interpolated"].all() == isinstance(recipe, LowerScaleCnn) and table["interpolated"].nunique() == 1
    assert table["band"].tolist() == ["B01", "B09", "all"] and set(table["gsd"]) == {60}
    assert np.isfinite(table["sre_db"]).all()


def with_bands(cube, **bands):
    return xr.DataTree.from_dict({name: cube[name].to_dataset().sel(band=list(kept)) for name, kept in bands.items()})


@pytest.mark.parametrize("gsd", [20, 60])
@pytest.mark.parametrize("method", [name for name in DISTINCT if name != "dsen2"])  # which needs all bands
def test_some_bands_are_enough(method, gsd):
    scene = random_cube(96, 96) if gsd == 20 else random_cube(180, 180)
    coarse = ("B05", "B11") if gsd == 20 else ("B09",)
    subset = with_bands(scene, r10m=("B03", "B08"), **{f"r{gsd}m": coarse})
    table = evaluate(subset, [get_method(method, **quick_options(method))], gsd=gsd)
    assert table["band"].tolist() == [*coarse, "all"] and np.isfinite(table["sre_db"]).all()


def test_equal_seeds_give_equal_tables(cube):
    first, again, other = (evaluate(cube, ["ssc-cnn", "bicubic"], steps=2, patches=64, seed=seed) for seed in (0, 0, 1))
    assert_frame_equal(without_seconds(first), without_seconds(again))
    differs = overall(first)["sre_db"] != overall(other)["sre_db"]
    assert differs.to_dict() == {"ssc-cnn": True, "bicubic": False}


def test_nodata_are_left_out(simulated):
    clean, holes = (evaluate(scene, ["bicubic", "glp"], crop=0) for scene in (simulated, holed(simulated)))
    assert (clean["sre_db"] - holes["sre_db"]).abs().max() < 0.3
    assert (clean["sre_db"] != holes["sre_db"]).all()
    for name, tolerance in (("rmse", 0.03), ("sam_deg", 0.03), ("ergas", 0.03), ("ssim", 0.01), ("uiqi", 0.01)):
        np.testing.assert_allclose(holes[name], clean[name], rtol=tolerance)


# Options and errors


def test_options_go_to_the_named_methods_that_have_them(cube):
    told = []
    given = ["bicubic", "ssc-cnn", SscCnn(steps=2, patches=64), fit(cube, "glp")]
    s2pipe.evaluate(cube, given, steps=3, patches=64, progress=lambda *what: told.append(what[:3]))
    steps = [what for what in told if what[0] == "ssc-cnn 20 m"]
    groups = ("VNIR", "SWIR")
    assert steps == [("ssc-cnn 20 m", step, count) for count in (3, 2) for _ in groups for step in range(1, count + 1)]


def dates(cube):
    return xr.DataTree.from_dict(
        {name: xr.concat([cube[name].to_dataset()] * 2, "time").drop_vars("time") for name in cube.children}
    )


def blank(cube, *gsds, band=slice(None)):
    numbers = {node_name(gsd): cube[node_name(gsd)]["reflectance"].values.copy() for gsd in gsds}
    for array in numbers.values():
        array[:, band] = 0
    return with_numbers(cube, **numbers)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"sensor": "middle"}, ("middle", "centre", "corner", "box")),
        ({"told": "middle"}, ("middle",)),
        ({"told": 3}, (3,)),
        ({"gsd": 30}, (30,)),
        ({"gsd": 10}, (10,)),
        ({"crop": 30}, (30, "60 x 48 px")),
        ({"crop": -1}, (-1,)),
        ({"crop": 1.5}, (1.5,)),
        ({"seed": -1}, (-1,)),
    ],
)
@pytest.mark.parametrize("method", ["glp", "all"])
def test_bad_arguments_are_refused(cube, method, options, named):
    with refused(*options, naming=named):
        evaluate(cube, method, **options)


@pytest.mark.parametrize(
    ("methods", "named"),
    [
        ([], ("bicubic", "all")),
        (["glp", "lanczos"], ("lanczos", "bicubic")),
        (["my.safetensors"], ("my.safetensors",)),
        ([Glp], ("Glp",)),
        ([3], (3,)),
        (None, (None,)),
    ],
)
def test_what_is_no_method_is_refused(cube, methods, named):
    with refused("methods", naming=named):
        evaluate(cube, methods)


@pytest.mark.parametrize(
    ("methods", "options", "named"),
    [
        (["glp", "bicubic"], {"steps": 3}, ("glp, bicubic",)),
        (["ssc-cnn"], {"blocks": 3}, ("ssc-cnn", "learning_rate, patches, steps")),
        ([SscCnn(steps=2)], {"steps": 3}, ()),
        (["ssc-cnn"], {"steps": 0}, (0,)),
        ("all", {"steps": 0}, (0,)),
        ("all", {"stepps": 5}, ("stepps", "steps")),
    ],
)
def test_bad_options_of_methods_are_refused(cube, methods, options, named):
    with refused(*options, naming=named):
        evaluate(cube, methods, **options)


def test_options_are_not_for_a_fitted_sharpener(cube):
    with refused("steps"):
        evaluate(cube, [fit(cube, "glp")], steps=3)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda c: evaluate(dates(c), "glp"), ("2 dates",)),
        (lambda c: evaluate(random_cube(6, 120), "glp"), ("6 x 120 px", "12 x 12 px")),
        (lambda c: evaluate(random_cube(30, 30), "glp", gsd=60), ("36 x 36 px",)),
        (lambda c: evaluate(random_cube(48, 48), "ssc-cnn", steps=2), ("16 x 16 px",)),
        (lambda c: evaluate(random_cube(48, 48), "s2sucnn", steps=2), ("24 px", "30 px")),
        (lambda c: evaluate(blank(c, 10, 20, 60), "glp"), ()),
        (lambda c: evaluate(blank(c, 10), "glp"), ("B02, B03, B04, B08",)),
        (lambda c: evaluate(blank(c, 10), "bicubic"), ("B05, ", "B12")),
        (lambda c: evaluate(blank(c, 20, band=3), "glp"), ("B8A",)),
    ],
)
def test_data_that_cannot_be_judged_are_refused(cube, call, named):
    with refused("data", naming=named):
        call(cube)


def test_bands_to_judge_are_needed(cube):
    with refused("data", "gsd", naming=("20 m", "r10m, r60m")):
        evaluate(with_bands(cube, r10m=["B02"], r60m=["B01"]), "glp")
    with refused("data", "gsd", naming=("60 m",)):
        evaluate(with_bands(cube, r10m=["B02"], r20m=["B05"]), "glp", gsd=60)


def test_where_no_method_can_run_all_reasons_are_told(cube):
    with refused("methods", "data", naming=("bicubic: ", "glp: ")):
        evaluate(blank(cube, 10), "all", **QUICK_ALL)


def test_a_reference_of_another_shape_is_refused(cube):
    with refused("reference", "gsd", naming=((6, 60, 48), (6, 120, 96))):
        evaluate(cube, "glp", reference=np.ones((6, 60, 48)))


@pytest.mark.parametrize("methods", ["glp", "all"])
def test_what_sharpen_refuses_is_refused(cube, methods):
    with pytest.raises(InputError, match="tpu"):
        evaluate(cube, methods, device="tpu")
    with pytest.raises(InputError, match="str"):
        evaluate("scene.tif", methods)


@pytest.mark.parametrize("name", ["centre", "center", "corner", "box"])
def test_a_sensor_may_be_given_by_name(cube, name):
    tables = [evaluate(cube, "glp", sensor=sensor, told="box") for sensor in (name, Sensor.named(name))]
    assert_frame_equal(*map(without_seconds, tables))
    assert set(tables[0]["sensor"]) == {Sensor.named(name).name}


def test_a_sharpener_of_bands_that_the_scene_lacks_is_refused_before_any_training(cube):
    scene = s2pipe.from_arrays(*random_arrays(120, 96)[:2])

    def fail(*_):
        raise AssertionError("trained before the methods were checked")

    with pytest.raises(InputError, match="B01, B09"):
        s2pipe.evaluate(scene, ["ssc-cnn", fit(cube, "s2sucnn")], progress=fail, steps=1)
