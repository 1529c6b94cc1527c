import h5py
import numpy as np
import pytest
import torch
import xarray as xr
from keras_files import kernel_shapes, random_weights, write_keras_weights
from refusals import refused
from scenes import pixels_of, random_cube, with_numbers

import s2pipe
from s2pipe.methods.learned.dsen2 import Dsen2, bilinear_reach
from s2pipe.networks.dsen2 import Dsen2Network, load_keras_weights, radius


def convolve(image, kernel, bias):
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(image, ((0, 0), (1, 1), (1, 1))), (3, 3), axis=(1, 2))
    return np.einsum("iyxkl,klio->oyx", windows, kernel, optimize=True) + bias[:, None, None]


def forward(image, weights):
    """DSen2 in numpy, of (channel, y, x)."""
    first, *inner, last = weights
    features = np.maximum(convolve(image, *first), 0)
    for one, two in zip(inner[::2], inner[1::2], strict=True):
        features = features + 0.1 * convolve(np.maximum(convolve(features, *one), 0), *two)
    return image[-len(last[1]) :] + convolve(features, *last)


def test_the_networks_have_the_papers_parameters():
    # 3x3 (10 or 12 -> N); twice as many 3x3 (N -> N) as there are blocks; 3x3 (N -> 6 or 2)
    expected = {
        (6, 4, 128, 6): (10 * 9 + 1) * 128 + 12 * (128 * 9 + 1) * 128 + (128 * 9 + 1) * 6,
        (2, 10, 128, 6): (12 * 9 + 1) * 128 + 12 * (128 * 9 + 1) * 128 + (128 * 9 + 1) * 2,
        (6, 4, 256, 32): (10 * 9 + 1) * 256 + 64 * (256 * 9 + 1) * 256 + (256 * 9 + 1) * 6,
        (2, 10, 256, 32): (12 * 9 + 1) * 256 + 64 * (256 * 9 + 1) * 256 + (256 * 9 + 1) * 2,
    }
    assert list(expected.values()) == [1_789_574, 1_787_266, 37_802_246, 37_797_634]
    for (targets, companions, features, blocks), count in expected.items():
        with torch.device("meta"):
            network = Dsen2Network(targets, companions, features=features, blocks=blocks)
        assert sum(p.numel() for p in network.parameters()) == count


def test_a_new_network_is_he_uniform_without_biases():
    network = Dsen2Network(6, 4, features=64, blocks=1)
    for layer in (network.entry, network.blocks[0][0], network.head):
        bound = np.sqrt(6 / (layer.in_channels * 9))
        assert 0.95 * bound < layer.weight.abs().max() <= bound and not layer.bias.any()


def test_dsen2_depends_on_nothing_beyond_its_radius():
    reach = radius(2)
    network = Dsen2Network(2, 3, features=8, blocks=2).double()
    middle = reach + 2
    x = torch.rand(1, 5, 2 * middle + 1, 2 * middle + 1, dtype=torch.float64)
    y = x.clone()
    y[..., middle + reach + 1 :] += 1
    y[..., : middle - reach, :] += 1
    torch.testing.assert_close(network(x)[..., middle, middle], network(y)[..., middle, middle])
    y[..., middle, middle + reach] += 1
    assert not torch.equal(network(x)[..., middle, middle], network(y)[..., middle, middle])


@pytest.mark.parametrize("under", ["/", "model_weights"])
@pytest.mark.parametrize(
    ("inputs", "targets", "features", "blocks"), [(10, 6, 8, 2), (12, 2, 8, 2), (10, 6, 128, 6)], ids=["20m", "60m", "DSen2"]
)
def test_weights_of_keras_compute_what_numpy_computes(tmp_path, inputs, targets, features, blocks, under):
    weights = random_weights(kernel_shapes(inputs, targets, features=features, blocks=blocks))
    network = load_keras_weights(write_keras_weights(tmp_path / "weights.hdf5", weights, under=under))
    image = np.random.default_rng(1).random((inputs, 9, 7), np.float32)
    with torch.inference_mode():
        computed = network(torch.from_numpy(image)[None])[0].numpy()
    np.testing.assert_allclose(computed, forward(image.astype(np.float64), weights), rtol=1e-4, atol=1e-4)
    assert network.targets == targets and len(network.blocks) == blocks


def test_names_may_be_text_instead_of_bytes(tmp_path):
    path = write_keras_weights(tmp_path / "weights.hdf5", random_weights(kernel_shapes(10, 6)))
    expected = load_keras_weights(path).state_dict()
    with h5py.File(path, "a") as file:
        file.attrs["layer_names"] = [name.decode() for name in file.attrs["layer_names"]]
    for name, tensor in load_keras_weights(path).state_dict().items():
        assert torch.equal(tensor, expected[name])


