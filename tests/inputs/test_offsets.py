"""Encodings and what an item's numbers mean."""

import datetime as dt
import logging
from typing import Any

import dask.array as da
import numpy as np
import pystac
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from refusals import refused

from s2pipe.core.encoding import PRESENT_ENCODING, Encoding
from s2pipe.core.errors import InputError
from s2pipe.inputs.offsets import processing_baseline, resolve_offset, shift_to_present

# ---- Encoding ----


@given(hnp.arrays(np.uint16, 64, elements=st.integers(1, 65534)), st.sampled_from([0.0, -0.1]))
def test_every_valid_dn_survives_decode_and_encode(dn: Any, offset: float) -> None:
    encoding = Encoding.default(np.uint16, offset=offset)
    np.testing.assert_array_equal(encoding.encode(encoding.decode(dn)), dn)


@given(hnp.arrays(np.float32, 64, elements=st.floats(-100, 100, width=32)))
def test_encode_never_wraps_and_never_gives_nodata_or_saturation(reflectance: Any) -> None:
    dn = PRESENT_ENCODING.encode(reflectance).astype(np.int64)
    assert dn.min() >= 1
    assert dn.max() <= 65534
    expected = np.clip(np.rint((reflectance.astype(np.float64) + 0.1) / 1e-4), 1, 65534)
    np.testing.assert_array_equal(dn, expected)


@given(hnp.arrays(np.float32, 64, elements=st.floats(-10, 10, width=32)))
def test_floats_survive_unchanged(reflectance: Any) -> None:
    encoding = Encoding.default(np.float32)
    np.testing.assert_array_equal(encoding.encode(encoding.decode(reflectance)), reflectance)


def test_uint16_underflow_and_overflow_are_clipped() -> None:
    reflectance = np.array([-5.0, -0.1, -0.09996, 0.0, 6.4533, 6.4534, 6.4535, 50.0], np.float32)
    assert PRESENT_ENCODING.encode(reflectance).tolist() == [1, 1, 1, 1000, 65533, 65534, 65534, 65534]


def test_nodata_and_saturated_pixels_measure_nothing() -> None:
    decoded = PRESENT_ENCODING.decode(np.array([0, 1, 1000, 65534, 65535], np.uint16))
    assert np.isnan(decoded).tolist() == [True, False, False, False, True]
    np.testing.assert_allclose(decoded[1:4], [-0.0999, 0.0, 6.4534], atol=1e-6)


def test_int16_keeps_clear_of_its_own_nodata() -> None:
    encoding = Encoding.default(np.int16, nodata=-9999)
    assert encoding.encode(np.array([-9, -0.9999, -0.99994, 3.0, 9.0])).tolist() == [-32768, -9998, -9998, 30000, 32767]


@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        (np.complex64, {}),
        (bool, {}),
        (np.uint16, {"scale": 0.0}),
        (np.uint16, {"scale": float("nan")}),
        (np.float32, {"offset": float("inf")}),
        (np.uint16, {"nodata": -1}),
        (np.uint16, {"nodata": 65536}),
        (np.uint16, {"nodata": float("nan")}),
        (np.int16, {"nodata": 0.5}),
    ],
)
def test_encodings_that_mean_nothing_are_refused(dtype: Any, options: dict[str, float]) -> None:
    with pytest.raises(InputError):
        Encoding.default(dtype, **options)


def test_attrs_round_trip() -> None:
    for encoding in (PRESENT_ENCODING, Encoding.default(np.int16, scale=2e-4, offset=0.5, nodata=-1)):
        assert Encoding.from_attrs(encoding.dtype, encoding.attrs()) == encoding


# ---- the offset of an item ----


def make_item(properties: dict[str, Any], *, raster_offset: float | None = None, item_id: str = "an-item") -> pystac.Item:
    item = pystac.Item(item_id, None, None, dt.datetime(2024, 1, 1, tzinfo=dt.UTC), properties)
    if raster_offset is not None:
        bands = [{"scale": 0.0001, "offset": raster_offset}]
        item.add_asset("blue", pystac.Asset("blue.tif", extra_fields={"raster:bands": bands}))
        item.add_asset("aot", pystac.Asset("aot.tif", extra_fields={"raster:bands": [{"offset": 7}]}))
    return item


ES, ES0, PC, CDSE, RODA = (
    "s2:processing_baseline",
    "sentinel:processing_baseline",
    "s2:processing_baseline",
    "processing:version",
    "sentinel2:processing_baseline",
)
FLAG, FLAG0 = "earthsearch:boa_offset_applied", "sentinel:boa_offset_applied"


