import pickle
from dataclasses import dataclass, replace

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from dask.tokenize import tokenize
from quick import DISTINCT, quick_options
from refusals import refused
from scenes import pixels_of, random_cube

import s2pipe
from s2pipe import InputError, Sensor, load_sharpener, save_sharpener
from s2pipe.core.bands import BANDS
from s2pipe.core.hashing import sha256_of
from s2pipe.core.tensor_files import read_tensors, write_tensors
from s2pipe.methods import METHODS, base
from s2pipe.methods.base import TorchSharpener
from s2pipe.methods.saving import KIND, sharpener_from_bytes, sharpener_to_bytes

OWN_MTF = Sensor(name="corner", mtf=tuple((band, 0.2 + 0.01 * i) for i, band in enumerate(BANDS)))


def fit(cube, method, **options):
    return s2pipe.fit(cube, method, progress=lambda *_: None, **quick_options(method) | options)


@pytest.fixture(scope="module")
def cube():
    return random_cube(96, 96)


@pytest.fixture(scope="module", params=DISTINCT)
def sharpener(request, cube):
    return fit(cube, request.param, sensor=OWN_MTF, seed=3)


@pytest.fixture
def restored(sharpener, tmp_path):
    save_sharpener(sharpener, tmp_path / "weights.safetensors")
    return load_sharpener(tmp_path / "weights.safetensors")


def test_all_that_a_sharpener_states_is_kept(sharpener, restored):
    assert type(restored) is type(sharpener)
    for name in ("method", "options", "seed", "sensor", "bands_in", "bands_out", "halo", "bicubic_bands"):
        assert getattr(restored, name) == getattr(sharpener, name), name
    assert restored.provenance() == sharpener.provenance()
    np.testing.assert_array_equal(restored.fingerprint, sharpener.fingerprint, strict=True)
    assert tokenize(restored) == tokenize(sharpener)


def test_options_may_be_numbers_of_numpy(cube, tmp_path):
    sharpener = fit(cube, "mtf-resnet", steps=np.int64(0), learning_rate=np.float32(0.5))
    save_sharpener(sharpener, tmp_path / "weights.safetensors")
    assert load_sharpener(tmp_path / "weights.safetensors").options == sharpener.options


def test_a_file_of_an_earlier_version_which_calls_the_sensor_a_protocol_is_read(cube, tmp_path):
    path = tmp_path / "weights.safetensors"
    sharpener = fit(cube, "glp", sensor=OWN_MTF)
    save_sharpener(sharpener, path)
    tensors, stated = read_tensors(path, kind=KIND)
    stated["sensor"] = {"protocol": stated["sensor"]["name"], "mtf": stated["sensor"]["mtf"]}
    write_tensors(path, tensors, stated, kind=KIND)
    assert load_sharpener(path).sensor == OWN_MTF