AESR = [(3, 3, 10, 64), *[(3, 3, 64, 64)] * 3, (5, 5, 64, 6)]


@pytest.mark.parametrize(
    ("shapes", "found"),
    [
        (AESR, "3x3 from 10 to 64, 3 times 3x3 from 64 to 64, 5x5 from 64 to 6"),
        (kernel_shapes(10, 6)[:-2] + kernel_shapes(10, 6)[-1:], "3x3 from 10 to 8, 3 times 3x3 from 8 to 8, 3x3 from 8 to 6"),
        ([*kernel_shapes(10, 6)[:-1], (3, 3, 9, 6)], "3x3 from 9 to 6"),
        (kernel_shapes(10, 6)[:1], "3x3 from 10 to 8"),
        ([], "none"),
        (kernel_shapes(9, 6), "9 channels to 6"),
        (kernel_shapes(10, 2), "10 channels to 2"),
        (kernel_shapes(12, 6), "12 channels to 6"),
    ],
)
def test_weights_of_another_architecture_are_refused(tmp_path, shapes, found):
    path = write_keras_weights(tmp_path / "weights.hdf5", random_weights(shapes))
    with refused("path", naming=(path, found, "DSen2")):
        load_keras_weights(path)


@pytest.mark.parametrize("shapes", [[(10, 8), (8,)], [(3, 3, 10, 8), (9,)], [(3, 3, 10, 8)]], ids=["dense", "bias", "no bias"])
def test_layers_that_are_no_convolutions_with_a_bias_are_refused(tmp_path, shapes):
    first = [np.zeros(shape, np.float32) for shape in shapes]
    path = write_keras_weights(tmp_path / "weights.hdf5", [first, *random_weights(kernel_shapes(10, 6)[1:])])
    with refused("path", naming=(path, "conv2d_9")):
        load_keras_weights(path)


def test_files_that_keras_did_not_write_are_refused(tmp_path):
    (tmp_path / "text.hdf5").write_text("no HDF5")
    for name in ("text.hdf5", "missing.hdf5", "."):
        with refused("path", naming=(tmp_path / name, "HDF5")):
            load_keras_weights(tmp_path / name)
    with h5py.File(tmp_path / "other.hdf5", "w") as file:
        file["im10"] = np.zeros((4, 6, 6))
    with refused("path", naming=("other.hdf5", "layer_names")):
        load_keras_weights(tmp_path / "other.hdf5")
    path = write_keras_weights(tmp_path / "holed.hdf5", random_weights(kernel_shapes(10, 6)))
    with h5py.File(path, "a") as file:
        del file["conv2d_10"]
    with refused("path", naming=(path, "conv2d_10")):
        load_keras_weights(path)


BANDS_20M = ("B05", "B06", "B07", "B8A", "B11", "B12")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Small networks of the authors' layout, by GSD: their weights and the path of their file."""
    folder = tmp_path_factory.mktemp("weights")
    weights = {20: random_weights(kernel_shapes(10, 6)), 60: random_weights(kernel_shapes(12, 2), seed=1)}
    return {gsd: (own, write_keras_weights(folder / f"{gsd}m.hdf5", own)) for gsd, own in weights.items()}


@pytest.fixture(scope="module")
def method(files):
    return Dsen2(weights_20m=files[20][1], weights_60m=files[60][1])


@pytest.fixture(scope="module")
def cube():
    return random_cube(60, 48)


