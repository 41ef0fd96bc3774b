import math

import pytest

from meft_runner.reports.starting_point import brief, plain_table, starting_table, tied
from tests.helpers.records import MIB, changed, record, started, study

LORA = ("method=lora", "method.reversal=exact")


def without(made, *keys):
    """Returns a record whose method has no such settings, as an earlier version wrote it."""
    config = made.config.plain()
    config["method"] = {key: value for key, value in config["method"].items() if key not in keys}
    return changed(made, config=config)


def bits(*counts):
    """Returns how many binary digits hold any number below each count, all together; digits that fill bytes evenly."""
    return sum(min(size for size in (1, 2, 4, 8) if 2**size >= count) for count in counts)


@pytest.mark.parametrize(
    ("overrides", "scale", "mu", "kept"),
    [
        (LORA, "1/256", "1-scale", bits(256)),
        ((*LORA, "method.scale_1=0.1", "method.mu=1"), "1/10", "1", bits(10)),
        (("method=ia3", "method.reversal=exact", "method.scale_1=1/32", "method.mu=31/32"), "1/32", "1-scale", 8),
        (("method=meft1",), "1/10", "1", bits(10)),
        (("method=meft2", "method.mu=0.5"), "1/10", "0.5", bits(10)),
        (("method=meft3", "method.mu=1-scale", "method.scale_2=1/100"), "1/10, 1/100", "1-scale", bits(10, 100)),
        (("method=meft3", "method.mu=9/10", "method.scale_2=1/100"), "1/10, 1/100", "0.9, 1-scale", bits(10, 100)),
        (("method=meft1_start",), "1/256", "1-scale", bits(256)),
        (("method=meft3_start", "method.scale_1=1/32", "method.scale_2=1/32"), "1/32", "1-scale", bits(32, 32)),
        (("method=meft1", "method.scale_1=1"), None, "1", 0),
        (("method=meft1", "method.reversal=float", "method.scale_1=0.3"), "3/10", "1", 0),
        (("method=meft1", "method.reversal=stored"), "1/10", "1", None),
        (("method=lora",), None, None, None),
        (("method=full",), None, None, None),
    ],
)
def test_how_streams_are_tied(overrides, scale, mu, kept):
    found = tied(record(0.5, *overrides))
    assert (found.text, found.mu, found.bits) == (scale, mu, kept)


def test_how_streams_were_tied_before_there_was_a_mu():
    old = without(record(0.5, "method=meft3"), "mu", "variant", "adapter_factor", "zero_start")
    assert (tied(old).text, tied(old).mu, tied(old).bits) == ("1/10", "1", 8)


@pytest.mark.parametrize(
    "content", [{"scale_1": "a tenth"}, {"scale_1": {}}, {"mu": [1]}, {"merge": "both"}, {"of_another_program": 1}]
)
def test_a_coupling_that_cannot_be_read(content):
    made = record(0.5, "method=meft1")
    config = made.config.plain()
    found = tied(changed(made, config=config | {"method": config["method"] | content}))
    assert (found.text, found.mu, found.bits) == (None, None, None)


def test_the_table_of_starting_points():
    table = starting_table(
        [
            started(0.25, 0.5, "method=meft3_start"),
            started(0.0103, 0.00941, *LORA, activations=24 * MIB),
            started(0.203, 0.19, *LORA, "method.scale_1=1/10"),
            started(0.264, 0.239, *LORA, "method.scale_1=1/10", "method.mu=1"),
            started(None, None, "method=meft1"),
        ]
    )
    assert brief(table).astype(object).where(table.notna()).to_dict("records")[:2] == [
        {
            "backbone": "minilm", "task": "rte", "method": "lora (reversal=exact)", "scale": "1/10", "mu": "1",
            "hidden distance": "0.264", "output distance": "0.239", "bits": 4, "activations (MiB)": 1.0,
            "retained (MiB)": 3.0,
        },
        {
            "backbone": "minilm", "task": "rte", "method": "lora (reversal=exact)", "scale": "1/10", "mu": "1-scale",
            "hidden distance": "0.203", "output distance": "0.19", "bits": 4, "activations (MiB)": 1.0,
            "retained (MiB)": 3.0,
        },
    ]  # fmt: skip
    assert table["scale"].tolist() == ["1/10", "1/10", "1/256", "1/10", "1/256"]
    assert table["method"].tolist()[2:] == ["lora (reversal=exact)", "meft1", "meft3_start"]
    assert table["activations (MiB)"].tolist()[2] == 24.0
    assert table["hidden distance"].isna().tolist() == [False] * 3 + [True, False]
    assert table[["precision", "batch", "length"]].drop_duplicates().to_numpy().tolist() == [["fp32", 16, 128]]


