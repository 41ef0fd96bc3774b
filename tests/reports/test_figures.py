import pytest

from meft_runner.config import METHODS
from meft_runner.reports.ablation_figures import initialisation_study, reversible_layers
from meft_runner.reports.figures import method_styles, save_figure
from meft_runner.reports.memory_figures import memory_over_depth, memory_over_length
from meft_runner.reports.score_figures import (
    average_against_distance,
    average_against_memory,
    score_against_distance,
    score_against_memory,
    score_curves,
    training_loss_curves,
)
from tests.helpers.records import MIB, record, started, study


def lines(axes):
    """Returns the points of each labelled line or error bar."""
    plain = {line.get_label(): line for line in axes.lines if not line.get_label().startswith("_")}
    bars = {container.get_label(): container.lines[0] for container in axes.containers}
    return {label: [tuple(point) for point in line.get_xydata().tolist()] for label, line in (plain | bars).items()}


def test_a_method_has_one_colour_and_its_variants_differ():
    styles = method_styles(["meft1 (reversal=float)", "meft1", "full", "meft1, exact"])
    assert {styles[label]["color"] for label in styles if label.startswith("meft1")} == {"tab:red"}
    assert len({styles[label]["marker"] for label in styles if label.startswith("meft1")}) == 3


def test_a_new_method_has_a_colour_of_its_own():
    styles = method_styles(METHODS)
    assert len({style["color"] for style in styles.values()}) == len(METHODS)


@pytest.mark.filterwarnings("error")
def test_names_of_users_are_drawn_as_they_are(tmp_path):
    names = ("$x^$.csv", "行.csv", "a_b%.csv")
    files = ("task=text", "task.eval_file=e.csv")
    made = [record(0.5, *files, f"task.train_file='{name}'") for name in names]
    figure = score_against_memory(made)
    save_figure(figure, tmp_path, "figure")
    assert sorted(axes.title.get_text().replace(r"\$", "$") for axes in figure.axes) == sorted(
        f"minilm: text ({name}) accuracy" for name in names
    )


@pytest.mark.filterwarnings("error")
def test_a_score_that_is_not_defined_is_not_drawn():
    none = record(None, history=[(0.5, None)])
    assert score_against_memory([none]) is None
    assert score_curves([none]) is None
    assert training_loss_curves([none]) is not None
    (axes,) = score_against_memory([none, record(0.5, "method=full")]).axes
    assert lines(axes) == {"full": [(1.0, 50.0)]}


def test_score_against_memory_has_a_panel_a_task_and_bars_for_several_seeds():
    figure = score_against_memory(
        [
            record(0.6, "seed=1", activations=2 * MIB),
            record(0.7, "seed=2", activations=4 * MIB),
            record(0.8, "method=full", activations=9 * MIB),
            record(0.5, "task=cola"),
            record(0.5, "task=mrpc", memory=None),
        ]
    )
    cola, rte = figure.axes
    assert lines(cola) == {"meft1": [(1.0, 50.0)]}
    assert lines(rte) == {"meft1": [(3.0, pytest.approx(65.0))], "full": [(9.0, 80.0)]}
    assert {container.get_label(): container.has_yerr for container in rte.containers} == {"meft1": True, "full": False}


def at(best, hidden, *overrides, **parts):
    return record(best, *overrides, start={"output_distance": 9.0, "hidden_distance": hidden}, **parts)


def test_score_against_distance_has_a_line_over_scales():
    reversed_lora = ("method=lora", "method.reversal=exact")
    made = [
        at(0.7, 0.0, "method=lora"),
        at(0.6, 0.01, *reversed_lora, "seed=1"), at(0.8, 0.03, *reversed_lora, "seed=2"),
        at(0.5, 0.25, *reversed_lora, "method.scale_1=1/10"),
        at(0.4, None, "method=meft1"), record(0.4, "method=meft3"),
    ]  # fmt: skip
    (axes,) = score_against_distance(made).axes
    assert lines(axes) == {
        "lora": [(0.0, 70.0)], "lora (reversal=exact)": [(pytest.approx(0.02), pytest.approx(70.0)), (0.25, 50.0)],
    }  # fmt: skip


def test_averages_have_a_point_a_method_over_all_tasks():
    def of(method, rte, cola, size, hidden):
        return [
            at(best, hidden, f"method={method}", f"task={task}", f"seed={seed}", activations=factor * size * MIB)
            for task, scores, factor in (("rte", rte, 1), ("cola", cola, 3))
            for seed, best in enumerate(scores, start=1)
        ]

    made = [*of("full", [0.6, 0.7], [0.2, 0.5], 4, 0.0), *of("meft1", [0.5], [0.3], 1, 0.5)]
    made += [at(0.9, 0.1, "method=ia3"), at(0.9, 0.1, "task=demo", "method=full")]
    (axes,) = average_against_memory(made).axes
    assert axes.get_title() == "minilm: average of 2 tasks"
    assert lines(axes) == {"full": [(8.0, pytest.approx(50.0))], "meft1": [(2.0, pytest.approx(40.0))]}
    assert {bar.get_label(): bar.has_yerr for bar in axes.containers} == {"full": True, "meft1": False}
    (axes,) = average_against_distance(made).axes
    assert lines(axes) == {"full": [(0.0, pytest.approx(50.0))], "meft1": [(0.5, pytest.approx(40.0))]}
    assert average_against_memory([one for one in made if one.config.task.name != "cola"]) is None


