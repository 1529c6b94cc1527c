import numpy as np
import pytest
import torch
import torch.nn.functional as F
from quick import skip_without
from refusals import refused
from scenes import random_cube, with_chunks, with_numbers

import s2pipe
from s2pipe import Sensor
from s2pipe.core.bands import BANDS_BY_GSD
from s2pipe.fitting.sampling import Sample
from s2pipe.inputs.dataarray import as_cube
from s2pipe.methods import get_method
from s2pipe.methods.base import FitContext
from s2pipe.methods.learned.s2sucnn import S2sucnn, _Scene
from s2pipe.networks import s2sucnn
from s2pipe.networks.s2sucnn import S2sucnnNetwork, radius
from s2pipe.simulation.landscape import simulate_scene

BANDS = {10: 4, 20: 6, 60: 2}
QUICK = {"steps": 2, "patch": 48, "batch": 1}


def quiet(*_):
    pass


def inputs(edge, *, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(1, n, edge * 10 // gsd, edge * 10 // gsd, generator=generator, dtype=dtype) for gsd, n in BANDS.items()]


def test_both_variants_have_the_papers_parameters():
    # a unit of k channels: 3x3 convolution (k -> 128), biases, and layer normalisation's gain and bias
    def unit(channels):
        return 9 * channels * 128 + 128 + 2 * 128

    # 20 m part: in at 20 m and 60 m; three parallel skips from the 20 m bands; 1 + 3 + 1 + 2 x 2 units of 128
    part_20m = unit(6) + unit(2) + 3 * unit(6) + 9 * unit(128)
    # 10 m part: in at 10 m and from the 20 m bands, a skip from the 10 m bands, 4 units of 128; the reduced variant has 3 more
    part_10m = unit(4) + unit(6) + unit(4) + 4 * unit(128)
    head = (128 + 1) * 12
    counts = {v: sum(p.numel() for p in S2sucnnNetwork(BANDS, v).parameters()) for v in ("full", "reduced")}
    assert counts["full"] == part_20m + part_10m + head == 1_972_620
    assert counts["reduced"] == counts["full"] + 3 * unit(128) == 2_416_140


def restated(network, r10m, r20m, r60m):
    """The network of the paper, step by step, from the weights alone."""
    state = network.state_dict()

    def c(name, x):
        x = F.conv2d(x, state[f"{name}.convolution.weight"], state[f"{name}.convolution.bias"], padding=1)
        mean, variance = x.mean(1, keepdim=True), x.var(1, keepdim=True, unbiased=False)
        x = (x - mean) / torch.sqrt(variance + 1e-3)
        x = x * state[f"{name}.norm.weight"][:, None, None] + state[f"{name}.norm.bias"][:, None, None]
        return torch.where(x > 0, x, 0.2 * x)

    def up(x, ratio):
        return F.interpolate(x, scale_factor=ratio, mode="bilinear", align_corners=False)

    o = c("merge_20m", c("enter_20m", r20m) + up(c("enter_60m", r60m), 3))
    s = [c(f"skips_20m.{i}", r20m) for i in range(3)]  # three convolutions of the input, side by side
    for i in range(3):
        o = c(f"down_20m.{i}", o + s[i])
    o, f = c("turn_20m", o), s[2]
    for i, skip in enumerate((s[1], s[0])):
        f = c(f"fuse_20m.{i}", f + skip)
        o = c(f"up_20m.{i}", o + f)
    o = c("merge_10m", up(o, 2) + c("enter_10m", r10m) + c("enter_20m_upsampled", up(r20m, 2)))
    t1 = c("skip_10m", r10m)
    o = c("down_10m", o + t1)
    t2 = c("second_skip_10m", t1)
    o = c("second_down_10m", o + t2)
    if network.variant == "reduced":
        o = c("turn_10m", o)
        f = c("fuse_10m", t2 + t1)
        o = c("up_10m", o + f)
    return torch.sigmoid(F.conv2d(o, state["head.weight"], state["head.bias"]))


@pytest.mark.parametrize("variant", ["full", "reduced"])
def test_the_network_is_the_papers_layer_by_layer(variant):
    torch.manual_seed(0)
    network = S2sucnnNetwork(BANDS, variant).double()
    for name, parameter in network.named_parameters():  # gains of one and biases of nought would hide a slip
        if "norm" in name or name.endswith("bias"):
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    arrays = inputs(12, dtype=torch.float64)
    output = network(*arrays)
    assert output.shape == (1, 12, 12, 12)
    torch.testing.assert_close(output, restated(network, *arrays))


@pytest.mark.parametrize("variant", ["full", "reduced"])
def test_the_radius_holds_all_that_a_pixel_depends_on_and_no_more(variant):
    torch.manual_seed(0)
    network = S2sucnnNetwork(BANDS, variant).double()
    reach, middle = radius(variant), 36
    arrays = [array.requires_grad_() for array in inputs(84, dtype=torch.float64)]
    network(*arrays)[0, :, middle : middle + 6, middle : middle + 6].sum().backward()
    farthest = 0
    for array, ratio in zip(arrays, (1, 2, 6), strict=True):
        rows = np.flatnonzero(array.grad.abs().sum(dim=(0, 1, 3)).numpy()) * ratio
        farthest = max(farthest, middle - rows.min(), rows.max() + ratio - (middle + 6))
    assert reach - 6 < farthest <= reach


def sample_of(cube):
    return Sample.of(as_cube(cube), seed=0)


def scene_of(cube, precision="float32", **options):
    recipe = S2sucnn(**QUICK | options)
    return _Scene(sample_of(cube), recipe, scale=1.0, context=FitContext(sensor=Sensor(), precision=precision))


class Truth(torch.nn.Module):
    """A network that gives one image whatever it sees."""

    def __init__(self, image):
        super().__init__()
        self.image = image

    def forward(self, r10m, r20m, r60m):
        return self.image


def degraded_scene(edge=96):
    """A truth in the network's order of bands, 60, 20 and 10 m, and the cube that the sensor sees of it."""
    truth = torch.from_numpy(np.random.default_rng(0).uniform(0.1, 0.9, (12, edge, edge)).astype(np.float32))
    sensor = Sensor()
    names = {gsd: BANDS_BY_GSD[gsd] for gsd in (10, 20, 60)}
    r60m, r20m, r10m = truth[:2], truth[2:8], truth[8:]
    cube = s2pipe.from_arrays(
        r10m.numpy(), sensor.degrade(r20m, names[20], 2).numpy(), sensor.degrade(r60m, names[60], 6).numpy()
    )
    return truth, cube


def test_the_loss_of_the_truth_is_nought_on_the_whole_scene():
    truth, cube = degraded_scene()
    scene = scene_of(cube, patch=None)
    network = Truth(truth[None])
    assert scene.loss(network, 1).item() < 1e-6 and scene.held_out_loss(network).item() < 1e-6


def test_the_loss_is_the_sum_of_the_mean_absolute_errors_of_the_resolutions():
    truth, cube = degraded_scene()
    scene = scene_of(cube, patch=None, held_out=0)
    offset = torch.tensor([0.3] * 2 + [0.2] * 6 + [0.1] * 4)[:, None, None]
    assert scene.loss(Truth((truth + offset)[None]), 1).item() == pytest.approx(0.3 + 0.2 + 0.1, rel=1e-4)


def test_the_degradation_stays_in_float32_where_the_network_does_not():
    skip_without("bfloat16")
    truth, cube = degraded_scene()
    assert scene_of(cube, patch=None, precision="bfloat16").loss(Truth(truth[None]), 1).item() < 1e-6


def test_patches_count_only_what_the_degradation_of_the_patch_alone_can_tell():
    truth, cube = degraded_scene(180)
    scene = scene_of(cube, patch=48)

    class Cut(torch.nn.Module):
        """The truth of the patch it is shown."""

        def forward(self, r10m, r20m, r60m):
            for y in range(0, 180 - 48 + 1, 6):
                for x in range(0, 180 - 48 + 1, 6):
                    if torch.equal(truth[8:, y : y + 48, x : x + 48], r10m[0]):
                        return truth[None, :, y : y + 48, x : x + 48]
            raise AssertionError("a patch off the lattice")

    losses = [scene.loss(Cut(), step).item() for step in range(1, 6)]
    assert max(losses) < 1e-6


def test_what_is_held_out_is_not_trained_on():
    _, cube = degraded_scene()
    scene = scene_of(cube, patch=None, held_out=0.1)
    for piece in scene.pieces:
        for gsd, held in piece.held_out.items():
            assert not (held & piece.trained[gsd]).any() and (held | piece.trained[gsd]).all()
            assert 0.03 < held.float().mean() < 0.2
        assert piece.trained[10].all() and 10 not in piece.held_out


def test_nodata_counts_neither_in_the_loss_nor_in_what_is_held_out():
    _, cube = degraded_scene()
    numbers = {name: cube[name]["reflectance"].values.copy() for name in cube.children}
    for array in numbers.values():
        array[..., : array.shape[2] // 4, :] = np.nan
    scene = scene_of(with_numbers(cube, **numbers), patch=None)
    for piece in scene.pieces:
        for gsd, trained in piece.trained.items():
            blank = slice(0, trained.shape[1] // 4)
            assert not trained[:, blank].any() and (gsd == 10 or not piece.held_out[gsd][:, blank].any())


def test_the_shipped_weights_are_those_that_meet_what_is_held_out_best():
    cube, options = random_cube(60, 60), {"steps": 27, "patch": 36, "batch": 1}
    with_rule = s2pipe.fit(cube, "s2sucnn", progress=quiet, **options)
    without = s2pipe.fit(cube, "s2sucnn", progress=quiet, held_out=0, **options)
    assert with_rule.kept_step == 25 and without.kept_step == 27
    assert with_rule.provenance()["kept_step"] == with_rule.kept_step


def test_training_meets_the_observation_better_and_goes_on_from_a_checkpoint(tmp_path):
    _, cube = degraded_scene(60)
    options = {"patch": 36, "batch": 1, "held_out": 0}
    short, resumed, whole = (
        s2pipe.fit(cube, "s2sucnn", progress=quiet, steps=steps, checkpoint=folder, **options)
        for steps, folder in ((2, tmp_path), (30, tmp_path), (30, None))
    )
    assert resumed.weights_sha256 == whole.weights_sha256 != short.weights_sha256
    first, last = (s2pipe.measure_consistency(s2pipe.sharpen(cube, s), cube)["rmse"].mean() for s in (short, resumed))
    assert last < 0.8 * first


def test_one_network_serves_all_chunks_and_dates():
    cube = random_cube(144, 144, dates=2)
    sharpener = s2pipe.fit(cube, "s2sucnn", progress=quiet, **QUICK)
    result, chunked = (s2pipe.sharpen(data, sharpener).compute() for data in (cube, with_chunks(cube, 72, 72)))
    assert np.abs(result.astype(int) - chunked.astype(int)).max() <= 1


@pytest.mark.parametrize(
    "options",
    [
        {"patch": 50},
        {"patch": 24},
        {"variant": "fr"},
        {"held_out": 1.0},
        {"held_out": "5%"},
        {"batch": 0},
        {"learning_rate": 0},
    ],
)
def test_bad_options_are_refused(options):
    with refused(*options, naming=tuple(options.values())):
        get_method("s2sucnn", **options)


def test_where_nothing_can_be_held_out_the_last_step_is_kept_and_that_is_said(caplog):
    sharpener = s2pipe.fit(random_cube(60, 60), "s2sucnn", progress=quiet, steps=26, patch=30, batch=1, held_out=1e-9)
    assert sharpener.kept_step == 26 and "the weights of the last step are kept" in caplog.text


def test_a_scene_smaller_than_any_patch_is_refused():
    with refused("data", naming=("24 px", "30 px")):
        s2pipe.fit(random_cube(24, 96), "s2sucnn", progress=quiet, steps=1)


@pytest.fixture
def narrow(monkeypatch):
    """The same network with an eighth of the features, which learns the geometry in a minute and not in hours."""
    monkeypatch.setattr(s2sucnn, "FEATURES", 16)


def geometry(sensor, steps):
    """Shift of each band of a simulated scene, sharpened at full resolution, against the 10 m bands."""
    scene = simulate_scene(240, seed=3)
    cube = s2pipe.from_arrays(scene.r10m, scene.r20m, scene.r60m, offset=-0.1)
    options = {"steps": steps, "patch": 48, "batch": 1, "learning_rate": 3e-3}
    sharpener = s2pipe.fit(cube, "s2sucnn", sensor=Sensor.named(sensor), progress=quiet, **options)
    return s2pipe.measure_geometry(s2pipe.sharpen(cube, sharpener).compute())


@pytest.mark.slow
def test_told_the_centre_it_shifts_nothing(narrow):
    # The training leaves each band some hundredths of its own; what the operator does, the bands of a resolution share. Of the
    # 60 m bands there are but two, which so short a training places to a tenth.
    shifts = geometry("centre", 600).groupby("gsd")[["dy", "dx"]].mean().abs().max(axis=1)
    assert shifts[20] <= 0.08 and shifts[60] <= 0.15


@pytest.mark.slow
def test_told_the_corner_it_shows_the_published_shifts(narrow):
    shifts = geometry("corner", 1000).groupby("gsd")[["dy", "dx"]].mean()
    # half a pixel for 20 m bands; for 60 m bands the operator says 2.5, of which the detail taken from the 10 m bands shows less
    np.testing.assert_allclose(shifts.loc[20], 0.5, atol=0.15)
    assert shifts.loc[60].between(0.4, 2.6).all()
