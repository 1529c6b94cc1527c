import pytest
from refusals import refused
from scenes import random_cube
from zarr.storage import MemoryStore

import s2pipe
from s2pipe import Sensor
from s2pipe.core.bands import BANDS
from s2pipe.core.errors import StoreError
from s2pipe.engine.fit import FitArguments
from s2pipe.jobs.kept_sharpener import check_same_fit, keep_sharpener, kept_sharpener
from s2pipe.simulation.fakes import FakeSharpener
from s2pipe.store.ledger import Ledger
from s2pipe.store.location import locate

ASKED = {"bands": [], "available": tuple(BANDS)}


@pytest.fixture
def location():
    location = locate(MemoryStore(), "T18SVG")
    Ledger.create(location, [(1,), (12,), (60,), (60,)])
    return location


@pytest.fixture(scope="module")
def fits():
    cube = random_cube(96, 96)
    return {seed: s2pipe.fit(cube, "resnet", steps=1, patches=48, blocks=1, seed=seed) for seed in (0, 1)}


def begin(location, sharpener):
    Ledger.open(location).begin_run({f"s2pipe_{name}": value for name, value in sharpener.provenance().items()})


def test_it_is_kept_as_it_is(location, fits):
    assert kept_sharpener(location) is None
    begin(location, fits[0])
    keep_sharpener(location, fits[0])
    kept = kept_sharpener(location)
    assert kept.provenance() == fits[0].provenance()


def test_that_of_the_last_run_is_used(location, fits):
    for sharpener in (fits[0], fits[1], fits[0]):
        begin(location, sharpener)
        keep_sharpener(location, sharpener)
        assert kept_sharpener(location).weights_sha256 == sharpener.weights_sha256


def test_a_run_that_broke_off_before_it_was_kept_has_none(location, fits):
    begin(location, fits[0])
    assert kept_sharpener(location) is None


def test_one_from_elsewhere_cannot_be_kept(location):
    keep_sharpener(location, FakeSharpener())
    assert list(Ledger.open(location).group) == ["chunks"]


@pytest.mark.parametrize(
    ("method", "sensor", "seed", "fact"),
    [
        ("glp", Sensor(), 0, "method was 'resnet', not 'glp'"),
        ("resnet", Sensor.named("box"), 0, "sensor was 'matched', not 'box'"),
        ("resnet", Sensor(), 3, "seed was 0, not 3"),
    ],
)
def test_another_fit_is_refused(location, fits, method, sensor, seed, fact):
    options = {"steps": 1, "patches": 48, "blocks": 1} if method == "resnet" else {}
    with refused("overwrite", "refit", kind=StoreError, naming=(location, fact)):
        check_same_fit(location, fits[0], FitArguments(method=method, sensor=sensor, seed=seed, options=options), **ASKED)


def test_a_scene_that_lacks_what_the_kept_one_needs_is_refused(location, fits):
    options = {"steps": 1, "patches": 48, "blocks": 1}
    arguments = FitArguments(method="resnet", options=options)
    with refused("data", "overwrite", "refit", kind=StoreError, naming=(location, "B01, B09")):
        check_same_fit(
            location, fits[0], arguments, bands=["B11"], available=[band for band in BANDS if band not in ("B01", "B09")]
        )
    check_same_fit(location, fits[0], arguments, bands=["B02"], available=["B02"])  # which is copied


def test_another_option_is_refused_and_the_same_ones_are_not(location, fits):
    options = {"steps": 1, "patches": 48, "blocks": 1}
    check_same_fit(location, fits[0], FitArguments(method="resnet", options=options), **ASKED)
    with refused("overwrite", "refit", kind=StoreError, naming=("steps was 1, not 2",)):
        check_same_fit(location, fits[0], FitArguments(method="resnet", options=options | {"steps": 2}), **ASKED)
