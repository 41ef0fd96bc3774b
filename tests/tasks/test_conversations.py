import json
from dataclasses import astuple

import pytest
from tokenizers import ByteLevelBPETokenizer, SentencePieceBPETokenizer
from transformers import PreTrainedTokenizerFast

from meft_runner.config import ChatSettings
from meft_runner.errors import UserError
from meft_runner.tasks.conversations import Conversations
from tests.helpers.language import CHATML, INST, MARKED, TALK, THINKS, chat_tokenizer

SYSTEM = {"role": "system", "content": "Be brief."}


def conversations(template, **settings):
    return Conversations(ChatSettings(name="chat", **settings), chat_tokenizer(template))


def encoded(template, messages):
    """The rows that a conversation becomes, as text, and what is learnt of each."""
    form, tokenizer = conversations(template), chat_tokenizer(template)
    found = form.encode(form.read({"messages": messages}, "row 1"), "row 1")
    return [
        (
            tokenizer.decode(each.ids),
            tokenizer.decode([t for t, learnt in zip(each.ids, each.learnt, strict=True) if learnt]),
        )
        for each in found
    ]


@pytest.mark.parametrize("template", [CHATML, MARKED, INST])
def test_what_the_assistant_says_is_learnt_with_its_end_in_every_turn(template):
    rendered = chat_tokenizer(template).apply_chat_template(TALK, tokenize=False)
    ((text, learnt),) = encoded(template, TALK)
    assert text == rendered
    assert learnt == (" Four.</s> Five.</s>" if template == INST else "Four.</s>Five.</s>")


def test_marks_and_prefixes_find_the_same_tokens():
    for messages in (TALK, [SYSTEM, *TALK], TALK[:2]):
        assert encoded(CHATML, messages) == encoded(MARKED, messages)


def test_what_follows_the_last_answer_is_not_read():
    assert encoded(CHATML, [*TALK, {"role": "user", "content": "Why?"}]) == encoded(CHATML, TALK)


def test_answers_that_are_written_otherwise_when_they_are_the_last_are_rows_of_their_own():
    first, second = encoded(THINKS, TALK)
    assert first == (
        "<|im_start|>user\nTwo and two?</s>\n<|im_start|>assistant\n<think></think>Four.</s>\n",
        "<think></think>Four.</s>",
    )
    assert second[0].count("<think>") == 1
    assert second[1] == "<think></think>Five.</s>"


