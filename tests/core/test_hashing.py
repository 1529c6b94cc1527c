import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from s2pipe.core.hashing import sha256_of

ARRAYS = hnp.arrays(np.float32, hnp.array_shapes(max_dims=3, max_side=4), elements=st.floats(-2, 2, width=32))


def test_the_hash_is_the_same_in_every_process_and_version():
    arrays = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.array([True, False])}
    assert sha256_of(arrays, "fact", 1) == "12ea6402d1b7c6076f18f24b0145d460caad770dd6f58232f3d23c677d03bf9b"


@given(ARRAYS, ARRAYS)
def test_neither_the_order_of_names_nor_the_layout_in_memory_matters(one, two):
    spread = np.zeros((*two.shape[:-1], 2 * two.shape[-1]), np.float32)[..., ::2]
    spread[...] = two
    assert sha256_of({"one": one, "two": two}) == sha256_of({"two": spread, "one": np.asfortranarray(one)})


@given(ARRAYS, st.data())
def test_a_single_other_number_is_told(array, data):
    place = data.draw(st.integers(0, array.size - 1))
    changed = array.copy()
    changed.flat[place] = np.nextafter(changed.flat[place], np.float32(3))
    assert sha256_of({"x": changed}) != sha256_of({"x": array})


def test_another_name_shape_dtype_or_fact_is_told():
    numbers = np.arange(6, dtype=np.float32)
    hashes = [
        sha256_of({"x": numbers}),
        sha256_of({"y": numbers}),
        sha256_of({"x": numbers.reshape(2, 3)}),
        sha256_of({"x": numbers.reshape(3, 2)}),
        sha256_of({"x": numbers.view(np.int32)}),
        sha256_of({"x": numbers[:5]}),
        sha256_of({"x": numbers, "y": numbers}),
        sha256_of({"x": numbers}, "a"),
        sha256_of({"x": numbers}, "a", "b"),
        sha256_of({"x": numbers}, "b", "a"),
    ]
    assert len(set(hashes)) == len(hashes)
