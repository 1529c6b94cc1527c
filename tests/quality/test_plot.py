import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from refusals import refused

from s2pipe.core.bands import BANDS_BY_GSD
from s2pipe.quality.plot import busiest_part, check_picture_path, draw_evaluation, save_evaluation


def image(pixels, bands):
    _, height, width = pixels.shape
    return xr.DataArray(pixels, dims=("band", "y", "x"), coords={"band": list(bands), "y": range(height), "x": range(width)})


def noise(bands=BANDS_BY_GSD[20], edge=48, seed=0):
    return image(np.random.default_rng(seed).random((len(bands), edge, edge), np.float32), bands)


# The part that is shown


@pytest.mark.parametrize(
    ("bands", "shown"),
    [
        (BANDS_BY_GSD[20], ["B12", "B8A", "B05"]),
        (("B05", "B06", "B12"), ["B12"]),
        (("B06", "B07"), ["B06"]),
        (BANDS_BY_GSD[60], ["B09"]),
        (("B01",), ["B01"]),
    ],
)
def test_the_composite_is_the_first_that_there_is(bands, shown):
    assert list(busiest_part(noise(bands))["band"].values) == shown


@given(st.integers(0, 3), st.integers(0, 3), st.integers(0, 9))
def test_the_part_is_where_the_detail_is(row, column, seed):
    pixels = np.full((1, 80, 80), 0.5, np.float32)
    pixels[:, 20 * row : 20 * row + 20, 20 * column : 20 * column + 20] = noise(("B09",), 20, seed)
    part = busiest_part(image(pixels, ["B09"]), edge=20)
    assert part.shape == (1, 20, 20)
    assert (part["y"][0], part["x"][0]) == (20 * row, 20 * column)


def test_invalid_pixels_are_no_detail():
    pixels = noise(("B09",), 80).values
    pixels[:, :40] = np.nan
    pixels[:, 40:, :40] = 0.5
    part = busiest_part(image(pixels, ["B09"]), edge=40)
    assert (part["y"][0], part["x"][0]) == (40, 40)


def test_a_small_image_is_shown_whole():
    assert busiest_part(noise(edge=12)).shape == (3, 12, 12)


# The picture


def comparison(means, *, in_sample=(), interpolated=(), edge=24):
    """A table, a truth, and estimates of methods with these SREs."""
    bands = BANDS_BY_GSD[20]
    scores = pd.DataFrame(
        [
            {"method": method, "band": band, "sre_db": mean + offset}
            for method, mean in means.items()
            for band, offset in zip((*bands, "all"), (-3, -2, -1, 1, 2, 3, 0), strict=True)
        ]
    ).assign(sensor="box", gsd=20)
    scores["in_sample"] = scores["method"].isin(in_sample)
    scores["interpolated"] = scores["method"].isin(interpolated)
    truth = busiest_part(noise(edge=edge))
    return scores, truth, {method: truth + 10 ** (-mean / 20) for method, mean in means.items()}


def chart_of(figure):
    return figure.subfigs[0].axes[0]


def titled(figure):
    """The images by their title, and the errors below them."""
    axes = [axis for axis in figure.subfigs[1].axes if axis.get_subplotspec()]
    columns = axes[0].get_subplotspec().get_gridspec().ncols
    titles = {axis.get_title(): i for i, axis in enumerate(axes) if axis.get_title()}
    return {title: (axes[i], axes[i + columns]) for title, i in titles.items()}


def test_the_methods_stand_in_the_order_of_their_means():
    figure = draw_evaluation(*comparison({"bicubic": 20.0, "atprk": 30.0, "glp": 25.0}))
    assert [label.get_text() for label in chart_of(figure).get_yticklabels()] == ["atprk", "glp", "bicubic"]
    assert [text.get_text() for text in chart_of(figure).texts] == ["30.00", "25.00", "20.00"]
    assert list(titled(figure)) == ["truth", "atprk", "glp", "bicubic"]


def test_the_chart_has_a_dot_for_each_method_and_band():
    lines = {line.get_label(): line for line in chart_of(draw_evaluation(*comparison({"a": 20.0, "b": 30.0}))).lines}
    assert list(lines) == [*BANDS_BY_GSD[20], "mean"]
    assert list(lines["B05"].get_xdata()) == [27, 17] and list(lines["B12"].get_xdata()) == [33, 23]
    assert list(lines["mean"].get_xdata()) == [30, 20] and list(lines["mean"].get_ydata()) == [0, 1]