@pytest.mark.parametrize(
    ("kind", "ends", "content"),
    [
        (ByteLevelBPETokenizer, " ", "Four."),
        (ByteLevelBPETokenizer, "\n", "\n\nFour."),
        (SentencePieceBPETokenizer, " ", "Four."),
    ],
)
def test_an_answer_is_learnt_whole_where_a_token_would_span_its_beginning(kind, ends, content):
    template = (
        "{% for m in messages %}{{ m['role'] + ':END' + m['content'] + eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant:END' }}{% endif %}"
    ).replace("END", ends)
    bpe = kind()
    lines = [" Four.", "\n\n", *map(str, TALK), "assistant: user:"] * 9
    bpe.train_from_iterator(lines, vocab_size=290, special_tokens=["</s>", "<unk>"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, eos_token="</s>", chat_template=template)
    form = Conversations(ChatSettings(name="chat"), tokenizer)
    row = {"messages": [TALK[0], {"role": "assistant", "content": content}] * 2}
    (tokens,) = form.encode(row, "row 1")
    assert tokenizer.decode([t for t, learnt in zip(*astuple(tokens), strict=True) if learnt]) == f"{content}</s>" * 2
    asked, _ = form.question({"messages": row["messages"][:2]}, "row 1")
    assert tokens.ids[: len(asked)] == asked


def test_what_is_not_read_of_messages_is_told():
    form = conversations(CHATML)
    messages = [TALK[0] | {"name": None}, TALK[1] | {"weight": 0, "tool_calls": [{"id": "a"}]}]
    assert form.read({"messages": messages}, "row 1") == {"messages": TALK[:2]}
    assert form.notes == ["of messages only role and content are read, not tool_calls, weight"]


def test_a_template_that_rewrites_what_comes_before_an_answer_is_refused():
    rewriting = "{{ messages | length }}" + CHATML
    with pytest.raises(UserError, match="row 1, message 2: the chat template writes what comes before an answer diff"):
        encoded(rewriting, TALK)


def test_marks_without_anything_inside_are_refused():
    with pytest.raises(UserError, match="row 1: the chat template marks nothing that the assistant says"):
        encoded(CHATML + "{% generation %}{% endgeneration %}", TALK)


def test_the_question_is_all_before_the_last_answer():
    form = conversations(CHATML)
    tokens, answer = form.question({"messages": TALK}, "")
    expected = form.tokenizer.apply_chat_template(TALK[:3], add_generation_prompt=True)["input_ids"]
    assert (tokens, answer) == (expected, "Five.")


def test_the_expected_answer_is_all_that_the_template_lets_the_model_write():
    assert conversations(THINKS).question({"messages": TALK}, "")[1].strip() == "<think></think>Five."
    assert conversations(MARKED).question({"messages": TALK}, "")[1].strip() == "Five."


def test_plain_lines_serve_a_tokenizer_without_a_template():
    tokenizer = chat_tokenizer(None)
    form = Conversations(ChatSettings(name="chat", chat_template="plain"), tokenizer)
    (tokens,) = form.encode({"messages": [SYSTEM, *TALK]}, "")
    assert tokenizer.decode(tokens.ids) == (
        "<s>System: Be brief.\nUser: Two and two?\nAssistant: Four.</s>\nUser: And one?\nAssistant: Five.</s>\n"
    )
    learnt = [token for token, each in zip(tokens.ids, tokens.learnt, strict=True) if each]
    assert tokenizer.decode(learnt) == " Four.</s> Five.</s>"
    prompt, answer = form.question({"messages": TALK}, "")
    assert tokenizer.decode(prompt).endswith("And one?\nAssistant:")
    assert answer == " Five."


def test_a_file_with_a_template_takes_the_place_of_the_tokenizers(tmp_path):
    file = tmp_path / "chat.jinja"
    file.write_text(CHATML, encoding="utf-8")
    tokens = [Conversations(ChatSettings(name="chat", chat_template=path), chat_tokenizer(template)).encode(
        {"messages": TALK}, "") for path, template in ((str(file), None), (None, CHATML))]  # fmt: skip
    assert tokens[0] == tokens[1]
    with pytest.raises(UserError, match=r"task.chat_template=.*no.jinja: cannot be read \(No such file"):
        conversations(CHATML, chat_template=str(tmp_path / "no.jinja"))
    file.write_text(" \n", encoding="utf-8")
    with pytest.raises(UserError, match=r"task.chat_template=.*: is empty. Give a file"):
        conversations(CHATML, chat_template=str(file))
    file.write_text("{% for %}", encoding="utf-8")
    with pytest.raises(UserError, match="row 1: the chat template does not take this conversation"):
        conversations(CHATML, chat_template=str(file)).encode({"messages": TALK}, "row 1")


def test_without_a_template_the_key_and_the_way_out_are_named():
    with pytest.raises(
        UserError, match=r"task=chat: .*no chat template. Set task.chat_template=plain .*=FILE .*task=instruct"
    ):
        conversations(None)


def test_messages_can_be_json_in_a_cell():
    assert encoded(CHATML, json.dumps(TALK)) == encoded(CHATML, TALK)


@pytest.mark.parametrize(
    ("messages", "complaint"),
    [
        ("no list", "row 1: messages is 'no list', expected a list of {role, content}"),
        ([], "row 1: messages is \\[\\], expected a list"),
        (None, "row 1: messages is None, expected a list"),
        (["Hello"], "row 1, message 1: is 'Hello', expected role and content"),
        ([{"content": "a"}], "row 1, message 1: is {'content': 'a'}, expected role and content"),
        ([TALK[0], {"role": "assistant"}], "row 1, message 2: is {'role': 'assistant'}, expected role and content"),
        (
            [{"role": "human", "content": "a"}],
            "row 1, message 1: role 'human' is not known, expected system, user, ass",
        ),
        ([TALK[1], TALK[0]], "row 1, message 1: role 'assistant' comes first, expected system or user"),
        ([TALK[0], TALK[0]], "row 1, message 2: role 'user' follows 'user', expected assistant"),
        ([*TALK[:2], TALK[1]], "row 1, message 3: role 'assistant' follows 'assistant', expected user"),
        ([*TALK[:2], SYSTEM], "row 1, message 3: role 'system' follows 'assistant', expected user"),
        ([SYSTEM, TALK[1]], "row 1, message 2: role 'assistant' follows 'system', expected user"),
        ([TALK[0]], "row 1: has no message of the assistant, so there is nothing to learn"),
        ([TALK[0], {"role": "assistant", "content": " "}], "row 1, message 2: column 'content' is empty"),
        ([TALK[0], {"role": "assistant", "content": 4}], "row 1, message 2: column 'content' is 4, expected text"),
    ],
)
def test_what_is_no_conversation(messages, complaint):
    with pytest.raises(UserError, match=complaint):
        conversations(CHATML).read({"messages": messages}, "row 1")


def test_what_the_template_refuses_is_said_in_its_words():
    form = conversations(INST)
    with pytest.raises(UserError, match=r"row 1: the chat template does not take this conversation \(no system here\)"):
        form.encode({"messages": [SYSTEM, *TALK]}, "row 1")
