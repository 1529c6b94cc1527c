import numpy as np
import pytest
import torch
from papers import mean_sre, paper_scene, sre_between_cuts
from refusals import refused

from s2pipe import Sensor
from s2pipe.methods import get_method
from s2pipe.methods.classical.subspace import Observation, spectra
from s2pipe.methods.classical.supreme import ROUGHNESS_COSTS, SupremeSharpener


def sharpener_of(subspace, bands, iterations):
    count = len(bands)
    return SupremeSharpener(
        method="supreme", options={"smoothness": 0.05, "iterations": iterations}, seed=0, sensor=Sensor(), bands_in=bands,
        bands_out=bands[1:], halo=60, subspace=subspace, rms=torch.ones(count), edge_scale=torch.tensor(0.3),
    )  # fmt: skip


def test_admm_ends_where_the_cost_is_least():
    bands, shape = ("B04", "B05", "B11"), (12, 12)
    rng = np.random.default_rng(0)
    images = [torch.from_numpy(rng.random(tuple(n // r for n in shape)).astype(np.float32)) for r in (1, 2, 2)]
    subspace = torch.from_numpy(np.linalg.qr(rng.normal(size=(3, 2)))[0].astype(np.float32))
    weights = torch.from_numpy(rng.uniform(0.5, 1, shape).astype(np.float32))
    seen = Observation.of(bands, images, Sensor(), "cpu")
    found = sharpener_of(subspace, bands, 2000).solve(seen, weights)

    z = torch.zeros(2, *shape, requires_grad=True)

    def cost(z):
        x = spectra(subspace, z)
        misfit = ((x[0] - images[0]) ** 2).sum()
        for i in (1, 2):
            misfit = misfit + ((Sensor().degrade(x[i : i + 1], bands[i : i + 1], 2)[0] - images[i]) ** 2).sum()
        rough = sum(
            q * (weights[:-1] * torch.diff(image, dim=0) ** 2).sum() + q * (weights[:, :-1] * torch.diff(image, dim=1) ** 2).sum()
            for q, image in zip(ROUGHNESS_COSTS, z, strict=False)
        )
        return misfit / 2 + 0.05 * rough / 2

    optimiser = torch.optim.LBFGS([z], max_iter=500, tolerance_grad=1e-7, tolerance_change=1e-12, line_search_fn="strong_wolfe")
    optimiser.step(lambda: (optimiser.zero_grad(), (value := cost(z)).backward(), value)[2])
    torch.testing.assert_close(found, z.detach(), atol=5e-3, rtol=0)


@pytest.mark.parametrize(("name", "protocol", "expected"), [("iceland", "centre", 30.30), ("iceland-raw", "corner", 26.19)])
def test_figures_are_those_measured_elsewhere(data_dir, name, protocol, expected):
    assert mean_sre(paper_scene(data_dir, name), "supreme", protocol) == pytest.approx(expected, abs=0.12)


def test_blocks_hardly_matter(data_dir):
    assert sre_between_cuts(data_dir, "supreme") > 75  # dB: a few DN at most


@pytest.mark.parametrize("options", [{"smoothness": 0}, {"iterations": 0}, {"smoothness": "x"}])
def test_bad_options_are_refused(options):
    with refused(*options, naming=tuple(options.values())):
        get_method("supreme", **options)