def test_curves_are_the_mean_of_the_seeds_of_the_chosen_setting():
    records = [
        record(0.6, "seed=1", history=[(0.8, 0.5), (0.4, 0.6)]),
        record(0.6, "seed=2", history=[(0.6, 0.5)]),
        record(0.9, "training.learning_rate=1", history=[(9.0, 0.9)]),
    ]
    assert lines(training_loss_curves(records).axes[0]) == {"meft1": [(1.0, pytest.approx(0.7)), (2.0, 0.4)]}
    assert lines(score_curves(records).axes[0]) == {"meft1": [(1.0, 50.0), (2.0, 60.0)]}


def test_an_earlier_version_kept_no_training_loss():
    old = record(history=[(None, 0.5)])
    assert training_loss_curves([old]) is None
    assert score_curves([old]) is not None


def test_memory_over_depth():
    deep = [record(0.5, f"backbone.repeat={times}", activations=times * MIB) for times in (1, 2, 4)]
    (axes,) = memory_over_depth([*deep, record(0.5, "method=full")]).axes
    assert lines(axes) == {"meft1": [(6.0, 1.0), (12.0, 2.0), (24.0, 4.0)]}  # full has one depth: no line
    assert memory_over_length(deep) is None


def test_memory_of_several_passes_has_a_panel_of_its_own():
    deep = [
        record(0.5, f"backbone.repeat={times}", f"training.gradient_accumulation={passes}", activations=passes * MIB)
        for times in (1, 2) for passes in (1, 4)
    ]  # fmt: skip
    panels = memory_over_depth(deep).axes
    titles = [f"minilm: batch 16, fp32, length 128, accumulation {passes}" for passes in (1, 4)]
    assert [axes.title.get_text() for axes in panels] == titles
    assert [lines(axes)["meft1"] for axes in panels] == [[(6.0, 1.0), (12.0, 1.0)], [(6.0, 4.0), (12.0, 4.0)]]


def test_memory_over_length():
    made = [record(activations=length * MIB) for length in (64, 128)]
    for one, length in zip(made, (64, 128), strict=True):
        one.memory.length = length
    (axes,) = memory_over_length(made).axes
    assert lines(axes) == {"meft1": [(64.0, 64.0), (128.0, 128.0)]}
    assert memory_over_depth(made) is None


def test_memory_time_and_score_over_reversible_layers():
    made = [record(0.5 + frozen / 10, f"method.frozen_layers={frozen}", activations=frozen * MIB) for frozen in (1, 4)]
    memory, time, score = reversible_layers([*made, record(0.9, "method=full")]).axes
    assert lines(memory) == {"meft1": [(2.0, 4.0), (5.0, 1.0)]}
    assert lines(time) == {"meft1": [(2.0, 0.5), (5.0, 0.5)]}
    assert lines(score) == {"meft1": [(2.0, 90.0), (5.0, 60.0)]}
    assert reversible_layers(made[:1]) is None


def test_the_initialisation_study():
    def start(best, distance, *overrides):
        return record(best, "method=lora", *overrides, start={"output_distance": distance})

    usual = start(0.8, 0.0)
    made = [
        usual,
        start(0.7, 0.2, "method.init_constant=0.1"),
        start(0.5, 0.4, "method.init_constant=1"),
        start(0.6, 0.3, "method.init_noise=0.1", "seed=1"),
        start(0.7, 0.5, "method.init_noise=0.1", "seed=2"),
        record(0.9, "method=meft1", start={"output_distance": 1.0}),
        record(0.9, "method=lora", "method.init_noise=9"),  # of an earlier version: no distance
    ]
    (axes,) = initialisation_study(made).axes
    assert axes.get_title() == "minilm: rte accuracy, lora"
    assert lines(axes) == {
        "as usual": [(0.0, 80.0)],
        "constant": [(0.2, 70.0), (0.4, 50.0)],
        "noise": [(0.4, pytest.approx(65.0))],
    }
    assert initialisation_study([usual]) is None


@pytest.mark.parametrize(
    "draw",
    [score_against_memory, score_against_distance, average_against_memory, average_against_distance,
     training_loss_curves, score_curves, memory_over_depth, memory_over_length, reversible_layers,
     initialisation_study],
)  # fmt: skip
def test_nothing_to_draw(draw):
    assert draw([study([0.1]), started(0.1, 0.1)]) is None


def test_the_same_figure_is_the_same_file(tmp_path):
    contents = []
    for folder in ("a", "b"):
        files = save_figure(score_against_memory([record()]), tmp_path / folder, "figure")
        assert [file.name for file in files] == ["figure.png", "figure.svg"]
        contents.append([file.read_bytes() for file in files])
    assert contents[0] == contents[1]