def reflectances(height, width, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.random((n, height * 10 // gsd, width * 10 // gsd), np.float32) for n, gsd in ((4, 10), (6, 20), (2, 60))]


def bilinear(coarse, ratio):
    def along(line):
        places = (np.arange(len(line) * ratio) + 0.5) / ratio - 0.5
        return np.interp(places, np.arange(len(line)), line)

    return np.apply_along_axis(along, 2, np.apply_along_axis(along, 1, coarse))


def test_the_sharpener_feeds_the_networks_what_they_were_trained_with(method, files, cube):
    r10m, r20m, r60m = reflectances(24, 18)
    blue, green, red, near_infrared = r10m
    channels = np.concatenate([np.stack([red, green, blue, near_infrared]), bilinear(r20m, 2), bilinear(r60m, 6)])
    expected = np.concatenate(
        [forward(channels[:10] / 0.2, files[20][0]) * 0.2, forward(channels / 0.2, files[60][0]) * 0.2]  # 2000 DN of 1e-4
    )
    sharpener = s2pipe.fit(cube, method)
    np.testing.assert_allclose(sharpener(pixels_of(r10m, r20m, r60m)), expected, atol=1e-4)
    assert sharpener.bands_out == (*BANDS_20M, "B01", "B09") and sharpener.bicubic_bands == ()


def test_the_halo_holds_all_that_a_pixel_depends_on(method, cube):
    sharpener = s2pipe.fit(cube, method)
    # two blocks reach 6 pixels; bilinear interpolation 2 more from 20 m, 8 more from 60 m
    assert (bilinear_reach(2), bilinear_reach(6), sharpener.halo) == (2, 8, 18)
    arrays = reflectances(90, 90)
    changed = [a.copy() for a in arrays]
    for array, ratio in zip(changed, (1, 2, 6), strict=True):
        reach = slice((42 - sharpener.halo) // ratio, (48 + sharpener.halo) // ratio)
        kept = array[:, reach, reach].copy()
        array += 1
        array[:, reach, reach] = kept
    before, after = (sharpener(pixels_of(*a))[:, 42:48, 42:48] for a in (arrays, changed))
    np.testing.assert_allclose(after, before, atol=1e-5)


@pytest.mark.parametrize("ratio", [2, 6])
def test_bilinear_interpolation_reaches_as_far_as_stated(ratio):
    coarse = np.zeros((1, 5, 5))
    coarse[0, 2, 2] = 1
    touched = np.flatnonzero(bilinear(coarse, ratio)[0, :, 5 * ratio // 2])
    first, last = 2 * ratio, 3 * ratio - 1  # fine pixels of the coarse one
    assert max(last - touched[0], touched[-1] - first) == bilinear_reach(ratio)


def test_pretrained_networks_take_nothing_from_the_scene(method, cube):
    first, other = s2pipe.fit(cube, method, seed=0), s2pipe.fit(random_cube(60, 48, seed=1), method, seed=1)
    assert first.weights_sha256 == other.weights_sha256 and first.fingerprint.size == 0


@pytest.mark.parametrize(("gsd", "interpolated"), [(20, ("B01", "B09")), (60, BANDS_20M)])
def test_bands_without_weights_are_interpolated_and_named(files, cube, caplog, gsd, interpolated):
    alone = Dsen2(**{f"weights_{gsd}m": files[gsd][1]})
    sharpener = s2pipe.fit(cube, alone)
    assert sharpener.bicubic_bands == interpolated and f"{', '.join(interpolated)}, or not all it needs" in caplog.text
    result, bicubic = (s2pipe.sharpen(cube, s).compute().astype(int) for s in (sharpener, "bicubic"))
    coarse = [*BANDS_20M, "B01", "B09"]
    same = np.abs(result - bicubic).max(("time", "y", "x")) <= 1
    assert [band for band in coarse if same.sel(band=band)] == list(interpolated)


def without(cube, *bands):
    kept = {name: cube[name].to_dataset() for name in cube.children}
    return xr.DataTree.from_dict(
        {name: node.sel(band=[b for b in node["band"].values if b not in bands]) for name, node in kept.items()}
    )


def test_missing_bands_are_named(method, cube):
    with refused("data", naming=("B03, B8A, B12",)):
        s2pipe.fit(without(cube, "B03", "B8A", "B12"), method)
    numbers = cube["r20m"]["reflectance"].values.copy()
    numbers[:, 1] = 0
    with refused("data", naming=("B06",)):
        s2pipe.fit(with_numbers(cube, r20m=numbers), method)


def test_half_of_the_60_m_bands_are_interpolated_and_none_are_not_missed(method, cube):
    assert s2pipe.fit(without(cube, "B01"), method).bicubic_bands == ("B09",)
    result = s2pipe.sharpen(cube, method, bands=["B02", "B05"])
    assert "s2pipe_bicubic_bands" not in result.attrs and (result.compute() > 0).all()


def test_unusable_options_are_refused(files, cube):
    with refused("weights_20m", "weights_60m"):
        Dsen2()
    with refused("weights_20m", naming=(20,)):
        Dsen2(weights_20m=20)
    with refused("weights_20m", naming=("2 bands", "6 bands")):
        s2pipe.fit(cube, Dsen2(weights_20m=files[60][1]))
    with refused("weights_60m", naming=("missing.hdf5",)):
        s2pipe.fit(cube, Dsen2(weights_60m="missing.hdf5"))
