import pytest
from hypothesis import given
from hypothesis import strategies as st

from meft_runner.errors import UserError
from meft_runner.tasks.labels import Given, class_names, numbered


def column(*labels):
    return [Given(label, f"file, row {number}") for number, label in enumerate(labels, start=1)]


@pytest.mark.parametrize(
    ("labels", "typed", "expected"),
    [
        (["10", "9", "-1", "2"], False, ["-1", "2", "9", "10"]),
        (["10", "9"], True, ["9", "10"]),
        ([10, 9, 10], True, ["9", "10"]),
        (["1", "x", "y"], False, ["1", "x", "y"]),
        ([True, False], True, ["False", "True"]),
        ([1, "2"], True, ["1", "2"]),
        (["1.5", "2.0"], True, ["1.5", "2.0"]),
        (["9" * 5000, "1"], False, ["1", "9" * 5000]),
        (["1", "2.0"], False, []),
        (["-1.5", "20.25"], False, []),
        ([1.0, 2.0], True, []),
        ([1, 2.0], True, []),
    ],
)
def test_classes_or_grades(labels, typed, expected):
    assert class_names(column(*labels), typed) == expected


NO_GRADES = ["3_1", "1e5", "0x10", "\uff11\uff12", "nan", "inf", "-inf", " 1", "1 ", "+2", ".5", "5.", "1,5", "\u0661"]


@pytest.mark.parametrize("text", NO_GRADES)
def test_what_python_takes_for_a_number_is_no_grade(text):
    assert class_names(column(text, "1.5"), typed=False) == sorted([text, "1.5"])
    assert class_names(column(text, "no"), typed=False) == sorted([text, "no"])
    with pytest.raises(UserError, match=r"expected a plain finite number such as 2\.5 as its grade"):
        numbered(column(text), [])


@pytest.mark.parametrize("odd", [*NO_GRADES, "high", "O"])
@pytest.mark.parametrize("others", [["1.5", "2.5", "0"], ["0", "1", "1"]])
def test_a_label_that_is_no_number_among_numbers_is_named(odd, others):
    with pytest.raises(UserError, match=r"file, row 3: label .* is no plain number, as 3 of 4 labels are") as caught:
        class_names(column(*others[:2], odd, others[2]), typed=False)
    assert len(str(caught.value)) < 200


def test_a_typed_label_that_is_no_number_among_numbers_is_named():
    with pytest.raises(UserError, match=r"file, row 1: label '2.5' is no plain number, as 2 of 3"):
        class_names(column("2.5", 1.5, 2.0), typed=True)


@pytest.mark.parametrize("label", [float("nan"), float("inf"), 1e39, 10**400, True, "high", "9" * 400])
def test_grades_are_finite(label):
    with pytest.raises(UserError, match=r"file, row 1: label .*, expected a plain finite number"):
        numbered(column(label), [])


def test_whole_numbers_with_a_point_are_grades_which_is_told(caplog):
    assert class_names(column("0.0", "1.0"), typed=False) == []
    assert class_names(column(0.0, 1.0), typed=True) == []
    assert caplog.text.count("grades such as 0.0: write them without a point if they name classes") == 2


def test_columns_of_nearly_as_many_classes_as_rows_are_told(caplog):
    class_names(column(*(f"{number},5" for number in range(30))), typed=False)
    assert "30 rows have 30 classes: is task.label_column right?" in caplog.text


@given(st.lists(st.text(min_size=1), min_size=1), st.randoms())
def test_the_mapping_depends_on_the_set_of_labels_alone(labels, order):
    shuffled = labels * 2
    order.shuffle(shuffled)
    classes = class_names(column(*labels), typed=True)
    assert class_names(column(*shuffled), typed=True) == classes
    assert len(classes) == len(set(classes))
    assert set(classes) == set(labels)


@given(st.sets(st.integers(), min_size=1))
def test_whole_numbers_map_by_size_whether_they_are_text_or_not(numbers):
    in_order = [str(number) for number in sorted(numbers)]
    assert class_names(column(*numbers), typed=True) == in_order
    assert class_names(column(*map(str, numbers)), typed=False) == in_order
