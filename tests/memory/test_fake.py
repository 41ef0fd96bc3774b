"""What is predicted from shapes alone is what is tracked on a real step."""

from dataclasses import replace

import pytest
import torch

from meft_runner.config import Head, Kernel, Precision, WeightForm
from meft_runner.memory.step import StepMemory
from meft_runner.memory_report.case import Case
from meft_runner.memory_report.prediction import dominant, measure, predict, trace
from meft_runner.reversible.chunks import Chunks
from tests.helpers.composed import settings

SMALL = {
    "minilm": {},
    "roberta_base": {"hidden_size": 256, "intermediate_size": 1024, "num_attention_heads": 4, "num_hidden_layers": 4},
    "opt_125m": {"hidden_size": 256, "word_embed_proj_dim": 256, "ffn_dim": 1024, "num_attention_heads": 4,
                 "num_hidden_layers": 4},
    "bart_base": {"d_model": 256, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
                  "decoder_attention_heads": 4, "encoder_ffn_dim": 1024, "decoder_ffn_dim": 1024},
    "deberta_v3_base": {"hidden_size": 256, "intermediate_size": 1024, "num_attention_heads": 4,
                        "num_hidden_layers": 4},
    "smollm2_135m": {"hidden_size": 192, "intermediate_size": 768, "num_attention_heads": 4, "num_key_value_heads": 2,
                     "num_hidden_layers": 4, "vocab_size": 2000},
    "mistral_7b": {"hidden_size": 192, "intermediate_size": 768, "num_attention_heads": 4, "num_key_value_heads": 2,
                   "head_dim": 64, "num_hidden_layers": 3, "vocab_size": 2000, "sliding_window": 16},
    "llama3_1b": {"hidden_size": 256, "intermediate_size": 896, "num_attention_heads": 4, "num_key_value_heads": 2,
                  "head_dim": 64, "num_hidden_layers": 4, "vocab_size": 2048},
    "qwen3_0b6": {"hidden_size": 256, "intermediate_size": 768, "num_attention_heads": 4, "num_key_value_heads": 2,
                  "head_dim": 128, "num_hidden_layers": 4, "vocab_size": 2048},
    "vit": {"hidden_size": 192, "intermediate_size": 768, "num_hidden_layers": 3, "num_attention_heads": 3,
            "image_size": 64},
}  # fmt: skip
METHODS = {"full": ["method=full"], "lora + checkpointing": ["method=lora", "method.checkpointing=true"],
           "meft1": ["method=meft1", "method.chunks=3"],
           "meft3 + offload": ["method=meft3", "method.chunks=3", "method.offload=true"],
           "lora reversed": ["method=lora", "method.reversal=exact", "method.chunks=3"]}  # fmt: skip
INSIDE_LAYERS = {f"{name} reversed": [f"method={name}", "method.reversal=exact"] for name in ("dora", "ia3", "vera")}


def case(backbone, method, batch=8, length=64, **kwargs):
    task = ["task=cifar10"] if backbone == "vit" else []
    chosen = settings(f"backbone={backbone}", *task, *(METHODS | INSIDE_LAYERS).get(method, [f"method={method}"]))
    model = replace(chosen.backbone, config=chosen.backbone.config | SMALL[backbone])
    head = {"head": Head.classification} if backbone == "opt_125m" else {}  # a loss would hide what layers need
    return Case(model, chosen.method, batch, None if backbone == "vit" else length, **head | kwargs)


def in_form(asked, form):
    return replace(asked, backbone=replace(asked.backbone, weights=WeightForm[form]))


def assert_predicted(asked):
    predicted, measured = predict(asked), measure(asked)
    for column in ("parameters_bytes", "gradients_bytes", "optimizer_bytes", "host_bytes"):
        assert predicted[column] == measured[column]
    for column in ("activations_bytes", "peak_bytes", "activation_paper_bytes", "retained_after_forward_bytes"):
        assert predicted[column] == pytest.approx(measured[column], rel=0.01), column
    assert predicted["trainable_parameters"] == measured["trainable_parameters"]
    assert (predicted["source"], measured["source"]) == ("predicted", "tracked")


