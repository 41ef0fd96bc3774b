import pytest

from meft_runner.config import resolvers


@pytest.mark.parametrize(("factor", "value", "product"), [(3, 1e-4, 3e-4), (0.7, 1e-3, 7e-4), (3, 5e-5, 1.5e-4)])
def test_products_are_those_of_decimal_numbers(factor, value, product):
    assert resolvers.times(factor, value) == product


def test_parts_of_a_model_and_sizes_of_tasks():
    assert [resolvers.share(part, 24) for part in (0.25, 0.5, 0.92)] == [6, 12, 22]
    assert [resolvers.by_size(task, 20, 10) for task in ("rte", "mnli")] == [20, 10]
    assert [resolvers.by_task(task, {"rte": 96}, 64) for task in ("rte", "mnli")] == [96, 64]
