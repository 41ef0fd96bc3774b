"""What turns rows into a model's inputs: its tokenizer, or its image processor."""

from pathlib import Path

from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoTokenizer,
    BaseImageProcessor,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil
from transformers.utils import is_protobuf_available, is_sentencepiece_available

from meft_runner.backbones import FAMILIES
from meft_runner.backbones.loading import load_config, padding_id
from meft_runner.backbones.reading import reading
from meft_runner.backbones.sources import VOCABULARIES, refused
from meft_runner.config import BackboneSettings
from meft_runner.errors import UserError


def load_tokenizer(backbone: BackboneSettings, source: str, max_length: int) -> PreTrainedTokenizerBase:
    """Loads the tokenizer.

    Raises:
        UserError: it is missing, cannot be read or is another model's, or the model does not read inputs of
            `max_length` tokens.
    """
    _check_vocabulary(backbone, source)
    config = load_config(backbone, source)
    family = FAMILIES[config.model_type]
    with reading(backbone, source, "tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        _check_tokens(backbone, source, tokenizer, config)
        tokenizer.pad_token_id = padding_id(config)
        if "attention_mask" not in tokenizer.model_input_names:  # padding would be read like any word
            tokenizer.model_input_names = [*tokenizer.model_input_names, "attention_mask"]
        if getattr(config, "type_vocab_size", 0) < 2:  # a BERT tokenizer would number the second sentence 1
            tokenizer.model_input_names = [name for name in tokenizer.model_input_names if name != "token_type_ids"]
        family.finish_tokenizer(tokenizer, config)
        tokenizer("any text", "and another")  # some miss a token that they need only now
    positions = family.positions(config)
    if max_length > positions:
        raise UserError(f"task.max_length={max_length}: {backbone.name} reads at most {positions} tokens. Lower it.")
    tokenizer.model_max_length = positions
    return tokenizer


def load_image_processor(backbone: BackboneSettings, source: str) -> BaseImageProcessor:
    """Loads what scales and normalises images; ViT's own where a local folder has none, at the model's size.

    Raises:
        UserError: it cannot be read, or makes images of another size than the model reads.
    """
    config = load_config(backbone, source)
    if backbone.path is not None and not (Path(source) / "preprocessor_config.json").is_file():
        return ViTImageProcessorPil(size={"height": config.image_size, "width": config.image_size})
    expected = (config.num_channels, config.image_size, config.image_size)
    with reading(backbone, source, "image processor"):
        processor = AutoImageProcessor.from_pretrained(source, backend="pil", trust_remote_code=False)
        made = processor(images=[Image.new("RGB", (48, 32))], return_tensors="pt")["pixel_values"].shape[1:]
    if tuple(made) != expected:
        raise refused(
            backbone, source, f"its preprocessor_config.json makes images of {_shape(made)}, the model reads "
            f"{_shape(expected)}", "Take the model's own, or remove the file for images scaled to the model's size.",
        )  # fmt: skip
    return processor


def _check_vocabulary(backbone: BackboneSettings, source: str) -> None:
    """Makes sure that a tokenizer's files are there and can be read.

    Raises:
        UserError: there are none, or only some that need a package which is not installed.
    """
    found = [name for name in VOCABULARIES if (Path(source) / name).is_file()]
    if not found:
        complaint = f"no tokenizer there ({' or '.join(VOCABULARIES)})"
        raise refused(backbone, source, complaint, "Save the model's tokenizer into it.")
    if all(name.endswith(".model") for name in found) and not (
        is_sentencepiece_available() and is_protobuf_available()
    ):
        complaint = f"its tokenizer, {found[0]}, needs packages that are not installed"
        raise refused(backbone, source, complaint, "Run pip install meft-runner[sentencepiece].")


def _check_tokens(
    backbone: BackboneSettings, source: str, tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig
) -> None:
    """Makes sure that a tokenizer is the model's.

    Raises:
        UserError: the model has no vector for some of its tokens, or another one for padding.
    """
    own = "Save the model's own tokenizer into it."
    tokens = max(tokenizer.get_vocab().values(), default=-1) + 1
    if not 0 < tokens <= config.vocab_size:
        complaint = f"its tokenizer numbers {tokens} tokens, the model {config.vocab_size} (vocab_size in config.json)"
        raise refused(backbone, source, complaint, own)
    theirs, ours = tokenizer.pad_token_id, getattr(config, "pad_token_id", None)
    if theirs is not None and ours is not None and theirs != ours:
        complaint = f"its tokenizer pads with token {theirs}, the model with token {ours} (pad_token_id in config.json)"
        raise refused(backbone, source, complaint, own)


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(str(size) for size in shape)
