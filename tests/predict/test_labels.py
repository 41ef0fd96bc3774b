"""Labels of new rows as files have them."""

import pytest

from meft_runner.errors import UserError
from meft_runner.predict.labels import known_label


@pytest.mark.parametrize(
    ("label", "classes", "number"),
    [
        ("yes", ["no", "yes"], 1),
        (1, ["no", "yes"], 1),
        ("1", ["no", "yes"], 1),
        (1, ["1", "2"], 0),  # a name goes before a number
        ("2", ["1", "2"], 1),
        (-1, ["no", "yes"], None),
        (-1, ["-1", "1"], 0),
        (True, ["False", "True"], 1),  # as JSON has them
        (3, ["1", "2", "3"], 2),
        (None, ["no", "yes"], None),
        ("", ["no", "yes"], None),
        ("2.5", [], 2.5),
        (-1, [], None),  # as of STS-B's test set on the hub
        ("-1.0", [], None),
        (3, [], 3.0),
        (None, [], None),
    ],
)
def test_labels_that_are_known(label, classes, number):
    assert known_label(label, classes, "row 1") == number


@pytest.mark.parametrize(
    ("label", "classes", "message"),
    [
        (2, ["no", "yes"], "row 1: label 2 is none of the run's classes, expected no, yes, or their numbers 0 to 1"),
        (True, ["no", "yes"], "label True is none"),
        (
            0,
            ["1795950112472794170", "a"],
            "label 0 is none of the run's classes, expected 1795950112472794170, a",
        ),
        (0, ["1", "2", "3"], r"label 0 is none of the run's classes, expected 1, 2, 3\. Mend it"),
        (1.0, ["no", "yes"], "label 1.0 is none"),
        ("9" * 5000, ["no", "yes"], "label '9+.* is none of the run's classes"),
        ("maybe", [], "row 1: label 'maybe', expected a number as its grade"),
        (float("nan"), [], "label nan, expected a number"),
    ],
)
def test_labels_that_are_not(label, classes, message):
    with pytest.raises(UserError, match=message):
        known_label(label, classes, "row 1")


def test_a_grade_of_a_users_file_may_be_below_zero():
    assert known_label(-1, [], "row 1", numbered=False) == -1.0


def test_numbers_do_not_stand_for_the_classes_of_a_users_file():
    with pytest.raises(UserError, match=r"expected no, yes\. Mend it"):
        known_label(0, ["no", "yes"], "row 1", numbered=False)
