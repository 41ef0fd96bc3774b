import pytest

from meft_runner.reports.score_tables import (
    glue_table,
    hyperparameter_table,
    language_table,
    loss_table,
    qa_table,
    score_table,
)
from meft_runner.reports.selection import averages, scored_runs
from tests.helpers.records import of_texts, record, study


def column(table, name):
    return dict(zip(table["method"], table[name], strict=True))


def test_scores_are_averaged_over_seeds():
    table = score_table([record(0.6, "seed=1"), record(0.7, "seed=2")])
    assert table.to_dict("records") == [
        {
            "backbone": "minilm",
            "method": "meft1",
            "rte accuracy": "65.0 ± 7.1 (n=2)",
            "average": "65.0 ± 7.1 (n=2)",
            "average - full": "-",
            "average - lora": "-",
            "trainable (%)": "1.00",
        }
    ]


def test_methods_in_order_and_a_dash_for_what_was_not_run():
    table = score_table(
        [record(0.7, "method=meft1"), record(0.6, "method=full"), record(0.5, "method=ia3", "task=demo")]
    )
    assert table["method"].tolist() == ["full", "ia3", "meft1"]
    assert table["rte accuracy"].tolist() == ["60.0", "-", "70.0"]
    assert table["demo (synthetic) accuracy"].tolist() == ["-", "50.0", "-"]


def test_an_average_is_over_all_tasks_of_the_backbone():
    records = [
        *(record(score, "method=full", f"task={task}") for task, score in (("rte", 0.6), ("cola", 0.4))),
        *(record(score, "method=lora", f"task={task}") for task, score in (("rte", 0.7), ("cola", 0.1))),
        record(0.9, "method=ia3", "task=rte"),
        record(0.9, "method=full", "task=demo"),  # made up: counts for nothing
        record(0.8, "backbone=bert", "task=rte"),  # another backbone has columns of its own
    ]
    table = score_table(records)
    minilm = table[table["backbone"] == "minilm"]
    assert column(minilm, "average") == {"full": "50.0", "lora": "40.0", "ia3": "-"}
    assert column(minilm, "average - full") == {"full": "-", "lora": "-10.0", "ia3": "-"}
    assert column(table[table["backbone"] == "bert"], "average") == {"meft1": "80.0"}


def test_an_average_has_the_deviation_of_its_seeds_where_every_task_has_them():
    def of(method, rte, cola):
        tasks = {"rte": rte, "cola": cola}
        return [
            record(best, f"method={method}", f"task={task}", f"seed={seed}")
            for task, scores in tasks.items()
            for seed, best in enumerate(scores, start=1)
        ]

    table = score_table([
        *of("full", [0.6, 0.7], [0.2, 0.5]),  # averages of 40 and 60
        *of("lora", [0.6, 0.7], [0.4]),  # means of 65 and 40
        *of("ia3", [0.5, None], [0.1, 0.1]),
    ])  # fmt: skip
    assert column(table, "average") == {"full": "50.0 ± 14.1 (n=2)", "lora": "52.5", "ia3": "30.0"}
    assert column(table, "average - full") == {"full": "-", "lora": "+2.5", "ia3": "-20.0"}
    assert column(table, "average - lora") == {"full": "-2.5", "lora": "-", "ia3": "-22.5"}


def test_published_scores_stand_below_the_methods():
    table = score_table([record(0.8, "backbone=roberta", f"task={task}") for task in ("rte", "squad", "mrpc")])
    label = "full (published: fairseq's RoBERTa README)"
    assert table["method"].tolist() == ["meft1", label]
    published = table.iloc[1]
    assert published[["rte accuracy", "mrpc accuracy", "squad accuracy"]].tolist() == ["86.6", "90.9", "-"]
    assert published[["average", "average - full", "trainable (%)"]].tolist() == ["-", "-", "-"]


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        ("f1", ["backbone=roberta"]),
        ("accuracy", ["backbone=roberta", "task.max_eval_rows=10"]),
        ("accuracy", ["backbone=minilm"]),
    ],
    ids=["another metric", "other rows", "another backbone"],
)
def test_published_scores_of_something_else_are_not_shown(metric, words):
    assert score_table([record(0.8, *words, metric=metric)])["method"].tolist() == ["meft1"]


def test_question_answering_has_its_own_table():
    records = [record(0.8, "backbone=opt", "task=piqa", metric="acc"), record(0.7, "backbone=opt", "task=rte")]
    assert glue_table(records)["rte accuracy"].tolist() == ["70.0"]
    assert "piqa acc" not in glue_table(records)
    assert qa_table(records)["piqa acc"].tolist() == ["80.0", "75.2"]


def test_a_task_of_a_new_name_lands_in_the_table_of_its_kind():
    made = record(0.8, "backbone=opt", "task=piqa", metric="acc", data={"synthetic": False, "kind": "choice"})
    made.config.task.name = "winogrande"
    assert qa_table([made])["winogrande acc"].tolist() == ["80.0"]
    assert glue_table([made]).empty