def test_seeds_and_learning_rates_are_one_row_with_the_score_that_stands_for_them():
    def run(best, rate, seed, hidden):
        start = {"output_distance": 0.1, "hidden_distance": hidden}
        return record(best, *LORA, f"training.learning_rate={rate}", f"seed={seed}", start=start)

    rates = [run(0.9, 0.1, 1, 0.3), run(0.6, 0.2, 1, 0.1), run(0.7, 0.2, 2, 0.2)]
    (row,) = starting_table([*rates, started(0.2, 0.1, *LORA)]).to_dict("records")
    assert (row["hidden distance"], row["score (%)"]) == ("0.2", "65.0 ± 7.1 (n=2)")
    other = started(0.2, 0.1, *LORA, memory=None)
    assert starting_table([*rates, other])["score (%)"].fillna("-").tolist() == ["65.0 ± 7.1 (n=2)", "-"]


def test_a_step_of_several_passes_has_a_row_of_its_own():
    several = "training.gradient_accumulation=4"
    table = starting_table([started(0.1, 0.1, activations=MIB), started(0.1, 0.1, several, activations=3 * MIB)])
    assert table[["accumulation", "activations (MiB)"]].to_numpy().tolist() == [[1, 1], [4, 3]]
    assert "accumulation" not in brief(table)


def test_what_has_no_starting_point():
    assert starting_table([record(), study([0.1])]).empty
    (row,) = starting_table([record(), started(0.1, 0.1, "method=lora")]).astype(object).fillna("-").to_dict("records")
    assert (row["method"], row["scale"], row["mu"], row["bits"]) == ("lora", "-", "-", "-")
    old = record(0.5, start={"output_distance": 0.5})
    assert starting_table([old])["hidden distance"].isna().all()


def test_adapters_in_the_plain_model():
    def run(coupled, plain, distance, seed=1, *overrides):
        part = {"coupled_score": coupled, "score": plain, "output_distance": distance}
        return record(coupled, *LORA, *overrides, f"seed={seed}", plain_model=part)

    table = plain_table(
        [
            run(0.6, 0.65, 0.01),
            run(0.7, 0.69, 0.03, 2),
            run(0.5, None, None, 1, "task=cola"),
            record(),
            record(0.5, *LORA),
        ]
    )
    assert table.fillna("-").to_dict("records") == [
        {
            "backbone": "minilm", "method": "lora (reversal=exact)", "task": "cola accuracy", "coupled (%)": "50.0",
            "plain (%)": "-", "plain - coupled": "-", "output distance": "-",
        },
        {
            "backbone": "minilm", "method": "lora (reversal=exact)", "task": "rte accuracy",
            "coupled (%)": "65.0 ± 7.1 (n=2)", "plain (%)": "67.0 ± 2.8 (n=2)", "plain - coupled": "+2.0",
            "output distance": "0.02",
        },
    ]  # fmt: skip
    assert plain_table([record(), study([0.1])]).empty


def test_language_models_in_the_plain_model_have_losses():
    def run(*words):
        part = {"coupled_score": math.exp(-2), "score": math.exp(-1.5), "output_distance": 0.01}
        return record(0.5, *LORA, *words, plain_model=part)

    texts = run("backbone=smollm2_135m", "task=lm", "task.train_file=a.jsonl")
    table = plain_table([texts])
    assert table.to_dict("records") == [
        {
            "backbone": "smollm2_135m", "task": "lm (a.jsonl)", "method": "lora (reversal=exact)",
            "coupled (loss)": "2.000", "plain (loss)": "1.500", "plain - coupled (loss)": "-0.500",
            "output distance": "0.01",
        }
    ]  # fmt: skip
    both = plain_table([texts, run()]).set_index("backbone")
    assert both.loc["minilm", "coupled (%)"] == "13.5"
    assert both.loc["minilm", "coupled (loss)"] == both.loc["smollm2_135m", "coupled (%)"] == "-"
