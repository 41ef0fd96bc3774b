from itertools import islice

from meft_runner.tasks.demo import generate


def test_rows_are_always_the_same():
    assert generate("train", 50) == generate("train", 50)
    assert generate("train", 50) == list(islice(generate("train", 80), 50))


def test_splits_share_no_premise():
    premises = [{row["premise"] for row in generate(split, 800)} for split in ("train", "validation")]
    assert not premises[0] & premises[1]


def test_labels_are_about_even_and_pairs_are_not_repeated():
    rows = generate("train", 1000)
    assert 420 < sum(row["label"] for row in rows) < 580
    assert len({(row["premise"], row["hypothesis"]) for row in rows}) == 1000


def test_an_entailed_hypothesis_only_drops_or_generalises():
    general = {"person", "animal", "building", "countryside", "frightened", "discovered", "assisted"}
    phrases = ("expressed gratitude to", "went after", "paid no attention to")
    for row in generate("validation", 500):
        if row["label"] == 0:
            hypothesis = row["hypothesis"]
            for phrase in phrases:
                hypothesis = hypothesis.replace(phrase, "")
            assert set(hypothesis.split()) <= set(row["premise"].split()) | general, row


def test_a_contradicted_hypothesis_says_something_new():
    for row in generate("validation", 500):
        if row["label"] == 1:
            assert set(row["hypothesis"].split()) - set(row["premise"].split()), row