def test_scores_on_other_rows_share_no_column():
    def on(best, method, fingerprint, folder):
        splits = {"train": {"rows": 9, "fingerprint": fingerprint}}
        overrides = (f"method={method}", f"task.data_dir={folder}")
        return record(best, *overrides, data={"synthetic": False, "splits": splits})

    table = score_table([on(0.9, "full", "a", "one"), on(0.7, "full", "b", "two"), on(0.6, "meft1", "a", "one")])
    assert table["rte (one) accuracy"].tolist() == ["90.0", "60.0"]
    assert table["rte (two) accuracy"].tolist() == ["70.0", "-"]
    assert table["average"].tolist() == ["80.0", "-"]


def test_made_up_is_what_the_record_says_and_not_a_name():
    files = ("task=text", "task.train_file=synthetic.csv", "task.eval_file=e.csv")
    assert score_table([record(0.8, *files)])["average"].tolist() == ["80.0"]


def test_a_score_that_is_not_defined_is_a_dash():
    none = record(None, "method=lora", history=[(0.5, None)])
    table = score_table([none, record(0.6, "method=full")])
    assert column(table, "rte accuracy") == {"full": "60.0", "lora": "-"}
    assert column(table, "average") == {"full": "60.0", "lora": "-"}
    assert hyperparameter_table([none])["score (%)"].tolist() == ["-"]
    assert loss_table([none])["epoch 1"].tolist() == ["0.500"]


def test_seeds_without_a_score_are_counted():
    seeds = [record(best, f"seed={seed}") for seed, best in enumerate([0.6, None, 0.7], start=1)]
    table = score_table(seeds)
    assert table["rte accuracy"].tolist() == ["65.0 ± 7.1 (n=2 of 3)"]
    assert hyperparameter_table(seeds)["seeds"].tolist() == [3]
    assert score_table(seeds[:2])["rte accuracy"].tolist() == ["60.0 (n=1 of 2)"]


def test_no_table_of_nothing():
    for make in (score_table, glue_table, qa_table, hyperparameter_table, loss_table):
        assert make([study([0.1])]).empty


def test_the_settings_behind_the_scores():
    records = [
        record(0.9, "training.learning_rate=0.1"),
        record(0.5, "training.learning_rate=0.2", "training.gradient_accumulation=4", "seed=1"),
        record(0.6, "training.learning_rate=0.2", "training.gradient_accumulation=4", "seed=2"),
        record(0.4, "task=cola", "training.max_steps=7"),
    ]
    assert hyperparameter_table(records).to_dict("records") == [
        {
            "backbone": "minilm", "task": "cola accuracy", "method": "meft1", "learning rate": 0.001,
            "batch size": 16, "epochs": "7 steps", "seeds": 1, "score (%)": "40.0", "settings tried": 1,
        },
        {
            "backbone": "minilm", "task": "rte accuracy", "method": "meft1", "learning rate": 0.2,
            "batch size": 64, "epochs": 5, "seeds": 2, "score (%)": "55.0 ± 7.1 (n=2)", "settings tried": 2,
        },
    ]  # fmt: skip


def test_training_losses_by_epoch():
    short = record(0.5, "method=meft1", history=[(0.5, 0.5)])
    long = record(0.6, "method=full", history=[(0.7, 0.5), (0.65, 0.6)])
    old = record(0.6, "method=lora", history=[(None, 0.6)])  # an earlier version kept none
    table = loss_table([short, long, old])
    assert table["method"].tolist() == ["full", "lora", "meft1"]
    assert table["epoch 1"].tolist() == ["0.700", "-", "0.500"]
    assert table["epoch 2"].tolist() == ["0.650", "-", "-"]


def test_what_language_models_score_at_their_best_epoch_stands_by_itself():
    chat = ("task=chat", "task.train_file=mine.jsonl")
    records = [
        of_texts(2.0, *chat, "method=lora", "seed=1", epochs=3, token_accuracy=0.5, exact_match=0.25),
        of_texts(3.0, *chat, "method=lora", "seed=2", epochs=1, token_accuracy=0.6, exact_match=0.75),
        of_texts(1.0, *chat, "method=full"),
        of_texts(1.5, "task=lm", "task.hub=someone/texts", "method=full"),
        record(0.5, "backbone=opt", "task=rte", "method=full"),
    ]
    table = language_table(records)
    assert table.iloc[1].to_dict() == {
        "backbone": "opt", "task": "chat (mine.jsonl)", "method": "lora", "loss": "2.500 \u00b1 0.707 (n=2)",
        "perplexity": "13.74 \u00b1 8.98 (n=2)", "token accuracy (%)": "55.0 \u00b1 7.1 (n=2)",
        "exact match (%)": "50.0 \u00b1 35.4 (n=2)",
    }  # fmt: skip
    assert table["task"].tolist() == ["chat (mine.jsonl)", "chat (mine.jsonl)", "lm (someone/texts)"]
    assert table["exact match (%)"].tolist()[::2] == ["-", "-"]
    assert set(glue_table(records)) >= {"rte accuracy", "average"}
    assert not any("chat" in column for column in glue_table(records))
    assert averages(scored_runs(records))["score"].tolist() == [50.0]
    by_task = dict(hyperparameter_table(records)[["task", "score (%)"]].to_numpy().tolist())
    assert by_task.pop("rte accuracy") == "50.0"
    assert set(by_task.values()) == {"-"}, "an inverse perplexity in per cent"
    assert language_table([record(0.5)]).empty
