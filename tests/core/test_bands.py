from s2pipe.core.bands import BAND_BY_KEY, BANDS, BANDS_BY_GSD, GSDS, node_name


def test_the_bands_of_each_resolution_are_in_the_order_of_cubes():
    assert {gsd: " ".join(BANDS_BY_GSD[gsd]) for gsd in GSDS} == {
        10: "B02 B03 B04 B08",
        20: "B05 B06 B07 B8A B11 B12",
        60: "B01 B09",
    }
    assert list(BANDS) == ["B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12"]
    assert [node_name(gsd) for gsd in GSDS] == ["r10m", "r20m", "r60m"]


def test_every_catalogs_name_leads_to_one_band():
    assert [BAND_BY_KEY[key] for key in ("B8A", "nir08", "B8A_20m", "b8a")] == ["B8A"] * 4
    assert "B02_20m" not in BAND_BY_KEY  # a resampled copy
    assert all(band.mtf_nyquist < 1 and 400 < band.wavelength_nm < 2300 for band in BANDS.values())