@pytest.mark.parametrize(
    ("properties", "raster_offset", "expected"),
    [
        # Earth Search v1: the flag decides, whatever raster:bands says
        ({ES: "02.14", FLAG: False}, 0, 0.0),
        ({ES: "03.01", FLAG: False}, 0, 0.0),
        ({ES: "03.01", FLAG: True}, 0, 0.0),
        ({ES: "04.00", FLAG: True}, -0.1, 0.0),
        ({ES: "05.10", FLAG: True}, -0.1, 0.0),
        ({ES: "05.10", FLAG: True}, 0, 0.0),
        ({ES: "04.00", FLAG: False}, -0.1, -0.1),
        ({ES: "05.11", FLAG: False}, -0.1, -0.1),
        ({ES: "05.11"}, -0.1, -0.1),
        # Earth Search v0
        ({ES0: "04.00", FLAG0: True}, None, 0.0),
        ({ES0: "04.00", FLAG0: False}, None, -0.1),
        ({ES0: "02.12"}, None, 0.0),
        # Planetary Computer: the baseline is all there is
        ({PC: "02.12"}, None, 0.0),
        ({PC: "03.01"}, None, 0.0),
        ({PC: "04.00"}, None, -0.1),
        ({PC: "05.11"}, None, -0.1),
        # CDSE and EOPF
        ({CDSE: "02.14"}, 0, 0.0),
        ({CDSE: "05.00"}, -0.1, -0.1),
        ({CDSE: "05.12"}, -0.1, -0.1),
        # stactools
        ({RODA: "02.09"}, None, 0.0),
        ({RODA: "05.09"}, -0.1, -0.1),
        # the product name where no property says it
        ({"s2:product_uri": "S2B_MSIL2A_20230820T094549_N0509_R079_T33TWM_20230820T124817.SAFE"}, None, -0.1),
        ({"sentinel:product_id": "S2A_MSIL2A_20190106T155441_N0211_R054_T17SPR_20190106T204155"}, None, 0.0),
    ],
)
def test_offset_of_each_catalog_baseline_and_flag(
    properties: dict[str, Any], raster_offset: float | None, expected: float
) -> None:
    assert resolve_offset(make_item(properties, raster_offset=raster_offset)).offset == expected


@pytest.mark.parametrize(
    ("properties", "item_id"),
    [
        ({}, "no-baseline"),
        ({"processing:version": "v2"}, "no-baseline"),
        ({"s2:processing_baseline": "99.99"}, "test-reprocessing"),
        ({"s2:processing_baseline": "99.99", FLAG: True}, "test-reprocessing"),
        ({}, "S2B_MSIL2A_20200223T032739_N9999_R018_T48QUE_20230924T183543"),
        ({"s2:processing_baseline": "05.00"}, "S2B_MSIL2A_20200223T032739_N9999_R018_T48QUE_20230924T183543"),
    ],
)
@pytest.mark.parametrize("override", [0.0, -0.1])
def test_an_unknown_baseline_needs_the_override(properties: dict[str, Any], item_id: str, override: float) -> None:
    item = make_item(properties, item_id=item_id)
    with refused("offset", naming=(item_id, "offset=-0.1", "offset=0.0")):
        resolve_offset(item)
    assert resolve_offset(item, override).offset == override


@pytest.mark.parametrize("override", [-1000, 1000, 0.1, -0.05, float("nan")])
def test_an_override_that_is_no_reflectance_offset_is_refused(override: float) -> None:
    with refused("offset", naming=(override, 0.0, -0.1)):
        resolve_offset(make_item({PC: "05.11"}), override)


def test_the_override_wins_over_flag_and_baseline() -> None:
    assert resolve_offset(make_item({ES: "05.10", FLAG: True}, raster_offset=-0.1), -0.1).offset == -0.1
    assert resolve_offset(make_item({PC: "05.10"}), 0.0).offset == 0.0


@pytest.mark.parametrize(("baseline", "raster_offset", "used"), [("05.11", 0, -0.1), ("02.14", -0.1, 0.0)])
def test_a_raster_offset_that_contradicts_the_baseline_is_not_used_but_warned_of(
    baseline: str, raster_offset: float, used: float, caplog: pytest.LogCaptureFixture
) -> None:
    assert resolve_offset(make_item({PC: baseline}, raster_offset=raster_offset)).offset == used
    [warning] = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert all(part in warning.getMessage() for part in ("an-item", baseline, f"{raster_offset:g}", "offset="))


def test_each_decision_is_logged_on_one_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    resolve_offset(make_item({ES: "05.10", FLAG: True}, raster_offset=-0.1))
    [record] = caplog.records
    assert "an-item" in record.getMessage()
    assert "boa_offset_applied" in record.getMessage()


def test_baseline_comes_from_a_property_before_the_name() -> None:
    item = make_item({CDSE: "05.12"}, item_id="S2C_MSIL2A_20260527T014651_N0511_R017_T55WFR_20260527T042005")
    assert processing_baseline(item) == "05.12"


# ---- to the present encoding ----

EDGES = np.array([0, 1, 999, 1000, 1001, 64533, 64534, 64535, 64536, 65534, 65535], np.uint16)


@pytest.mark.parametrize("lazy", [False, True])
def test_old_dn_move_up_without_wrapping_and_marks_stay(lazy: bool) -> None:
    dn = da.from_array(EDGES, chunks=4) if lazy else EDGES
    shifted = shift_to_present(dn, 0.0)
    assert shifted.dtype == np.uint16
    assert isinstance(shifted, da.Array) == lazy
    assert np.asarray(shifted).tolist() == [0, 1001, 1999, 2000, 2001, 65533, 65534, 65534, 65534, 65534, 65535]


def test_present_dn_are_untouched() -> None:
    np.testing.assert_array_equal(shift_to_present(EDGES, -0.1), EDGES)


@given(hnp.arrays(np.uint16, 64))
def test_shifting_keeps_reflectance_wherever_it_fits(dn: Any) -> None:
    shifted = shift_to_present(dn, 0.0)
    fits = (dn > 0) & (dn <= 64534)
    before, after = Encoding.default(np.uint16).decode(dn), PRESENT_ENCODING.decode(shifted)
    np.testing.assert_allclose(after[fits], before[fits], atol=2e-6)
    np.testing.assert_array_equal(np.isnan(after), np.isnan(before))


def test_other_dtypes_and_offsets_are_refused() -> None:
    with refused("dn", naming=("int16",)):
        shift_to_present(EDGES.astype(np.int16), 0.0)
    with refused("offset", naming=("-1000",)):
        shift_to_present(EDGES, -1000)
