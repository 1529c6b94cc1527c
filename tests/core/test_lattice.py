import pytest
from hypothesis import given
from hypothesis import strategies as st
from refusals import refused

from s2pipe.core import lattice

sizes = st.integers(1, 2000).map(lambda n: n * lattice.STEP)
depths = st.integers(0, 60).map(lambda n: n * lattice.STEP)


@given(size=sizes, chunk=sizes)
def test_regular_chunks_cover_the_axis(size, chunk):
    chunks = lattice.regular_chunks(size, chunk)
    assert sum(chunks) == size
    assert set(chunks[:-1]) <= {chunk}
    assert 0 < chunks[-1] <= chunk


@given(size=sizes, chunk=sizes, depth=depths)
def test_joined_chunks_cover_the_axis_and_hold_the_depth(size, chunk, depth):
    chunks = lattice.regular_chunks(size, chunk)
    joined = lattice.join_thin_chunks(chunks, depth=depth)
    assert sum(joined) == size
    assert all(c >= depth for c in joined) or len(joined) == 1
    edges = {sum(chunks[:i]) for i in range(len(chunks) + 1)}
    assert {sum(joined[:i]) for i in range(len(joined) + 1)} <= edges
    assert len(set(joined[:-1])) <= 1  # equal chunks stay equal, so stores can align with them


def test_a_thin_remainder_joins_its_neighbour():
    assert lattice.join_thin_chunks((1830, 108), depth=60) == (1830, 108)
    assert lattice.join_thin_chunks((1830, 12), depth=60) == (1842,)


@pytest.mark.parametrize(
    ("chunk", "halo", "named"),
    [(1024, 30, [1020, 1026]), (7, 30, [30]), (12, 30, "30 px"), (30 + 1, 30, [30, 36])],
)
def test_an_unusable_chunk_is_refused_with_the_nearest_sizes_that_are_accepted(chunk, halo, named):
    with refused("data", "chunks", naming=(chunk, named)):
        lattice.check_chunks((chunk, chunk), halo=halo, axis="y")


def test_the_last_chunk_may_be_thin():
    lattice.check_chunks((30, 6), halo=30, axis="x")


@given(
    height=sizes.filter(lambda n: n < 600),
    width=sizes.filter(lambda n: n < 600),
    edges=st.tuples(st.sampled_from([60, 120, 366]), st.sampled_from([60, 120, 366])),
    halo=depths,
)
def test_blocks_tile_the_array_and_carry_their_halo(height, width, edges, halo):
    covered = 0
    for block in lattice.blocks(height, width, edges=edges, halo=halo):
        (y0, y1), (x0, x1) = block.inner_y, block.inner_x
        assert 0 <= y0 < y1 <= height and 0 <= x0 < x1 <= width
        assert y1 - y0 <= edges[0] and x1 - x0 <= edges[1]
        assert block.outer_y == (y0, y1 + 2 * halo) and block.outer_x == (x0, x1 + 2 * halo)
        covered += (y1 - y0) * (x1 - x0)
    assert covered == height * width


def test_blocks_of_a_chunk_are_about_equal():
    """So that cores that take one after another end at one time."""
    blocks = list(lattice.blocks(1830, 732, edges=(612, 462), halo=78))
    assert [(block.inner_y, block.inner_x) for block in blocks] == [
        (rows, columns) for rows in ((0, 612), (612, 1224), (1224, 1830)) for columns in ((0, 366), (366, 732))
    ]