QUICK = {("minilm", "meft3 + offload"), ("bart_base", "lora + checkpointing"), ("vit", "full"),
         ("minilm", "lora reversed"), ("deberta_v3_base", "meft1"), ("smollm2_135m", "meft1")}  # fmt: skip
CASES = [(backbone, method) for backbone in SMALL for method in METHODS]
CASES += [("minilm", method) for method in (*INSIDE_LAYERS, "dora", "vera", "meft1_start", "meft3_start")]


@pytest.mark.parametrize(
    ("backbone", "method"),
    [pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow) for case in CASES],
)
@pytest.mark.thin(6)
def test_predicted_equals_tracked(backbone, method):
    assert_predicted(case(backbone, method))


@pytest.mark.parametrize("rotary", [
    {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
     "original_max_position_embeddings": 64},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
    {"rope_type": "dynamic", "factor": 2.0},
    {"rope_type": "longrope", "factor": 4.0, "original_max_position_embeddings": 32, "short_factor": [1.0] * 24,
     "long_factor": [2.0] * 24},
], ids=lambda rotary: rotary["rope_type"])  # fmt: skip
@pytest.mark.thin(4)
def test_predicted_equals_tracked_whatever_rotates(rotary):
    asked = case("smollm2_135m", "meft1", batch=2)
    config = asked.backbone.config | {
        "num_hidden_layers": 1,
        "head_dim": 48,
        "rope_parameters": rotary | {"rope_theta": 1e4},
    }
    assert_predicted(replace(asked, backbone=replace(asked.backbone, config=config)))


@pytest.mark.parametrize(("backbone", "method"), [
    ("smollm2_135m", "meft1"),
    *(pytest.param(*each, marks=pytest.mark.slow) for each in
      [("bart_base", "meft3"), ("bart_base", "lora reversed"), ("opt_125m", "lora reversed"), ("minilm", "meft3")]),
])  # fmt: skip
@pytest.mark.slow
def test_predicted_equals_tracked_in_rows_of_many_pieces(backbone, method):
    asked = case(backbone, method, batch=2, length=120)
    assert_predicted(replace(asked, method=replace(asked.method, chunks=16)))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora + checkpointing", "meft3"])
def test_predicted_equals_tracked_under_autocast(method):
    assert_predicted(case("roberta_base", method, precision=Precision.bf16))


FORMS = [("fp32", Precision.fp32), ("fp32", Precision.bf16), ("bf16", Precision.bf16), ("nf4", Precision.fp32),
         ("nf4", Precision.bf16), ("int8", Precision.bf16)]  # fmt: skip
IN_FORMS = [("llama3_1b", "lora + checkpointing"), ("llama3_1b", "meft1"), ("qwen3_0b6", "lora + checkpointing"),
            ("qwen3_0b6", "meft1")]  # fmt: skip
IN_FORMS += [("minilm", "meft1"), ("opt_125m", "lora reversed"), ("vit", "meft3"), ("vit", "ia3"), ("minilm", "dora"),
             ("minilm", "vera")]  # fmt: skip
NOT_INT8 = ("dora", "ia3")  # peft cannot; peft gives int8 layers float32 on a CPU, which turns their biases for good
QUICK_FORMS = {("qwen3_0b6", "meft1", "nf4"), ("opt_125m", "lora reversed", "int8")}


@pytest.mark.parametrize(("backbone", "method", "form", "precision"), [
    pytest.param(*each, *form, marks=() if (*each, form[0]) in QUICK_FORMS and form[1] is Precision.bf16
                 else pytest.mark.slow)
    for each in IN_FORMS for form in FORMS if each[1] not in NOT_INT8 or form[0] != "int8"
])  # fmt: skip
@pytest.mark.thin(2)
def test_predicted_equals_tracked_in_every_form(backbone, method, form, precision):
    assert_predicted(in_form(case(backbone, method, precision=precision), form))