def test_what_it_makes_is_bit_identical(sharpener, restored):
    scene = random_cube(72, 60, seed=1)
    before, after = (s2pipe.sharpen(scene, one).compute() for one in (sharpener, restored))
    np.testing.assert_array_equal(after, before)
    assert after.attrs == before.attrs
    rng = np.random.default_rng(0)
    arrays = [rng.random((n, 60 * 10 // gsd, 72 * 10 // gsd), np.float32) for n, gsd in ((4, 10), (6, 20), (2, 60))]
    np.testing.assert_array_equal(restored(pixels_of(*arrays)), sharpener(pixels_of(*arrays)))


def test_its_weights_are_hashed_once(cube, monkeypatch):
    sharpener, hashed = fit(cube, "resnet"), []
    monkeypatch.setattr(base, "sha256_of", lambda *given: hashed.append(given) or sha256_of(*given))
    assert sharpener.provenance()["weights_sha256"] == sharpener.weights_sha256
    sent = pickle.loads(pickle.dumps(sharpener))
    assert tokenize(sent) == tokenize(sharpener)
    assert len(hashed) == 1


def test_another_sharpener_made_of_one_has_the_hash_of_its_own_weights(cube):
    sharpener, other = fit(cube, "resnet"), fit(cube, "resnet", seed=1)
    before = sharpener.weights_sha256
    assert replace(sharpener, networks=other.networks).weights_sha256 == other.weights_sha256 != before
    assert sharpener.to("cpu").weights_sha256 == before


def test_the_bytes_are_those_of_a_file(sharpener, tmp_path):
    save_sharpener(sharpener, tmp_path / "weights.safetensors")
    for content in (sharpener_to_bytes(sharpener), (tmp_path / "weights.safetensors").read_bytes()):
        restored = sharpener_from_bytes(content, name="these")
        assert restored.provenance() == sharpener.provenance()
        np.testing.assert_array_equal(restored.fingerprint, sharpener.fingerprint, strict=True)
    with refused("path", naming=("these",)):
        sharpener_from_bytes(content[:-1], name="these")


def test_saving_again_what_was_read_and_placed_on_a_device_keeps_it(restored, tmp_path):
    save_sharpener(restored.to("cpu"), tmp_path / "again.safetensors")
    assert load_sharpener(tmp_path / "again.safetensors").provenance() == restored.provenance()


def test_interpolated_bands_and_the_scene_that_was_fitted_on_are_remembered(cube, tmp_path):
    sharpener = fit(cube, "ssc-cnn")
    save_sharpener(sharpener, tmp_path / "weights.safetensors")
    restored = load_sharpener(tmp_path / "weights.safetensors")
    assert restored.bicubic_bands == ("B01", "B09") and set(restored.networks) == {20}
    assert s2pipe.evaluate(cube, [restored])["in_sample"].all()
    assert not s2pipe.evaluate(random_cube(96, 96, seed=1), [restored])["in_sample"].any()


@pytest.fixture(scope="module")
def fitted_resnet(cube):
    return fit(cube, "resnet")


@pytest.fixture
def saved(fitted_resnet, tmp_path):
    path = tmp_path / "weights.safetensors"
    save_sharpener(fitted_resnet, path)
    return path


def test_a_file_is_replaced_and_nothing_is_left_beside_it(saved, cube):
    save_sharpener(fit(cube, "glp"), str(saved))
    assert load_sharpener(str(saved)).method == "glp"
    assert list(saved.parent.iterdir()) == [saved]


@pytest.mark.parametrize("place", ["missing/a.safetensors", "file/a.safetensors", "folder.safetensors"])
def test_a_save_that_fails_says_so_and_leaves_nothing_behind(cube, tmp_path, place):
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "folder.safetensors").mkdir()
    before = sorted(tmp_path.rglob("*"))
    with refused("path", naming=(place,)):
        save_sharpener(fit(cube, "glp"), tmp_path / place)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["weights.pt", "weights", "weights.safetensors.gz"])
def test_another_suffix_is_refused(cube, tmp_path, name):
    with refused("path", naming=(name, ".safetensors")):
        save_sharpener(fit(cube, "bicubic"), tmp_path / name)


@dataclass(frozen=True, kw_only=True, eq=False)
class Foreign(TorchSharpener):
    """Made of this package's base class, but not one of its methods."""


def test_sharpeners_from_elsewhere_are_refused(cube, tmp_path):
    fields = {"sensor": Sensor(), "bands_in": ("B05",), "bands_out": ("B05",), "halo": 0}
    for foreign in (Foreign(method="mine", options={}, seed=0, **fields), object()):
        with refused("sharpener", naming=(type(foreign).__name__,)):
            save_sharpener(foreign, tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_missing_file_is_told(tmp_path):
    for path in (tmp_path / "missing.safetensors", tmp_path):
        with refused("path", naming=(path,)):
            load_sharpener(path)


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
def test_a_pickle_is_never_opened(tmp_path, name):
    torch.save({"weights": Trap(tmp_path / "sprung")}, tmp_path / name)
    with refused("path", naming=(tmp_path / name, "pickled")):
        load_sharpener(tmp_path / name)
    assert not (tmp_path / "sprung").exists()


def test_a_file_cut_short_is_refused(saved):
    whole = saved.read_bytes()
    for length in (0, 7, 100, len(whole) // 2, len(whole) - 1):
        saved.write_bytes(whole[:length])
        with refused("path", naming=(saved, "no safetensors file")):
            load_sharpener(saved)


def test_a_single_damaged_bit_is_noticed(saved):
    whole = saved.read_bytes()
    for place in (whole.index(b"B05") + 2, len(whole) // 2, len(whole) - 1):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        saved.write_bytes(damaged)
        with refused("path", naming=(saved, "damaged")):
            load_sharpener(saved)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_other_safetensors_are_refused(tmp_path, metadata):
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file({"x": torch.ones(3)}, path, metadata)
    with refused("path", naming=(path, KIND)):
        load_sharpener(path)


def restate(path, **changes):
    """Write the file's weights anew under a statement with `changes`."""
    tensors, stated = read_tensors(path, kind=KIND)
    write_tensors(path, tensors, stated | changes, kind=KIND)


def test_an_unknown_method_is_told(saved):
    restate(saved, method="lanczos")
    with refused("path", naming=(saved, "lanczos", *METHODS)):
        load_sharpener(saved)


RESNET = {"steps": 2, "patches": 48, "learning_rate": 4e-4, "blocks": 2}


@pytest.mark.parametrize(
    "changes",
    [
        {"options": RESNET | {"blocks": 3}},
        {"options": RESNET | {"blocks": 1}},
        {"options": RESNET | {"features": 64}},
        {"method": "ssc-cnn", "options": {"steps": 2, "patches": 48, "learning_rate": 4e-4}},
        {"method": "s2sucnn", "options": {"variant": "full"}},
        {"method": "glp", "options": {}},
        {"method": "dsen2", "options": {}},
        {"bands_in": ["B02", "B03", "B04", "B05"], "bands_out": ["B05"]},
    ],
)
def test_weights_of_another_architecture_are_refused(saved, changes):
    load_sharpener(saved)
    restate(saved, **changes)
    method = changes.get("method", "resnet")
    with refused("path", naming=(saved, method)):
        load_sharpener(saved)


def test_weights_that_a_method_would_leave_aside_are_refused(saved):
    restate(saved, method="bicubic", options={})
    with refused("path", naming=(saved, "bicubic", "it has no")):
        load_sharpener(saved)


def test_weights_for_other_bands_are_refused_where_they_are_used(saved):
    arrays = [random_cube()[name]["reflectance"].values for name in ("r10m", "r20m")]
    with pytest.raises(InputError, match="the Sharpener needs bands B01, B09, which the data lack; they have B02, B03"):
        s2pipe.sharpen(s2pipe.from_arrays(*arrays), load_sharpener(saved))
