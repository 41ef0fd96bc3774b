import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meft_runner.records.schema import CompleteRecord, Data, Split
from meft_runner.reports.selection import chosen_runs, one_of_each, scored_runs, trained_twice
from tests.helpers.records import changed, record, study


def chosen(records):
    return chosen_runs(scored_runs(records))["record"].tolist()


def run(best, rate, seed):
    return record(best, f"training.learning_rate={rate}", f"seed={seed}")


def test_a_lucky_seed_does_not_beat_a_setting_with_several():
    several = [run(0.6, 0.1, 1), run(0.62, 0.1, 2)]
    assert chosen([run(0.9, 0.2, 1), *several]) == several


def test_of_settings_with_as_many_seeds_the_best_mean():
    assert chosen([run(0.6, 0.1, 1), run(0.7, 0.2, 1)])[0].scores.best == 0.7


def test_settings_of_an_earlier_version_are_the_same_settings():
    new, old = run(0.7, 0.1, 2), run(0.6, 0.1, 1)
    content = old.config.plain()
    del content["study"]  # None in the new one
    old = changed(old, config=content)
    assert chosen([old, new]) == [old, new]


def placed(seed, place, key, **parts):
    return record(0.5, f"{key}={place}", f"seed={seed}", "task=rte", **parts)


ROWS = {"synthetic": False, "splits": {name: {"rows": 5, "fingerprint": name} for name in ("train", "validation")}}


@pytest.mark.parametrize(
    ("key", "parts", "same"),
    [
        ("task.data_dir", {"data": ROWS}, True),
        ("task.data_dir", {"data": {"synthetic": False}}, False),  # of an earlier version, which has no fingerprints
        ("backbone.path", {"weights": {"source": "m", "sha256": "ff"}}, True),
        ("backbone.path", {"weights": {"source": "m"}}, False),
        ("backbone.path", {}, False),
    ],
)
def test_a_setting_is_one_wherever_the_same_rows_and_weights_are_read_from(key, parts, same):
    two = [placed(1, "/home/a", key, **parts), placed(2, "/scratch", key, **parts)]
    assert (chosen(two) == two) is same


def test_a_seed_is_one_wherever_it_was_trained():
    two = [placed(1, place, "task.data_dir", data=ROWS) for place in ("/home/a", "/scratch")]
    assert chosen(two) == two[:1]
    assert trained_twice(two) == []


def test_a_seed_that_was_trained_twice_to_another_score_is_told():
    two = [placed(1, place, "task.data_dir", data=ROWS) for place in ("/home/a", "/scratch")]
    two[1].scores.best = 0.9
    first, second = (f"minilm-rte-meft1-s1-{made.identity}" for made in two)
    assert trained_twice(two) == [
        f"{second}: counts in no score, as {first} has its settings and its seed, but another score."
    ]


def test_rows_of_the_hub_and_a_copy_of_them_are_one_setting():
    two = [record(0.5, "seed=1", data=ROWS), placed(2, "/scratch", "task.data_dir", data=ROWS)]
    assert chosen(two) == two


FILES = ("backbone.path/tokenizer.json", "backbone.path/pytorch_model.bin", "task.data_dir/b")
FOLDER = {name: {"bytes": 1, "modified_ns": 1, "sha256": name} for name in FILES}


@pytest.mark.parametrize(("name", "same"), [*zip(FILES, (False, True, True), strict=True)])
def test_weights_with_another_tokenizer_are_another_setting(name, same):
    weights = {"source": "m", "sha256": "ff"}
    other = FOLDER | {name: FOLDER[name] | {"sha256": "else"}}
    two = [placed(seed, f"/{seed}", "backbone.path", weights=weights, files=files)
           for seed, files in ((1, FOLDER), (2, other))]  # fmt: skip
    assert (chosen(two) == two) is same


def test_a_chat_template_is_one_wherever_its_file_is():
    files = {"task.chat_template/t.jinja": {"bytes": 1, "modified_ns": 1, "sha256": "a"}}
    words = ("backbone=opt", "task=chat")
    two = [record(0.5, *words, f"task.chat_template=/{seed}/t.jinja", f"seed={seed}", files=files) for seed in (1, 2)]
    assert chosen(two) == two


def test_runs_that_were_trained_otherwise_are_another_method():
    made = [record(0.9 if seed == 1 else 0.5, "method=ia3", f"seed={seed}") for seed in (1, 2, 3)]
    made[0].method_version = 1
    runs = chosen_runs(scored_runs(made))
    assert runs["method"].tolist() == ["ia3 (version 1)", "ia3", "ia3"]


def test_a_record_that_has_no_version_is_of_the_first_one():
    made = record(0.5, "method=ia3")
    content = made.plain()
    assert content.pop("method_version") == 2
    assert CompleteRecord.model_validate(content).method_version == 1


def test_what_is_beside_the_result_does_not_split_settings_of_another_program():
    def by(seed, **beside):
        content = record(0.5, f"seed={seed}").config.plain() | beside
        content["training"]["of_another_program"] = 1
        return changed(record(0.5), config=content)

    several = [by(1), by(2, from_record="abc", output_dir="elsewhere", logger="wandb", seeds=[1, 2])]
    assert chosen(several) == several


def test_a_score_that_is_not_defined_stands_for_nothing_else():
    undefined, poor = run(None, 0.1, 1), run(0.1, 0.2, 1)
    assert chosen([undefined, poor]) == [poor]
    assert chosen([undefined]) == [undefined]


def test_other_rows_have_a_best_setting_of_their_own():
    apart = [run(0.6, 0.1, 1), run(0.7, 0.2, 1)]
    for made, fingerprint in zip(apart, "ab", strict=True):
        made.data = Data(synthetic=False, splits={"train": Split(rows=9, fingerprint=fingerprint)})
    assert one_of_each(apart) == apart


def test_a_setting_that_leaves_few_tokens_to_score_does_not_win():
    apart = [record(best, "backbone=opt", "task=lm", f"task.max_length={length}", metric="inverse_perplexity")
             for best, length in ((0.9, 8), (0.5, 128))]  # fmt: skip
    for made, tokens in zip(apart, (140, 2400), strict=True):
        splits = {name: Split(rows=9, fingerprint=name, learnt_tokens=tokens) for name in ("train", "evaluation")}
        made.data = Data(synthetic=False, kind="lm", splits=splits)
    assert one_of_each(apart) == apart


def test_studies_have_no_score():
    assert chosen([study([0.1])]) == []
    assert list(scored_runs([])) == list(scored_runs([run(0.6, 0.1, 1)]))


@settings(deadline=None, max_examples=6)
@given(st.lists(st.tuples(st.sampled_from([0.1, 0.2, 0.3]), st.integers(1, 4), st.floats(0, 1)), min_size=1))
def test_no_other_setting_has_more_seeds_or_as_many_and_a_better_mean(runs):
    by_setting = {}
    for rate, seed, score in {(rate, seed): (rate, seed, score) for rate, seed, score in runs}.values():
        by_setting.setdefault(rate, []).append(run(score, rate, seed))
    best = chosen([made for seeds in by_setting.values() for made in seeds])
    assert best in by_setting.values()

    def mean(seeds):
        return sum(made.scores.best for made in seeds) / len(seeds)

    for seeds in by_setting.values():
        assert len(seeds) <= len(best)
        assert len(seeds) < len(best) or mean(seeds) <= mean(best) + 1e-12


def test_one_record_stands_for_all_seeds():
    several = [run(0.5, 0.1, seed) for seed in (1, 2, 3)]
    assert one_of_each([run(0.9, 0.2, 1), *several]) == several[:1]