def test_half_precision_weights_are_not_converted():
    """Under autocast a copy of each float32 matrix is kept for the backward pass."""
    single, half = (in_form(case("opt_125m", "lora", precision=Precision.bf16), form) for form in ("fp32", "bf16"))
    kept = [predict(asked)["retained_after_forward_bytes"] for asked in (single, half)]
    copies = 4 * (4 * 256 * 256 + 2 * 256 * 1024) * 2  # layers, matrices, bytes
    assert kept[0] - kept[1] > copies


@pytest.mark.slow
def test_packed_weights_take_half_a_byte_and_their_scales():
    single, packed = (predict(in_form(case("opt_125m", "meft1"), form))["parameters_bytes"] for form in ("fp32", "nf4"))
    matrices = 4 * (4 * 256 * 256 + 2 * 256 * 1024)
    expected = matrices * (4 - 4.127 / 8)
    assert single - packed == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("form", ["nf4", "int8"])
@pytest.mark.thin(2)
def test_a_product_with_a_quantised_matrix_has_a_transient_of_that_matrix(form):
    short = [case("opt_125m", "meft1", batch=1, length=2, precision=Precision.bf16, attention=Kernel.flash)]
    short += [in_form(short[0], each) for each in ("bf16", form)]
    plain, _, quantised = (predict(asked)["activations_bytes"] for asked in (short[1], short[0], short[2]))
    largest = 256 * 1024 * 2
    assert largest <= quantised - plain < 3 * largest


@pytest.mark.slow
def test_predicted_equals_tracked_where_gradients_are_accumulated():
    accumulating = case("roberta_base", "full", accumulating=True)
    assert_predicted(accumulating)
    assert predict(accumulating)["peak_bytes"] > predict(replace(accumulating, accumulating=False))["peak_bytes"]


@pytest.mark.slow
def test_repeated_layers_need_what_as_many_layers_need():
    asked = case("minilm", "meft1")
    deep = replace(asked, backbone=replace(asked.backbone, config=asked.backbone.config | {"num_hidden_layers": 12}))
    assert predict(replace(asked, backbone=replace(asked.backbone, repeat=2))) == predict(deep)


def test_a_fused_kernel_keeps_no_scores():
    materialised = case("roberta_base", "full", length=256)
    kept = [predict(replace(materialised, attention=kernel))["retained_after_forward_bytes"] for kernel in Kernel]
    scores = 4 * 8 * 4 * 256 * 256 * 4  # layers, rows, heads, queries, keys, bytes: the softmax alone
    assert kept[0] - kept[1] > 2 * scores


def test_prediction_leaves_random_numbers_and_dropout_alone():
    state, dropout = torch.get_rng_state(), torch.nn.functional.dropout
    predict(case("roberta_base", "meft1", attention=Kernel.flash))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.nn.functional.dropout is dropout


def test_a_timeline_has_the_peak_of_the_prediction():
    asked = case("roberta_base", "meft1")
    timeline = trace(asked)
    batch = 2 * 512 + 8 * 64 * 8  # what is not the model's: ids and labels, rounded
    assert max(timeline.live_bytes) == pytest.approx(predict(asked)["peak_bytes"], abs=2 * batch)
    assert 0 < timeline.backward < timeline.optimizer < len(timeline.live_bytes)


def test_pieces_of_tokens_cut_the_transient_of_a_single_row():
    asked = case("opt_125m", "meft1", batch=1, length=512, attention=Kernel.flash)
    whole, cut = (
        predict(replace(asked, method=replace(asked.method, chunks=chunks)))["activations_bytes"] for chunks in (1, 8)
    )
    assert cut < 0.7 * whole


