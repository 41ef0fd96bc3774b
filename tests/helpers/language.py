"""Rows that language models learn to write, and tokenizers and models that read them by bytes."""

from transformers import LlamaConfig, LlamaForCausalLM

from tests.helpers.folders import byte_tokenizer

# Templates in the manner of ChatML; the second marks what the assistant says, the third begins with BOS and alternates.
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + eos_token + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MARKED = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}{% if m['role'] == 'assistant' %}"
    "{% generation %}{{ m['content'] + eos_token }}{% endgeneration %}"
    "{% else %}{{ m['content'] + eos_token }}{% endif %}"
    "{{ '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
INST = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'system' %}{{ raise_exception('no system here') }}{% endif %}"
    "{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
)
# As Qwen3's: the last answer has an empty thought before it, the ones before it have none.
THINKS = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m['role'] == 'assistant' and loop.last %}{{ '<think></think>' }}{% endif %}"
    "{{ m['content'] + eos_token + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TALK = [
    {"role": "user", "content": "Two and two?"},
    {"role": "assistant", "content": "Four."},
    {"role": "user", "content": "And one?"},
    {"role": "assistant", "content": "Five."},
]
LANGUAGE_ROWS = {
    "lm": [{"text": "The cat sat."}, {"text": "A dog ran home."}, {"text": "It rains."}],
    "instruct": [{"prompt": "2 + 2 =", "completion": " 4"}, {"prompt": "Sky?", "completion": " It is blue."}],
    "chat": [{"messages": TALK}, {"messages": [{"role": "system", "content": "Be brief."}, *TALK[:2]]}],
}


def chat_tokenizer(template=CHATML):
    """The tokenizer that reads texts by bytes, with a chat template."""
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    tokenizer.model_max_length = 128
    return tokenizer


def make_llama_folder(folder, template=CHATML):
    """Saves a tiny Llama with random weights and a tokenizer that reads texts by bytes."""
    chat_tokenizer(template).save_pretrained(folder)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(
        vocab_size=300, num_key_value_heads=2, max_position_embeddings=128, bos_token_id=0, pad_token_id=1,
        eos_token_id=2, **sizes,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return str(folder)
