import numpy as np
import torch

from s2pipe.networks.resnet import ResNet, radius


def test_resnet_has_the_parameters_of_its_structure():
    # in: 3x3 (10 -> 64); 24 blocks of two 3x3 (64 -> 64), and two more of these after the blocks;
    # out: 3x3 (64 -> 128), 3x3 (128 -> 256), 3x3 (256 -> 6)
    expected = (10 * 9 + 1) * 64 + (2 * 24 + 2) * (64 * 9 + 1) * 64 + (64 * 9 + 1) * 128 + (128 * 9 + 1) * 256 + (256 * 9 + 1) * 6
    assert sum(p.numel() for p in ResNet(targets=6, companions=4).parameters()) == expected == 2_235_078


def test_resnet_adds_a_residual_to_the_target_bands():
    network = ResNet(2, 3, blocks=1)
    torch.nn.init.zeros_(network.head[-1].weight)
    torch.nn.init.zeros_(network.head[-1].bias)
    x = torch.rand(1, 5, 12, 9)
    torch.testing.assert_close(network(x), x[:, :2])


def test_resnet_agrees_with_its_description_computed_by_numpy():
    network = ResNet(2, 1, blocks=2)
    x = np.random.default_rng(0).random((3, 9, 8))
    convolutions = iter([m for m in network.modules() if isinstance(m, torch.nn.Conv2d)])

    def convolve(image):
        layer = next(convolutions)
        kernel, bias = (p.detach().double().numpy() for p in (layer.weight, layer.bias))
        windows = np.lib.stride_tricks.sliding_window_view(np.pad(image, ((0, 0), (1, 1), (1, 1))), (3, 3), axis=(1, 2))
        return np.einsum("iyxkl,oikl->oyx", windows, kernel, optimize=True) + bias[:, None, None]

    def leaky(image):
        return np.where(image > 0, image, 0.01 * image)

    first = features = leaky(convolve(x))
    for _ in range(2):
        features = features + convolve(leaky(convolve(features)))
    features = first + convolve(leaky(convolve(features)))
    expected = x[:2] + convolve(leaky(convolve(leaky(convolve(features)))))
    computed = network(torch.from_numpy(x.astype(np.float32))[None])[0].detach()
    np.testing.assert_allclose(computed, expected, atol=1e-5)
    assert next(convolutions, None) is None


def test_resnet_depends_on_nothing_beyond_its_radius():
    blocks = 2
    reach = radius(blocks)
    network = ResNet(2, 3, blocks).double()
    middle = reach + 2
    x = torch.rand(1, 5, 2 * middle + 1, 2 * middle + 1, dtype=torch.float64)
    y = x.clone()
    y[..., middle + reach + 1 :] += 1
    y[..., : middle - reach, :] += 1
    torch.testing.assert_close(network(x)[..., middle, middle], network(y)[..., middle, middle])
    y[..., middle, middle + reach] += 1
    assert not torch.equal(network(x)[..., middle, middle], network(y)[..., middle, middle])


def test_resnet_of_24_blocks_reaches_54_pixels():
    # the way in, two for each of 24 blocks, two after them, three out
    assert radius(24) == 1 + 48 + 2 + 3