def test_what_to_know_of_a_method_stands_beside_its_name():
    scores, truth, estimates = comparison({"a": 3.0, "b": 2.0, "c": 1.0}, in_sample=["a"], interpolated=["a", "c"])
    figure = draw_evaluation(scores, truth, estimates)
    assert list(titled(figure)) == ["truth", "a (in-sample) (interpolated)", "b", "c (interpolated)"]


def test_errors_are_absolute_and_on_one_scale():
    scores, truth, estimates = comparison({"low": 20.0, "high": 40.0})
    estimates["low"] = 2 * truth - estimates["low"]  # now below the truth as far as it was above
    shown = titled(draw_evaluation(scores, truth, estimates))
    for method, expected in (("low", 0.1), ("high", 0.01)):
        _, error = shown[method]
        np.testing.assert_allclose(error.images[0].get_array(), expected, rtol=1e-4)
        assert error.get_xlabel() == f"{expected:.4f}"
        assert error.images[0].get_clim() == pytest.approx((0, 0.055), rel=1e-4)


def test_one_bad_method_does_not_dim_the_errors_of_the_rest():
    shown = titled(draw_evaluation(*comparison({"bad": -20.0, "good": 40.0, "better": 41.0})))
    assert shown["good"][1].images[0].get_clim() == pytest.approx((0, 0.01), rel=1e-4)


def test_images_are_stretched_as_the_truth_is():
    _, truth, _ = comparison({"glp": 20.0})
    scores, _, estimates = comparison({"glp": 300.0})
    shown = titled(draw_evaluation(scores, truth, estimates))
    np.testing.assert_allclose(shown["glp"][0].images[0].get_array(), shown["truth"][0].images[0].get_array(), atol=1e-6)
    darker = titled(draw_evaluation(scores, truth, {"glp": truth * 0}))
    assert darker["glp"][0].images[0].get_array().max() == 0


def test_invalid_pixels_are_white():
    scores, truth, estimates = comparison({"glp": 20.0})
    estimates["glp"][:, :5] = np.nan
    drawn, error = titled(draw_evaluation(scores, truth, estimates))["glp"]
    assert (drawn.images[0].get_array()[:5] == 1).all()
    assert error.images[0].get_array()[:5].mask.all() and error.get_xlabel() == "0.1000"


@pytest.mark.parametrize("count", [1, 6, 7, 18])
def test_no_two_images_overlap_however_many_methods_there_are(count):
    figure = draw_evaluation(*comparison({f"method-{i}-sel": float(i) for i in range(count)}, edge=6))
    figure.draw_without_rendering()
    shown = titled(figure)
    assert len(shown) == 1 + count
    boxes = [axis.get_tightbbox() for pair in shown.values() for axis in pair]
    for i, box in enumerate(boxes):
        assert min(box.width, box.height) > 90  # pixels of 1/100 inch
        assert not any(box.padded(-1).overlaps(other) for other in boxes[i + 1 :])


def test_the_picture_is_written(tmp_path):
    path = tmp_path / "out.png"
    save_evaluation(path, *comparison({"a": 20.0, "b": 30.0}))
    with Image.open(path) as picture:
        assert min(picture.size) > 1000 and len(picture.convert("RGB").getcolors(1 << 24)) > 100


# Where it is written


def test_a_path_that_can_be_written_passes(tmp_path):
    for name in ("out.png", "out.PDF", "there.svg"):
        check_picture_path(tmp_path / name)
    (tmp_path / "there.svg").touch()
    check_picture_path(str(tmp_path / "there.svg"))


@pytest.mark.parametrize(
    ("name", "named"),
    [("out", ".png"), ("out.docx", ".pdf"), ("missing/out.png", "missing"), ("there.png/out.png", ""), ("folder.png", "")],
)
def test_a_path_that_cannot_be_written_is_refused(name, named, tmp_path):
    (tmp_path / "there.png").touch()
    (tmp_path / "folder.png").mkdir()
    with refused("plot", naming=(tmp_path / name, named)):
        check_picture_path(tmp_path / name)
