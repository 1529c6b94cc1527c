import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from quick import WITHOUT_BFLOAT16, skip_without
from refusals import refused
from scenes import random_cube

import s2pipe
from s2pipe.core.precision import check_precision, choose_precision, computing_in


def test_other_precisions_are_refused(monkeypatch):
    with refused("precision", naming=("'float16'", "'auto', 'float32', 'bfloat16'")):
        check_precision("float16")
    monkeypatch.setenv("S2PIPE_PRECISION", "half")
    with refused(naming=("S2PIPE_PRECISION", "'half'")):
        choose_precision("auto", "cpu")
    monkeypatch.setenv("S2PIPE_PRECISION", "")  # as good as not set
    assert choose_precision("auto", "cpu") in ("float32", "bfloat16")
    for function in (s2pipe.sharpen, s2pipe.fit, s2pipe.evaluate):
        with refused("precision", naming=("'half'",)):
            function(random_cube(96, 96), "glp", precision="half")


def test_the_variable_replaces_auto_only(monkeypatch, precision):
    monkeypatch.setenv("S2PIPE_PRECISION", precision)
    assert choose_precision("auto", "cpu") == precision
    assert choose_precision("float32", "cpu") == "float32"


def test_without_the_variable_the_processor_decides_and_always_alike(monkeypatch):
    monkeypatch.delenv("S2PIPE_PRECISION", raising=False)
    assert len({choose_precision("auto", "cpu") for _ in range(20)}) == 1
    with torch.device("meta"):  # on which nothing can be computed, timed least of all
        choose_precision("auto", "cpu")


def test_a_network_computes_in_the_precision_named(precision):
    layer = torch.nn.Conv2d(1, 1, 1)
    with computing_in(precision, torch.device("cpu")):
        assert layer(torch.ones(1, 1, 8, 8)).dtype == getattr(torch, precision)


JOB = """
import sys
import s2pipe
from s2pipe.core.precision import choose_precision
from scenes import random_cube

sharpener = s2pipe.load_sharpener(sys.argv[1])
assert choose_precision("auto", "cpu") == "float32"
for options in ({}, {"precision": "float32"}):
    try:
        lazy = s2pipe.sharpen(random_cube(96, 96), sharpener, **options)
        lazy.compute()
        print("computed")
    except s2pipe.InputError as error:
        print(*error.arguments, "after" if "lazy" in globals() else "before")
"""


@pytest.mark.skipif(not torch.cpu._is_avx512_supported(), reason="oneDNN obeys ONEDNN_MAX_CPU_ISA on x86 with AVX-512")
def test_a_machine_that_cannot_compute_in_the_precision_of_the_weights_says_so_and_the_cure_works(tmp_path):
    skip_without("bfloat16")
    path = tmp_path / "weights.safetensors"
    s2pipe.save_sharpener(s2pipe.fit(random_cube(96, 96), "mtf-resnet", precision="bfloat16"), path)
    environment = {name: value for name, value in os.environ.items() if name != "S2PIPE_PRECISION"}
    done = subprocess.run(
        [sys.executable, "-c", JOB, path],
        env=environment | WITHOUT_BFLOAT16 | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == ["precision refit overwrite before", "computed"]


def test_another_precision_changes_a_fitted_sharpener_and_what_is_stated(precision):
    cube = random_cube(96, 96)
    own = s2pipe.fit(cube, "mtf-resnet", precision="float32")
    assert s2pipe.sharpen(cube, own).attrs["s2pipe_precision"] == "float32"
    result = s2pipe.sharpen(cube, own, precision=precision)
    assert result.attrs["s2pipe_precision"] == precision
    assert np.array_equal(result.values, s2pipe.sharpen(cube, own).values) == (precision == "float32")
