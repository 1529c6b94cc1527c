"""The workflow that trains the weights of mtf-resnet."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from s2pipe.fitting.sampling import Sample
from s2pipe.inputs.dataarray import as_cube
from s2pipe.inputs.files import read_scene
from s2pipe.methods.mtf_resnet.pretrained import load_pretrained

WORKFLOW = Path(__file__).parents[1] / "workflows" / "train_weights.py"
SEEN = ("usa", "bigearthnet")


def train(data_dir, out, *options):
    without = ["iceland", "coastal", "T33UUB", "T18SVG", "T48QUE", "T43RCP"]
    command = [sys.executable, WORKFLOW, "--out", out, "--data", data_dir, "--without", *without, *options]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.slow
def test_it_trains_without_what_is_left_out_and_follows_the_seed(data_dir, tmp_path):
    first, again, other = (tmp_path / f"{name}.safetensors" for name in ("first", "again", "other"))
    for out, seed in ((first, 0), (again, 0), (other, 1)):
        done = train(data_dir, out, "--steps", "3", "--seed", str(seed))
        assert done.returncode == 0, done.stderr
    found, same, different = map(load_pretrained, (first, again, other))
    assert found.stated["scenes"] == list(SEEN) and found.stated["steps"] == 3
    weights = [one.network.leave.weight for one in (found, same, different)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    cubes = [as_cube(read_scene(data_dir / "papers" / f"{name}.mat").cube) for name in ("usa", "iceland")]
    usa, iceland = (Sample.of(cube, seed=0).fingerprint() for cube in cubes)
    assert np.isin(found.fingerprint, usa).any() and not np.isin(found.fingerprint, iceland).any()


def test_what_it_does_not_know_is_named(data_dir, tmp_path):
    done = train(data_dir, tmp_path / "w.safetensors", "atlantis")
    assert done.returncode == 2 and "atlantis" in done.stderr and not list(tmp_path.iterdir())
