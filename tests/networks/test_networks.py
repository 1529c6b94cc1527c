import torch

from s2pipe.networks.ssc_cnn import RADIUS, SscCnnNetwork


def test_ssc_cnn_has_the_papers_parameters():
    # in: 3x3 (10 -> 128), two 3x3 (128 -> 128); two skips 1x1 (128 -> 25);
    # out: 3x3 (128 -> 128), two 3x3 (153 -> 128); head 1x1 (128 -> 6)
    expected = (
        (10 * 9 + 1) * 128
        + 2 * (128 * 9 + 1) * 128
        + 2 * (128 + 1) * 25
        + (128 * 9 + 1) * 128
        + 2 * (153 * 9 + 1) * 128
        + (128 + 1) * 6
    )
    assert sum(p.numel() for p in SscCnnNetwork(6, 4).parameters()) == expected == 814_392


def test_ssc_cnn_adds_a_residual_to_the_target_bands():
    network = SscCnnNetwork(2, 3)
    torch.nn.init.zeros_(network.head.weight)
    torch.nn.init.zeros_(network.head.bias)
    x = torch.rand(1, 5, 12, 9)
    torch.testing.assert_close(network(x), x[:, :2])


def test_ssc_cnn_depends_on_nothing_beyond_its_radius():
    network = SscCnnNetwork(2, 3).double()
    x = torch.rand(1, 5, 31, 31, dtype=torch.float64)
    y = x.clone()
    y[..., 15 + RADIUS + 1 :] += 1
    y[..., : 15 - RADIUS, :] += 1
    torch.testing.assert_close(network(x)[..., 15, 15], network(y)[..., 15, 15])
    y[..., 15, 15 + RADIUS] += 1
    assert not torch.equal(network(x)[..., 15, 15], network(y)[..., 15, 15])
