from meft_runner.reports.reversal_study import (
    gradients_by_layer,
    reversal_by_depth,
    reversal_by_layer,
    reversal_table,
)
from meft_runner.run.console import texts
from tests.helpers.records import record, study

FLOAT = ("method=meft3", "method.reversal=float", "method.strict=false")


def test_the_worst_layer_and_the_worst_seed():
    records = [
        study([0.5, 0.1], "method=meft1", "seed=1", cosines=[0.9, 1.0]),
        study([0.2, 0.7], "method=meft1", "seed=2", cosines=[0.95, 0.8], mismatches=3),
        study([None, 0.1], *FLOAT, cosines=[None, 0.5]),
        record(),
    ]
    assert texts(reversal_table(records)).to_dict("records") == [
        {
            "backbone": "minilm", "task": "rte", "method": "meft1", "mode": "exact", "precision": "fp32", "layers": "2",
            "error at the bottom": "0.5", "largest error": "0.7", "smallest cosine": "0.8", "mismatches": "3",
        },
        {
            "backbone": "minilm", "task": "rte", "method": "meft3", "mode": "float", "precision": "fp32", "layers": "2",
            "error at the bottom": "not finite", "largest error": "not finite", "smallest cosine": "not finite",
            "mismatches": "-",
        },
    ]  # fmt: skip


def test_every_layer_has_its_error_and_cosine():
    table = gradients_by_layer(
        [study([0.5, 0.125], cosines=[0.75, 1.0]), study([None, 0.1, 0.0], *FLOAT, cosines=[None, 0.5, 1.0])]
    )
    cells = texts(table)[["mode", "figure", "layer 0", "layer 1", "layer 2"]].to_numpy().tolist()
    assert cells == [
        ["exact", "error", "0.5", "0.12", "-"], ["exact", "cosine", "0.75", "1", "-"],
        ["float", "error", "-", "0.1", "0"], ["float", "cosine", "-", "0.5", "1"],
    ]  # fmt: skip


def test_errors_by_layer():
    figure = reversal_by_layer([study([0.0, 0.0]), study([None, 0.1], *FLOAT), study([0.0] * 4, "method=meft2")])
    two, four = figure.axes
    assert (two.get_title(), four.get_title()) == ("minilm: rte, fp32, 2 layers", "minilm: rte, fp32, 4 layers")
    lines = {line.get_label(): line for line in two.lines}
    assert lines["meft1, exact"].get_ydata().tolist() == [0.0, 0.0]
    assert lines["meft3, float"].get_ydata()[1] == 0.1
    (cross,) = [line for line in two.lines if line.get_marker() == "x"]
    assert cross.get_xdata() == [0]  # the bottom layer's error is not finite
    assert figure.legends[0].get_title().get_text() == "x at the top: not finite"


def test_errors_by_depth():
    shallow, deep = study([0.01, 0.001]), study([0.1] * 4, "backbone.repeat=2")
    (axes,) = reversal_by_depth([shallow, deep]).axes
    assert axes.lines[0].get_xdata().tolist() == [2, 4]
    assert axes.lines[0].get_ydata().tolist() == [0.01, 0.1]
    assert reversal_by_depth([shallow]) is None


def test_nothing_to_draw():
    assert reversal_table([record()]).empty
    assert reversal_by_layer([record()]) is None
    assert reversal_by_depth([record()]) is None
