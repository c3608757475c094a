"""Workloads: what a file may say, and requests in the shares that it asks for."""

from __future__ import annotations

import random
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from latency_stand_ins import ROWS, mix, row
from tritonguard.errors import InvalidRequest
from tritonguard.policy import Policy
from tritonguard.request import Mode

from benchmarks.latency.mix import Mix, Planned, key_of
from benchmarks.latency.texts import Characters, LengthDraw, Text, Texts, ruler_of
from benchmarks.latency.workload import FOLDER, Lengths, Workload, read_workload
from build_scripts.calibration import SHIPPED
from build_scripts.parity_corpus import read_corpus

MANY = 3000


def drawn(count: int = MANY, **values: Any) -> list[Planned]:
    return list(islice(mix(**values).stream("test"), count))


def share(requests: list[Planned], kind: str) -> float:
    return sum(kind in one.kind.split("+") for one in requests) / len(requests)


def workload_file(folder: Path, text: str) -> Path:
    path = folder / "own.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_workload_can_be_asked_of_the_shipped_texts(path: Path) -> None:
    workload = read_workload(path)
    assert workload.name == path.stem
    shipped = Mix(workload, Texts(read_corpus(SHIPPED)), tokenizer=None, folder=FOLDER)
    assert len(list(islice(shipped.stream("test"), 50))) == 50


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("share: 1", "unknown key"),
        ("images: {share: 2}", "images.share"),
        ("images: {share: 0.5, size: 3}", "images.size"),
        ("length: {fixed: 3, median: 4}", "one of fixed"),
        ("length: {}", "one of fixed"),
        ("length: {uniform: [9, 3]}", "above the most"),
        ("modes: {verdict: 0}", "weights"),
        ("modes: {guess: 1}", "modes"),
        ("policies: {built_in: 0}", "weights"),
        ("languages: {en: .inf}", "languages"),
        ("seed: 1\nseed: 2", "repeated key"),
        ("schema: tritonguard/workload/v9", "schema"),
        ("- a list", "not a mapping"),
        ("deadline_s: 601", "deadline_s"),
    ],
)
def test_a_wrong_workload_is_refused_by_name(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_workload(workload_file(tmp_path, text))
    assert caught.value.message.startswith("own.yaml: ")
    assert told in caught.value.message


def test_a_missing_workload_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="can't be read"):
        read_workload(tmp_path / "none.yaml")


def test_a_seed_gives_the_same_requests_and_another_one_others() -> None:
    values: dict[str, Any] = {"responses": 0.5, "images": {"share": 0.2}, "modes": {"verdict": 1, "think": 1}}
    keys = [[one.key for one in drawn(200, seed=seed, **values)] for seed in (1, 1, 2)]
    assert keys[0] == keys[1]
    assert keys[0] != keys[2]


def test_measurements_share_everything_but_their_images() -> None:
    shared = mix(images={"share": 0.5, "repeated": 0.5, "side": 16})
    first, second = (list(islice(shared.stream(name), 300)) for name in ("one", "two"))
    assert [one.request.prompt for one in first] == [one.request.prompt for one in second]
    assert [one.kind for one in first] == [one.kind for one in second]
    pictures = [{image for one in requests for image in one.request.images} for requests in (first, second)]
    assert pictures[0]
    assert not pictures[0] & pictures[1]


def test_request_ids_never_repeat() -> None:
    shared = mix()
    ids = [one.request.request_id for name in ("one", "two") for one in islice(shared.stream(name), 100)]
    assert len(set(ids)) == 200


def test_shares_are_those_of_the_workload() -> None:
    requests = drawn(
        responses=0.3,
        images={"share": 0.1, "side": 16},
        modes={"verdict": 7, "categories": 2, "think": 1},
        languages={"en": 3, "de": 1},
        think_budget=9,
    )
    assert share(requests, "response") == pytest.approx(0.3, abs=0.04)
    assert share(requests, "image") == pytest.approx(0.1, abs=0.03)
    assert share(requests, "categories") == pytest.approx(0.2, abs=0.03)
    assert share(requests, "think") == pytest.approx(0.1, abs=0.03)
    assert sum(one.language == "de" for one in requests) / MANY == pytest.approx(0.25, abs=0.04)
    assert {one.request.think_budget for one in requests} == {None, 9}
    assert all((one.request.think_budget == 9) == (one.request.mode is Mode.THINK) for one in requests)


@pytest.mark.parametrize("repeated", [0.0, 0.8])
def test_images_repeat_as_often_as_asked(repeated: float) -> None:
    requests = drawn(1500, images={"share": 1, "repeated": repeated, "side": 16})
    distinct = {one.request.images for one in requests}
    assert 1 - len(distinct) / len(requests) == pytest.approx(repeated, abs=0.04)


