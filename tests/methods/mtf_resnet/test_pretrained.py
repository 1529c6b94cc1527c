import importlib
from pathlib import Path

import numpy as np
import pytest
import torch
from refusals import refused

from s2pipe import InputError
from s2pipe.core.tensor_files import write_tensors
from s2pipe.fitting.sampling import Sample
from s2pipe.fitting.training import seeded
from s2pipe.inputs.dataarray import as_cube
from s2pipe.inputs.files import read_scene
from s2pipe.methods.mtf_resnet.pretrained import FINGERPRINT_SHARE, SHIPPED, load_pretrained, new_network, save_pretrained


def test_what_is_saved_is_read_in_half_precision(tmp_path):
    with seeded(0):
        network = new_network()
    hashes = np.arange(0, 2**20, 7, dtype=np.uint64)
    save_pretrained(tmp_path / "w.safetensors", network, [hashes[:1000], hashes], {"scenes": ["one"]})
    found = load_pretrained(tmp_path / "w.safetensors")
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(found.network.state_dict()[name], tensor, atol=1e-3, rtol=1e-3)
    assert found.stated == {"scenes": ["one"]}
    assert np.isin(found.fingerprint, hashes).all()
    assert len(found.fingerprint) == pytest.approx(len(hashes) / FINGERPRINT_SHARE, rel=0.1)
    assert not any(parameter.requires_grad for parameter in found.network.parameters())


def test_the_shipped_weights_are_small_and_trained_on_every_scene(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[3] / "workflows"))
    assert SHIPPED.stat().st_size < 1_000_000
    assert load_pretrained().stated["scenes"] == list(importlib.import_module("train_weights").SCENES)


def test_the_shipped_weights_know_the_scenes_they_were_trained_on(data_dir):
    sample = Sample.of(as_cube(read_scene(data_dir / "crops" / "majortom_L2A_T48QUE_20200223").cube), seed=0)
    assert np.isin(load_pretrained().fingerprint, sample.fingerprint()).any()


def test_other_files_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"none\.safetensors"):
        load_pretrained(tmp_path / "none.safetensors")
    write_tensors(tmp_path / "a.safetensors", {"x": torch.zeros(1)}, {}, kind="something else")
    with pytest.raises(InputError, match="pretrained weights"):
        load_pretrained(tmp_path / "a.safetensors")
    tensors = {"network.x": torch.zeros(1), "fingerprint": torch.zeros(1, dtype=torch.uint64)}
    write_tensors(tmp_path / "b.safetensors", tensors, {}, kind="pretrained weights of s2pipe")
    with refused("path", naming=(tmp_path / "b.safetensors",)):
        load_pretrained(tmp_path / "b.safetensors")
