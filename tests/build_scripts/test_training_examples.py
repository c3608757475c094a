"""What is trained is what is served: an example's ids are the mode's own prompt and the program's answer behind it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from tritonguard import CustomCategory, GuardRequest, Mode, Policy
from tritonguard.policy_parts import BUILT_IN, PolicyPart, parts_of

import build_scripts
from build_scripts.training_examples import Branch, Encoder, Example, Task
from build_scripts.training_traces import trace
from preprocessing.prompt import PromptBuilder

MODES = (Mode.VERDICT, Mode.CATEGORIES, Mode.THINK)
NAMES = ("Malware", "Violence")
TEMPLATE = Path(build_scripts.__file__).parent / "embedded" / "chat_template.jinja"
FREE = parts_of(Policy(name="free", custom_policy="Nothing about bees."))[0]
LISTED = parts_of(Policy(name="list", custom_taxonomy=tuple(CustomCategory(name=name) for name in NAMES)))[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level tokenizer that knows the words of an answer, and the real template."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=340, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(["User Safety: safe\nResponse Safety: unsafe\n"] * 20, trainer)
    tokenizer.add_special_tokens(
        [AddedToken(text, special=True) for text in ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>")]
    )
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<bos>", "eos_token": "<eos>"}))
    (folder / "chat_template.jinja").write_text(TEMPLATE.read_text())
    return folder


@pytest.fixture(scope="module")
def encoder(folder: Path) -> Encoder:
    return Encoder(folder)


@pytest.fixture(scope="module")
def builder(folder: Path) -> PromptBuilder:
    return PromptBuilder(folder, max_tokens=100_000)


def prompt_ids(builder: PromptBuilder, task: Task, mode: Mode) -> list[int]:
    """As the server builds it."""
    request = GuardRequest(prompt=task.prompt, response=task.response, mode=mode)
    return builder.build(request, task.part).ids.tolist()


def answer_ids(builder: PromptBuilder, task: Task, mode: Mode, *, user: str, response: str | None) -> list[int]:
    """The published answer, piece by piece as the decode program writes it."""
    encode = builder.encode_text
    ids: list[int] = []
    if mode is Mode.THINK:
        reasoning = trace(task.unsafe, task.names or (), response=task.response, response_unsafe=task.response_unsafe)
        ids += [*encode("<think>\n"), *encode(reasoning + "\n"), *encode("</think>")]
    ids += [*encode("User Safety:"), *encode(f" {user}")]
    if response is not None:
        ids += [*encode("\nResponse Safety:"), *encode(f" {response}")]
    if mode is Mode.CATEGORIES and task.names and (task.unsafe or task.response_unsafe):
        ids += encode("\nSafety Categories:")
        for index, name in enumerate(task.names):
            ids += [*(encode(",") if index else ()), *encode(f" {name}")]
        ids.append(builder.end_of_turn)
    return ids


def whole(example: Example, branch: Branch) -> list[int]:
    return [*example.prefix, *example.trunk, *branch.ids]


TASKS = {
    "unsafe prompt": (Task("say bad things", True, names=NAMES, modes=MODES), "unsafe", None),
    "unsafe prompt without names": (Task("say bad things", True, modes=MODES), "unsafe", None),
    "safe prompt": (Task("say good things", False, modes=MODES), "safe", None),
    "exchange": (Task("say bad", True, "never", False, NAMES, modes=MODES), "unsafe", "safe"),
    "unsafe response": (Task("hello", False, "bad", True, NAMES, modes=MODES), "safe", "unsafe"),
    "custom list": (Task("say bad", True, names=NAMES[:1], part=LISTED, modes=MODES), "unsafe", None),
    "free text": (Task("bees", True, names=("Bees",), part=FREE, modes=MODES), "unsafe", None),
    "one mode": (Task("say bad things", True, names=NAMES, modes=(Mode.CATEGORIES,)), "unsafe", None),
}


@pytest.mark.parametrize("name", TASKS)
def test_a_branch_is_the_prompt_of_its_mode_and_the_answer_of_its_program(
    encoder: Encoder, builder: PromptBuilder, name: str
) -> None:
    task, user, response = TASKS[name]
    example = encoder.encode(task)
    assert len(example.branches) == len(task.modes)
    for mode, branch in zip(task.modes, example.branches, strict=True):
        expected = prompt_ids(builder, task, mode) + answer_ids(builder, task, mode, user=user, response=response)
        assert whole(example, branch) == expected, mode
    assert example.length == len(example.trunk) + sum(len(branch.ids) for branch in example.branches)


@pytest.mark.parametrize("name", TASKS)
def test_a_choice_is_read_behind_its_head_and_aims_at_its_label(
    encoder: Encoder, builder: PromptBuilder, name: str
) -> None:
    task, _, _ = TASKS[name]
    heads = [("User Safety:", task.unsafe), ("\nResponse Safety:", task.response_unsafe)]
    expected = heads if task.response is not None else heads[:1]
    for branch in encoder.encode(task).branches:
        assert [label for _, label in branch.choices] == [label for _, label in expected]
        for (index, label), (head, _) in zip(branch.choices, expected, strict=True):
            ids = builder.encode_text(head)
            assert branch.ids[index + 1 - len(ids) : index + 1] == ids
            assert branch.ids[index + 1] == (encoder.unsafe if label else encoder.safe)


@pytest.mark.parametrize("name", TASKS)
def test_names_and_reasoning_are_the_text_that_the_model_has_to_write_itself(
    encoder: Encoder, builder: PromptBuilder, name: str
) -> None:
    task, _, _ = TASKS[name]
    encode = builder.encode_text
    for mode, branch in zip(task.modes, encoder.encode(task).branches, strict=True):
        assert all(branch.ids[index + 1] == id for index, id in branch.texts)
        written = [id for _, id in branch.texts]
        if mode is Mode.THINK:
            said = trace(task.unsafe, task.names or (), response=task.response, response_unsafe=task.response_unsafe)
            assert written == [*encode(said + "\n"), *encode("</think>")]
        elif mode is Mode.CATEGORIES and task.names:
            listed = [encode(f" {name}") for name in task.names]
            assert written[-1] == builder.end_of_turn
            assert written[: len(listed[0])] == listed[0]
            assert written[-1 - len(listed[-1]) : -1] == listed[-1]
        else:
            assert written == []


def test_a_misread_prompt_says_the_wrong_label_and_still_aims_at_the_right_one(encoder: Encoder) -> None:
    example = encoder.encode(Task("say bad", True, "never", False, NAMES, misread=True))
    [branch] = example.branches
    (user, user_label), (response, response_label) = branch.choices
    assert (user_label, response_label) == (True, False)
    assert (branch.ids[user + 1], branch.ids[response + 1]) == (encoder.safe, encoder.safe)


def test_a_side_whose_label_is_unknown_is_not_trained(encoder: Encoder) -> None:
    [branch] = encoder.encode(Task("say", None, "bad", True)).branches
    assert [label for _, label in branch.choices] == [True]
    index, _ = branch.choices[0]
    assert branch.ids[index + 1] == encoder.unsafe


@pytest.mark.parametrize("part", [BUILT_IN, FREE, LISTED], ids=["built-in", "free text", "list"])
def test_the_prefix_of_a_policy_is_shared_by_all_texts_and_modes(
    encoder: Encoder, builder: PromptBuilder, part: PolicyPart
) -> None:
    prefix = encoder.prefix(part)
    assert len(prefix) > 10
    for text in ("zebra", "1 and 2", "(x", "中文"):
        for mode in MODES:
            ids = prompt_ids(builder, Task(text, False, part=part), mode)
            assert tuple(ids[: len(prefix)]) == prefix


def test_the_trunk_holds_all_that_the_modes_share_so_that_a_text_is_read_once(encoder: Encoder) -> None:
    example = encoder.encode(Task("a text that is longer than the others", False, modes=MODES))
    assert len({branch.ids[0] for branch in example.branches}) > 1
    assert len(example.trunk) > 20
