import pytest
from refusals import refused

from s2pipe.core.options import Options


@pytest.fixture
def options():
    return Options()


def test_they_are_set_by_a_statement_or_for_a_block(options):
    options.set(cached_sharpeners=2)
    assert options.cached_sharpeners == 2
    with options.set(cached_sharpeners=3, cpu_block=(66, 66)):
        assert (options.cached_sharpeners, options.cpu_block) == (3, (66, 66))
        options.memory_retry_s = 7
    assert (options.cached_sharpeners, options.cpu_block) == (2, Options.cpu_block)
    assert options.memory_retry_s == 7  # which the block did not set


@pytest.mark.parametrize("wrong", [{"foo": 1}, {"cpu_block": (66, 65)}, {"memory_retry_s": -1}])
def test_where_one_is_refused_none_is_set(options, wrong):
    with refused(*wrong):
        options.set(cached_sharpeners=2, **wrong)
    assert options == Options()
