import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from papers import mean_sre, paper_scene
from quick import available_precisions
from refusals import refused
from scenes import pixels_of, random_cube, with_numbers
from scipy import ndimage
from skimage.registration import phase_cross_correlation

import s2pipe
from s2pipe import Sensor
from s2pipe.core.metrics import sre
from s2pipe.fitting.training import seeded
from s2pipe.inputs.dataarray import as_cube
from s2pipe.inputs.files import read_scene
from s2pipe.methods import get_method
from s2pipe.methods.mtf_resnet.pretrained import SHIPPED, load_pretrained
from s2pipe.methods.mtf_resnet.recipe import MtfResNet
from s2pipe.networks import mtf_resnet
from s2pipe.quality.reduced import reduce_scene
from s2pipe.simulation import landscape
from s2pipe.simulation.landscape import simulate_scene


def fit(cube, **options):
    return s2pipe.fit(cube, "mtf-resnet", progress=lambda *_: None, **options)


def part_of(cube, edge=252, **bands):
    """The upper-left part of a scene, `edge` 10 m pixels a side; of the nodes in `bands` those bands only."""
    nodes = {name: node.to_dataset().isel(y=slice(edge * 10 // int(name[1:-1])), x=slice(edge * 10 // int(name[1:-1])))
             for name, node in cube.children.items()}  # fmt: skip
    return type(cube).from_dict({name: node.sel(band=bands.get(name, list(node["band"].values))) for name, node in nodes.items()})


def reflectances(cube):
    """Float reflectance (band, y, x) at 10, 20 and 60 m."""
    return [cube[f"r{gsd}m"]["reflectance"].values[0].astype(np.float32) * 1e-4 - 0.1 for gsd in (10, 20, 60)]


def test_an_output_pixel_of_the_network_depends_on_its_radius_only():
    with seeded(0):
        network = mtf_resnet.MtfResNetwork(inputs=2, told=1, outputs=3)
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
    reach, told = mtf_resnet.radius(), torch.zeros(1, 1)
    image = torch.rand(1, 2, 40, 40)
    inside = (..., slice(20 - reach, 21 + reach), slice(20 - reach, 21 + reach))
    changed, outside = image.clone(), image + 1
    changed[inside] += 1
    outside[inside] = image[inside]
    pixel = (..., 20, 20)
    torch.testing.assert_close(network(outside, told)[pixel], network(image, told)[pixel])
    assert not torch.allclose(network(changed, told)[pixel], network(image, told)[pixel])


def test_an_untrained_network_adds_nothing():
    network = mtf_resnet.MtfResNetwork(inputs=2, told=1, outputs=3)
    assert not network(torch.rand(1, 2, 12, 12), torch.ones(1, 1)).any()


@pytest.mark.usefixtures("precision")
@pytest.mark.parametrize(("gsd", "limit"), [(20, 5), (60, 10)])
def test_degraded_it_is_what_was_observed(data_dir, gsd, limit):
    cube = paper_scene(data_dir, "iceland")
    sharpener = fit(cube, sensor="centre")
    r10m, r20m, r60m = reflectances(cube)
    result = sharpener(pixels_of(r10m, r20m, r60m))
    names = [band for band in sharpener.bands_out if s2pipe.core.bands.BANDS[band].gsd == gsd]
    image = torch.from_numpy(result[[sharpener.bands_out.index(band) for band in names]])
    left = Sensor().degrade(image, names, gsd // 10).numpy() - (r20m if gsd == 20 else r60m)
    assert 1e4 * np.sqrt((left**2).mean()) < limit  # DN


def test_told_the_matched_sensor_what_is_left_of_the_misfit_is_noise(data_dir):
    cube = paper_scene(data_dir, "iceland")
    sharpener, encoding = fit(cube), as_cube(cube).encoding
    r10m, r20m, r60m = (encoding.decode(array.values[0]) for array in as_cube(cube).arrays.values())
    bands = s2pipe.core.bands.BANDS_BY_GSD[20]
    image = torch.from_numpy(sharpener(pixels_of(r10m, r20m, r60m))[:6])
    left = Sensor().degrade(image, bands, 2).numpy() - r20m
    noise = np.array([sharpener.provenance()["noise"][band] for band in bands])
    assert ((left**2).mean(axis=(1, 2)) < 1.3 * noise**2).all() and (np.abs(left.mean(axis=(1, 2))) < 0.1 * noise).all()


@pytest.mark.parametrize("dn", [5, 10])
def test_the_noise_of_a_scene_is_measured(monkeypatch, dn):
    monkeypatch.setattr(landscape, "_NOISE", dn * 1e-4)
    scene = landscape.simulate_scene(480, seed=1)
    noise = fit(s2pipe.from_arrays(scene.r10m, scene.r20m, offset=-0.1)).provenance()["noise"]
    assert set(noise) == set(s2pipe.core.bands.BANDS_BY_GSD[20])
    np.testing.assert_allclose(list(noise.values()), dn * 1e-4, rtol=0.25)


def test_where_the_regressions_know_all_the_network_is_not_run():
    """Bands that are mixtures of the 10 m bands, as those of other sensors often are."""
    rng = np.random.default_rng(0)
    fine = torch.from_numpy(ndimage.gaussian_filter(rng.random((4, 240, 240)), (0, 1.5, 1.5)).astype(np.float32))
    bands = s2pipe.core.bands.BANDS_BY_GSD[20]
    coarse = Sensor().degrade(torch.einsum("bf,fyx->byx", torch.rand(6, 4), fine), bands, 2)
    r10m, r20m = (image.numpy() + 5e-4 * rng.standard_normal(image.shape) for image in (fine, coarse))
    sharpener = fit(s2pipe.from_arrays(r10m.astype(np.float32), r20m.astype(np.float32)))
    assert sharpener.network is None and not any(sharpener.provenance()["network_worth"].values())


WITHOUT = {"iceland": "without-iceland-T43RCP", "usa": "without-usa-bigearthnet", "T33UUB": "without-T33UUB-T48QUE"}
"""Weights that were trained without a scene."""
BEST_PEER = {
    "iceland": {"centre": 31.62, "box": 33.60, "corner": 28.43},
    "usa": {"centre": 34.51, "box": 37.69, "corner": 31.99},
    "T33UUB": {"centre": 31.30, "box": 34.48, "corner": 28.47},
}
"""Best mean SRE in dB of measured_peers.csv."""
SHORT = {("usa", "box"): 0.8}
"""Where the best peer, AESR, which was trained on many scenes degraded by box, is ahead: docs/default_method.md."""


def weights_without(scene):
    return Path(__file__).parents[3] / "benchmarks" / "weights" / f"{WITHOUT[scene]}.safetensors"


@pytest.mark.parametrize("protocol", ["centre", "box", "corner"])
@pytest.mark.parametrize("scene", WITHOUT)
def test_it_beats_every_peer_on_scenes_it_has_never_seen(data_dir, scene, protocol, monkeypatch):
    cube, told = paper_scene(data_dir, scene), Sensor.named(protocol)
    assert scene not in load_pretrained(weights_without(scene)).stated["scenes"]
    reached = []
    for precision in available_precisions():
        monkeypatch.setenv("S2PIPE_PRECISION", precision)
        reached.append(mean_sre(cube, "mtf-resnet", protocol, told=told, weights=weights_without(scene)))
    regressed = mean_sre(cube, Regression(), protocol, told=told)
    assert min(reached) > max(BEST_PEER[scene][protocol] - SHORT.get((scene, protocol), 0), regressed + 0.3)


@dataclass(frozen=True, kw_only=True)
class Regression(MtfResNet):
    """The method without its network."""

    def fit(self, sample, context):
        return replace(super().fit(sample, context), network=None)


@pytest.mark.usefixtures("precision")
def test_the_60m_bands_are_better_than_by_kriging(data_dir):
    table = s2pipe.evaluate(paper_scene(data_dir, "T33UUB"), ["mtf-resnet", "atprk"], gsd=60, progress=lambda *_: None)
    ours, kriging = table.loc[table["band"] == "all", "sre_db"]
    assert ours > kriging + 1.5


@pytest.mark.usefixtures("precision")
def test_the_20m_bands_do_not_depend_on_the_60m_bands(data_dir):
    cube = part_of(paper_scene(data_dir, "iceland"))
    both = s2pipe.sharpen(cube, "mtf-resnet", bands=["B05", "B01"]).sel(band="B05").values
    alone = s2pipe.sharpen(cube, "mtf-resnet", bands=["B05"]).sel(band="B05").values
    np.testing.assert_allclose(both.astype(int), alone.astype(int), atol=1)


def test_a_scene_the_weights_were_trained_on_is_marked(data_dir):
    cube = paper_scene(data_dir, "iceland")
    marks = [
        s2pipe.evaluate(cube, "mtf-resnet", progress=lambda *_: None, **options)["in_sample"].all()
        for options in ({}, {"weights": weights_without("iceland")})
    ]
    assert marks == [True, False]


def test_some_of_the_20m_bands_are_enough(data_dir):
    cube = paper_scene(data_dir, "iceland")
    fewer = part_of(cube, 408, r20m=["B05", "B11"])
    for band in ("B05", "B11"):
        best, some = (
            table.loc[table["band"] == band, "sre_db"].item()
            for table in (
                s2pipe.evaluate(data, "mtf-resnet", weights=weights_without("iceland"), progress=lambda *_: None)
                for data in (cube, fewer)
            )
        )
        assert some > best - 1


def test_without_a_10m_band_there_is_no_network(data_dir, caplog):
    cube = part_of(paper_scene(data_dir, "iceland"), r10m=["B02", "B03", "B04"])
    sharpener = fit(cube)
    assert sharpener.network is None
    assert "without all of B02, B03, B04, B08 the 20 m bands are regressed only" in caplog.text
    assert s2pipe.sharpen(cube, sharpener).compute().notnull().all()


def test_trained_on_the_scene_it_does_better_there_or_stays_as_it_came(data_dir, caplog):
    caplog.set_level("INFO")
    cube = part_of(paper_scene(data_dir, "T33UUB"), 396)
    trained = fit(cube, steps=25)
    weights = [dict(net.named_parameters())["leave.weight"] for net in (trained.network, load_pretrained().network)]
    before, after = map(float, re.search(r"from ([\d.]+) to ([\d.]+)", caplog.text).groups())
    assert torch.equal(*weights) == (before <= after)
    again, other = fit(cube, steps=25), fit(cube, steps=25, seed=1)
    assert again.weights_sha256 == trained.weights_sha256 != other.weights_sha256


def test_where_training_does_not_help_the_network_stays_as_it_came(caplog):
    sharpener = fit(random_cube(252, 252), steps=25, learning_rate=0.1)
    assert torch.equal(sharpener.network.leave.weight, load_pretrained().network.leave.weight)
    assert "training on the scene does not help" in caplog.text


def test_on_a_scene_too_small_to_train_on_the_network_stays_as_it_came(caplog):
    sharpener = fit(random_cube(60, 60), steps=5)
    assert torch.equal(sharpener.network.leave.weight, load_pretrained().network.leave.weight)
    assert "too small to train on" in caplog.text


@pytest.mark.usefixtures("precision")
@pytest.mark.parametrize("value", [1, 1100, 4000])
@pytest.mark.parametrize("bands", [slice(None), 0, 3])
def test_constant_10m_bands_do_no_harm(bands, value):
    """As where a band is clipped."""
    cube = random_cube(252, 252)
    numbers = cube["r10m"]["reflectance"].values.copy()
    numbers[0, bands] = value
    result = s2pipe.sharpen(with_numbers(cube, r10m=numbers), "mtf-resnet").sel(band=["B05", "B12"]).values.astype(int)
    assert result.min() > -4000 and np.ptp(result) < 30_000 and abs(result.mean() - 5000) < 1000


@pytest.mark.parametrize("kind", ["stripes", "checkered", "a corner", "apart"])
def test_a_20m_band_with_few_valid_pixels_does_not_spoil_the_others(data_dir, kind):
    cube = part_of(paper_scene(data_dir, "iceland"), 252)
    numbers = cube["r20m"]["reflectance"].values.copy()
    dead = numbers[0, 0]
    if kind == "stripes":
        dead[:, ::3] = 0
    elif kind == "checkered":
        dead[::3, ::3] = 0
    elif kind == "a corner":
        dead[12:], dead[:, 12:] = 0, 0
    else:
        dead[:, :60], numbers[0, 1, :, 60:] = 0, 0
    bands = ["B01", "B07", "B09", "B11", "B12"]
    clean, holed = (
        s2pipe.sharpen(data, "mtf-resnet", bands=bands).values[0] for data in (cube, with_numbers(cube, r20m=numbers))
    )
    for band, one, other in zip(bands, clean.astype(float), holed.astype(float), strict=True):
        assert sre(one - 1000, other - 1000) > (25 if band == "B09" else 30), band


def test_weights_are_read_anew(tmp_path):
    cube, path = random_cube(), tmp_path / "w.safetensors"
    hashes = []
    for scene in ("iceland", "usa"):
        shutil.copy(weights_without(scene), path)
        hashes.append(fit(cube, weights=path).weights_sha256)
    assert hashes[0] != hashes[1]


def test_a_training_goes_on_where_it_was_interrupted(tmp_path):
    cube = random_cube(168, 168)
    stopped = []

    def stop(label, step, steps, loss):
        if step == 110 and not stopped:
            stopped.append(step)
            raise KeyboardInterrupt

    whole = fit(cube, steps=120)
    with pytest.raises(KeyboardInterrupt):
        s2pipe.fit(cube, "mtf-resnet", steps=120, checkpoint=tmp_path, progress=stop)
    assert fit(cube, steps=120, checkpoint=tmp_path).weights_sha256 == whole.weights_sha256
    with refused("checkpoint", naming=(tmp_path,)):
        fit(cube, steps=120, checkpoint=tmp_path, weights=weights_without("usa"))


def test_a_sensor_that_knows_the_bands_in_use_only_is_enough():
    sensor = Sensor(mtf=tuple((band, 0.3) for band in ("B02", "B03", "B04", "B08", "B05")))
    cube = part_of(random_cube(60, 60), 60, r20m=["B05"])
    assert s2pipe.sharpen(cube, "mtf-resnet", bands=["B05"], sensor=sensor).compute().notnull().all()


@pytest.mark.usefixtures("precision")
@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize("kind", ["flat", "tiny", "mostly nodata", "water", "saturated"])
def test_scenes_with_little_to_learn_from_do_no_harm(kind, steps):
    """What comes out stays near what went in; the noise of coarse pixels is sharpened two- or threefold with them."""
    cube = random_cube(12, 12) if kind == "tiny" else random_cube(252, 252)
    arrays = {name: cube[name]["reflectance"].values.copy() for name in cube.children}
    for name, array in arrays.items():
        cut = array.shape[2] * 2 // 3
        if kind == "flat":
            array[:] = 3000
        elif kind == "mostly nodata":
            array[..., : cut * 5 // 4, :] = 0
        elif kind == "water":  # some DN of noise
            array[:] = 1100 + np.random.default_rng(int(name[1])).integers(-3, 4, array.shape)
        elif kind == "saturated":
            array[..., :cut, :cut] = 65535
    result = s2pipe.sharpen(with_numbers(cube, **arrays), "mtf-resnet", steps=steps, progress=lambda *_: None).compute().values
    for gsd in (20, 60):
        for row, band in enumerate(arrays[f"r{gsd}m"][0]):
            index = list(s2pipe.core.bands.BANDS).index(s2pipe.core.bands.BANDS_BY_GSD[gsd][row])
            valid, seen = (a[(a != 0) & (a != 65535)].astype(int) for a in (result[0, index], band))
            spread = 6 * max(int(np.ptp(seen)), 3)
            assert valid.min() > seen.min() - spread and valid.max() < seen.max() + spread, (kind, gsd, row)


@pytest.mark.usefixtures("precision")
def test_a_scene_of_clouds_is_survived(data_dir):
    scene = read_scene(data_dir / "crops" / "majortom_L2A_T33NZA_20220706_N0400_cloudy", offset=-0.1)
    for steps in (0, 3):
        result = s2pipe.sharpen(scene.cube, "mtf-resnet", steps=steps, progress=lambda *_: None).compute().values
        observed = scene.cube["r20m"]["reflectance"].values[0, 0]
        assert np.isfinite(result).all() and abs(result[0, 4].mean(dtype=float) - observed.mean(dtype=float)) < 20


@pytest.mark.usefixtures("precision")
def test_no_rim_of_nodata_is_black(data_dir):
    cube = paper_scene(data_dir, "iceland")
    holed = {name: cube[name]["reflectance"].values.copy() for name in cube.children}
    for array in holed.values():
        height, width = array.shape[2:]
        array[..., height // 3 : height // 2, width // 4 : width // 2] = 0
    sharpener = fit(cube)
    clean, result = (s2pipe.sharpen(c, sharpener).compute().values[0].astype(int) for c in (cube, with_numbers(cube, **holed)))
    for before, after in zip(clean, result, strict=True):
        assert after[after != 0].min() > 0.5 * before.min() and after.max() < 1.5 * before.max()


@pytest.mark.usefixtures("precision")
def test_nothing_is_shifted():
    scene = simulate_scene(504, seed=1)
    cube = s2pipe.from_arrays(*(scene.observed(gsd) for gsd in (10, 20, 60)), offset=-0.1)
    sharp = s2pipe.sharpen(cube, "mtf-resnet").compute()
    truth = dict(zip(s2pipe.core.bands.BANDS, scene.truth, strict=True))
    for band in s2pipe.core.bands.BANDS_BY_GSD[20]:
        image = sharp.sel(band=band).values[0] * 1e-4 - 0.1
        shift = phase_cross_correlation(truth[band], image, upsample_factor=200)[0]
        assert np.abs(shift).max() <= 0.02, band


@pytest.mark.usefixtures("precision")
@pytest.mark.parametrize("shift", [-2, -1, 1, 2])
def test_a_shift_of_the_20m_bands_is_repaired_for_them(data_dir, shift, caplog):
    """The 10 m bands themselves are copied as they are."""
    caplog.set_level("INFO")
    cube = part_of(paper_scene(data_dir, "T33UUB"))
    rolled = np.roll(cube["r10m"]["reflectance"].values, (shift, shift), axis=(2, 3))
    shifted = with_numbers(cube, r10m=rolled)
    sharpener = fit(shifted)
    assert sharpener.shift == pytest.approx((shift, shift), abs=0.15)
    assert "the 10 m bands are moved by" in caplog.text
    clean = s2pipe.sharpen(cube, "mtf-resnet", bands=["B07"]).values[0, 0, 30:-30, 30:-30].astype(float)
    result = s2pipe.sharpen(shifted, sharpener, bands=["B02", "B07"]).values[0]
    np.testing.assert_array_equal(result[0], rolled[0, 0])
    assert sharpener.provenance()["shift"] == list(sharpener.shift)
    assert sre(clean, result[1, 30:-30, 30:-30].astype(float)) > 34


def test_one_scale_lower_a_shift_is_half_as_long(data_dir):
    """A Sharpener that was fitted on the scene itself is judged by the shift that it repaired."""
    raw = paper_scene(data_dir, "iceland-raw")
    sharpener = fit(raw)
    assert sharpener.shift == pytest.approx((-1, -1), abs=0.15)
    anew, given = (
        table.loc[table["band"] == "all", "sre_db"].item()
        for table in (s2pipe.evaluate(raw, one, progress=lambda *_: None) for one in ("mtf-resnet", sharpener))
    )
    assert given > anew - 1  # what is noise at full scale is told apart less sharply there


@pytest.mark.parametrize("protocol", ["centre", "box", "corner"])
def test_bands_that_fit_are_not_moved(data_dir, protocol):
    reduced = reduce_scene(as_cube(paper_scene(data_dir, "T33UUB")), Sensor.named(protocol), 20)
    assert s2pipe.fit(reduced.cube, "mtf-resnet", sensor=Sensor.named(protocol)).shift == (0.0, 0.0)


def test_folders_of_the_user_are_not_stated(tmp_path):
    path = tmp_path / "mine.safetensors"
    shutil.copy(SHIPPED, path)
    sharpener = fit(random_cube(), weights=path)
    assert sharpener.provenance()["options"]["weights"] == "mine.safetensors"


@pytest.mark.parametrize(
    "options",
    [{"steps": -1}, {"learning_rate": -1.0}, {"weights": 3}, {"weights": "missing.safetensors"}],
)
def test_bad_options_are_refused(options):
    with refused(*options, naming=tuple(options.values())):
        get_method("mtf-resnet", **options)