@pytest.mark.slow
@pytest.mark.parametrize(("batch", "length", "chunks"), [(1, 512, 37), (9, 64, 9)])
@pytest.mark.parametrize("method", ["meft1", "meft3", "lora reversed"])
def test_a_few_of_many_chunks_tell_what_all_of_them_need(batch, length, chunks, method, monkeypatch):
    asked = case("opt_125m", method, batch=batch, length=length, attention=Kernel.flash)
    asked = replace(asked, method=replace(asked.method, chunks=chunks))
    sampled = predict(asked)
    monkeypatch.setattr("meft_runner.memory.fake.SampledChunks", Chunks)
    assert sampled == predict(asked)


def test_the_dominant_part_in_words():
    memory = StepMemory(10, 20, 30, 40, 100, 60, 5)
    assert dominant(memory) == "activations, 40 % of the peak"


@pytest.mark.slow
@pytest.mark.parametrize("precision", [Precision.fp32, Precision.bf16])
@pytest.mark.parametrize("method", ["meft1", "full"])
def test_predicted_equals_tracked_with_a_language_model_s_loss(method, precision):
    asked = case("opt_125m", method, batch=2, length=160, precision=precision, head=Head.lm)  # two chunks of the loss
    assert_predicted(asked)


def test_the_loss_head_of_a_gpu_does_not_cast_its_weight():
    short, long = (
        case("opt_125m", "meft1", 1, length, precision=Precision.bf16, attention=Kernel.flash, head=Head.lm)
        for length in (512, 1024)
    )
    logits = 256 * 50272 * (4 + 2)  # of one chunk of tokens, whatever the length
    head = 50272 * 256 * 2  # its weight as autocast casts it
    for asked in (short, long):
        assert logits + head < predict(asked)["activations_bytes"] < 1.15 * (logits + head)


def floor(backbone, overrides, batch, length, **kwargs):
    """Activations in GiB of a backbone in its real size."""
    chosen = settings(f"backbone={backbone}", *overrides)
    return predict(Case(chosen.backbone, chosen.method, batch, length, **kwargs))["activations_bytes"] / 2**30


@pytest.mark.slow
def test_the_floor_of_roberta_large():
    assert floor("roberta", ["method=meft1"], 32, 128) <= 0.23


@pytest.mark.slow
def test_more_floors():
    checkpointed = ["method=lora", "method.checkpointing=true"]
    assert floor("roberta", ["method=meft3"], 32, 128) <= 0.30
    assert floor("roberta", ["method=meft1"], 32, 512) <= 0.63
    long = {"precision": Precision.bf16, "attention": Kernel.flash, "head": Head.classification}
    assert floor("opt", ["method=meft1"], 1, 2048, **long) <= 0.6 * floor("opt", checkpointed, 1, 2048, **long)


@pytest.mark.slow
@pytest.mark.parametrize(("length", "most", "overrides"), [
    (2048, 0.40, []), (8192, 1.25, []), (32768, 4.8, []), (32768, 2.95, ["method.offload=true"]),
])  # fmt: skip
def test_the_floor_of_long_rows(length, most, overrides):
    half = ["backbone.weights=bf16", "training.precision=bf16"]
    case = {"precision": Precision.bf16, "attention": Kernel.flash, "head": Head.classification}
    found = floor("llama3_8b", ["method=meft1", *half, *overrides], 1, length, **case)
    assert found <= most
    updates = ["method=lora", "method.reversal=exact", "method.scale_1=1/16"]
    assert floor("llama3_8b", [*updates, *half, *overrides], 1, length, **case) <= 1.02 * found


@pytest.mark.slow
def test_the_slope_with_depth():
    slopes = {}
    for name, overrides in (("meft1", ["method=meft1"]), ("lora", ["method=lora", "method.checkpointing=true"])):
        shallow, deep = (floor("bert", overrides, 32, 128, depth=depth) for depth in (12, 48))
        slopes[name] = (deep - shallow) / 36
    assert slopes["meft1"] <= 0.15 * slopes["lora"]