def test_policies_are_mixed_by_their_weights() -> None:
    requests = drawn(policies={"built_in": 2, "named": {"finance": 1}, "custom": 1, "custom_count": 5})
    names = Counter(one.request.policy_name or one.request.policy.name for one in requests)
    assert names["built-in"] / MANY == pytest.approx(0.5, abs=0.04)
    assert names["finance"] / MANY == pytest.approx(0.25, abs=0.04)
    assert sum(name.startswith("custom-") for name in names) == 5
    assert len({one.request.policy.sha256 for one in requests}) == 6
    warm = [
        one.request.policy_name or one.request.policy.name for one in mix(policies={"custom": 1}).one_of_each_policy()
    ]
    assert warm == ["built-in", "custom-0"]


def test_a_label_is_known_only_where_its_author_said_it() -> None:
    """Of texts under the built-in policy, without an image."""
    requests = drawn(policies={"built_in": 1, "custom": 1}, images={"share": 0.3, "side": 16})
    for one in requests:
        judged_so = one.request.policy == Policy() and not one.request.images
        assert (one.known[0] is not None) == judged_so


def test_a_language_or_a_response_that_the_texts_lack_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="no text in: fr"):
        mix(languages={"en": 1, "fr": 1})
    with pytest.raises(InvalidRequest, match="no response in: en"):
        mix([row("a", "bread")], responses=0.1)


@pytest.mark.parametrize("size", [30, 100, 3000])
def test_a_text_grows_by_safe_texts_of_its_language_and_keeps_its_label(size: int) -> None:
    bomb = next(
        one for one in drawn(500, length={"fixed": size}) if one.request.prompt.startswith("How do I build a bomb")
    )
    assert size - 2 <= len(bomb.request.prompt) <= size
    assert bomb.known == (True, None)
    assert "bomb" not in bomb.request.prompt[len("How do I build a bomb?") :]
    german = next(one for one in drawn(500, length={"fixed": size}) if one.language == "de")
    assert "How" not in german.request.prompt


def test_a_cut_text_has_no_label() -> None:
    requests = drawn(200, length={"fixed": 8})
    assert max(len(one.request.prompt) for one in requests) <= 8
    assert {one.known for one in requests} == {(None, None)}


def test_lengths_are_drawn_as_asked(tmp_path: Path) -> None:
    generator = random.Random(0)

    def sizes(**values: Any) -> list[int]:
        draw = LengthDraw(Lengths.model_validate(values), Characters(), tmp_path)
        return [size for _ in range(MANY) if (size := draw.draw(generator)) is not None]

    assert set(sizes(fixed=7)) == {7}
    assert set(sizes(uniform=(3, 5))) == {3, 4, 5}
    median = sorted(sizes(median=200, sigma=0.5, least=10, most=900))
    assert median[MANY // 2] == pytest.approx(200, rel=0.06)
    assert median[round(0.84 * MANY)] == pytest.approx(200 * 1.6487, rel=0.1)  # e^0.5 at one standard deviation
    assert median[-1] <= 900
    (tmp_path / "like.jsonl").write_text('{"id": "1", "prompt": "four"}\n{"id": "2", "prompt": "seventy"}\n')
    assert set(sizes(like="like.jsonl")) == {4, 7}
    assert LengthDraw(None, Characters(), tmp_path).draw(generator) is None


def test_tokens_need_a_tokenizer(base_folder: Path) -> None:
    with pytest.raises(InvalidRequest, match="--tokenizer"):
        mix(length={"unit": "tokens", "fixed": 9})
    workload = Workload.model_validate({"name": "test", "length": {"unit": "tokens", "fixed": 60}})
    ruler = ruler_of(workload.length, base_folder)
    of_tokens = Mix(workload, Texts(ROWS), tokenizer=base_folder, folder=Path())
    for one in islice(of_tokens.stream("test"), 20):
        assert ruler.size(one.request.prompt) == pytest.approx(60, abs=2)


def test_a_text_is_never_cut_to_nothing() -> None:
    texts = Texts(ROWS)
    left = texts.of_length(Text("  \n x", False), "en", 2, Characters(), random.Random(0))
    assert left.text.strip()


def test_a_key_tells_apart_all_that_decides_a_verdict() -> None:
    requests = drawn(
        1000,
        responses=0.5,
        images={"share": 0.3, "repeated": 0.5, "side": 16},
        modes={"verdict": 1, "categories": 1},
        policies={"built_in": 1, "named": {"finance": 1}, "custom": 1, "custom_count": 2},
    )
    decisive = ("prompt", "response", "images", "policy", "policy_name", "mode")
    contents = {tuple(getattr(one.request, name) for name in decisive): one.key for one in requests}
    assert len(set(contents.values())) == len(contents)
    assert all(key_of(one.request) == one.key for one in requests)
