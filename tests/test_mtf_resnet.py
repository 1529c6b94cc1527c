import numpy as np
import pytest
import torch
from papers import mean_sre, paper_scene
from scenes import random_cube, with_numbers

import s2pipe
from s2pipe import InputError, Sensor
from s2pipe.bands import BANDS_BY_GSD
from s2pipe.methods import get_method
from s2pipe.methods.mtf_resnet import Examples, Scaling, regressed
from s2pipe.networks import mtf_resnet
from s2pipe.sampling import Sample
from s2pipe.training import seeded


def fit(cube, **options):
    return s2pipe.fit(cube, "mtf-resnet", progress=lambda *_: None, **options)


def examples_of(cube, gsd, *, protocol="centre"):
    sample, sensor = Sample.of(cube, seed=0), Sensor.named(protocol)
    return Examples.of(sample, gsd, regressed(sample, gsd, without=(), sensor=sensor), without=(), sensor=sensor)


def test_an_output_pixel_of_the_network_depends_on_its_radius_only():
    with seeded(0):
        network = mtf_resnet.MtfResNetwork(inputs=2, outputs=3)
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
    reach, size = mtf_resnet.radius(), 60
    image = torch.rand(1, 2, size, size)
    changed = image.clone()
    changed[..., 30 - reach : 32 + reach, 30 - reach : 32 + reach] += 1
    outside = image + changed.sub(image).eq(0)
    inner = (..., slice(30, 32), slice(30, 32))
    torch.testing.assert_close(network(outside)[inner], network(image)[inner])
    assert not torch.allclose(network(changed)[inner], network(image)[inner])


def test_an_untrained_network_adds_nothing():
    network = mtf_resnet.MtfResNetwork(inputs=2, outputs=3)
    assert not network(torch.rand(1, 2, 12, 12)).any()


def test_scaled_channels_have_mean_0_and_deviation_1_where_they_were_seen():
    image = torch.rand(3, 20, 20)
    image[1] = 0.25
    seen = np.zeros((20, 20), dtype=bool)
    seen[:, :10] = True
    scaled = Scaling.of([image], [seen])(image)[:, :, :10]
    torch.testing.assert_close(scaled.mean(dim=(1, 2)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(scaled.std(dim=(1, 2), correction=0), torch.tensor([1.0, 0.0, 1.0]), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("gsd", "limit"), [(20, 5), (60, 10)])
def test_degraded_it_is_what_was_observed_whatever_the_network_does(data_dir, gsd, limit):
    cube = paper_scene(data_dir, "iceland")
    sharpener = fit(cube, steps=25, learning_rate=1e-3)
    result = s2pipe.sharpen(s2pipe.from_arrays(*reflectances(cube)), sharpener).compute()
    names = BANDS_BY_GSD[gsd] if gsd == 20 else ("B01", "B09")
    image = torch.from_numpy(result.sel(time=result.time[0], band=list(names)).values)
    observed = reflectances(cube)[gsd // 20 - gsd // 60]
    left = Sensor().degrade(image, names, gsd // 10).numpy() - observed
    assert 1e4 * np.sqrt((left**2).mean()) < limit  # DN


def reflectances(cube):
    """Float reflectance (band, y, x) at 10, 20 and 60 m."""
    return [cube[f"r{gsd}m"]["reflectance"].values[0].astype(np.float32) * 1e-4 - 0.1 for gsd in (10, 20, 60)]


def test_it_is_better_than_regression_alone_and_than_the_best_measured_peer(data_dir):
    scene = paper_scene(data_dir, "iceland")
    assert mean_sre(scene, "mtf-resnet", "centre", steps=300) > 32.5  # ATPRK: 31.62


def test_what_is_held_out_shares_no_pixel_with_what_is_trained_on(data_dir):
    examples = examples_of(paper_scene(data_dir, "iceland"), 20)
    trained, held_out = (np.zeros((204, 204), dtype=bool) for _ in range(2))
    for mask, places in ((trained, examples.places), (held_out, examples.held_out)):
        for _, y, x in places:
            mask[y : y + examples.edge, x : x + examples.edge] = True
    assert trained.any() and held_out.any() and not (trained & held_out).any()


@pytest.mark.parametrize("protocol", ["centre", "box", "corner"])
def test_patches_are_turned_by_symmetries_of_the_sensor_only(data_dir, protocol):
    examples, sensor = examples_of(paper_scene(data_dir, "iceland"), 20, protocol=protocol), Sensor.named(protocol)
    image = torch.rand(6, 24, 24)
    turned = set()
    for seed in range(40):
        turn = examples._turn(np.random.default_rng(seed))
        torch.testing.assert_close(
            turn(sensor.degrade(image, examples.bands, 2))[:, 4:-4, 4:-4],
            sensor.degrade(turn(image), examples.bands, 2)[:, 4:-4, 4:-4],
        )
        turned.add(turn(torch.arange(4.0).reshape(1, 2, 2)).flatten().int().numpy().tobytes())
    assert len(turned) == (2 if protocol == "corner" else 8)


def test_where_training_does_not_help_there_is_no_network(caplog):
    cube = random_cube(252, 252)  # white noise, of which no coarse band knows anything
    sharpener = fit(cube, steps=25, learning_rate=1e-2)
    assert not sharpener.stages[20].network.leave.weight.any()
    assert "training does not help at 20 m" in caplog.text


def test_a_scene_too_small_to_train_on_is_regressed(caplog):
    sharpener = fit(random_cube(60, 60))
    assert not sharpener.stages[20].network.leave.weight.any()
    assert "too small to train on at 20 m" in caplog.text


def test_nodata_is_not_trained_on(data_dir):
    cube = paper_scene(data_dir, "iceland")
    numbers = cube["r20m"]["reflectance"].values.copy()
    numbers[..., :40, :60] = 0
    examples = examples_of(with_numbers(cube, r20m=numbers), 20)
    assert examples.places
    assert all(y >= 40 or x >= 60 for _, y, x in (*examples.places, *examples.held_out))


def test_no_rim_of_nodata_is_black(data_dir):
    cube = paper_scene(data_dir, "iceland")
    holed = {name: cube[name]["reflectance"].values.copy() for name in cube.children}
    for array in holed.values():
        height, width = array.shape[2:]
        array[..., height // 3 : height // 2, width // 4 : width // 2] = 0
    sharpener = fit(cube, steps=25)
    clean, result = (s2pipe.sharpen(c, sharpener).compute().values[0].astype(int) for c in (cube, with_numbers(cube, **holed)))
    for before, after in zip(clean, result, strict=True):
        assert after[after != 0].min() > 0.5 * before.min() and after.max() < 1.5 * before.max()


@pytest.mark.parametrize("options", [{"steps": 0}, {"learning_rate": -1.0}])
def test_bad_options_are_refused(options):
    with pytest.raises(InputError, match=next(iter(options))):
        get_method("mtf-resnet", **options)
