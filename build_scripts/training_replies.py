"""Labelled responses: exchanges of a user and an assistant, and the part of them that is held out.

An unsafe prompt with a refusal is a safe response; a harmless prompt with a hateful answer is an unsafe one. Texts
that go along with an unsafe request are made here by rule: an opening that agrees, then the request itself as a
statement of what follows. They name no method.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tritonguard.errors import BundleError

from build_scripts.training_data import LONGEST_CHARACTERS, Row, Split

# Most rows per source. diasafety's labels are a crowd's and its texts are chat: a small share.
REPLY_CAPS: Mapping[str, int] = {
    "authored_benign": 60,
    "cvalues_responses": 400,
    "derived_hate_replies": 700,
    "derived_refusals": 600,
    "diasafety_train": 350,
}
AGREED, ANSWERED = "authored_agreements", "authored_answers"
HELD_OUT_SHARE = 0.12
LONGEST_RESPONSE = 400

_AGREEMENTS: Mapping[str, Sequence[str]] = {
    "en": ("Sure, here is how to do it step by step:", "Of course! No problem, I will help you with that."),
    "de": ("Klar, so geht das Schritt für Schritt:", "Natürlich helfe ich dir dabei. Fang so an:"),
    "fr": ("Bien sûr, voici comment faire étape par étape :", "D'accord, je vais t'aider à le faire."),
    "es": ("Claro, así se hace paso a paso:", "Por supuesto, te ayudo con eso. Empieza así:"),
    "it": ("Certo, ecco come si fa passo per passo:", "Va bene, ti aiuto a farlo. Comincia così:"),
    "pt": ("Claro, veja como fazer passo a passo:", "Com certeza, eu ajudo você com isso."),
    "ru": ("Конечно, вот как это сделать шаг за шагом:", "Хорошо, я помогу тебе с этим."),
    "zh": ("当然可以,步骤如下:", "没问题,我来帮你做这件事。"),
    "ja": ("もちろんです。手順は次のとおりです:", "わかりました。お手伝いします。"),
    "ko": ("물론이죠. 단계별로 알려드릴게요:", "알겠습니다. 그 일을 도와드릴게요."),
    "ar": ("بالتأكيد، إليك الطريقة خطوة بخطوة:", "حسنًا، سأساعدك في ذلك."),
    "hi": ("ज़रूर, यह रहा तरीका, एक-एक कदम:", "ठीक है, मैं इसमें आपकी मदद करूँगा।"),
}
_ANSWERS: Mapping[str, Sequence[str]] = {
    "en": ("Good question! Here is a short overview:", "Here are a few ideas that may help:"),
    "de": ("Gute Frage! Hier ist ein kurzer Überblick:", "Hier sind ein paar Ideen:"),
    "fr": ("Bonne question ! Voici un court aperçu :", "Voici quelques idées utiles :"),
    "es": ("¡Buena pregunta! Aquí tienes un resumen:", "Aquí tienes algunas ideas:"),
    "it": ("Bella domanda! Ecco una breve panoramica:", "Ecco alcune idee utili:"),
    "pt": ("Boa pergunta! Aqui está um resumo:", "Aqui estão algumas ideias:"),
    "ru": ("Хороший вопрос! Вот краткий обзор:", "Вот несколько идей:"),
    "zh": ("好问题!简要介绍如下:", "以下是一些建议:"),
    "ja": ("良い質問ですね。簡単にまとめると:", "いくつかアイデアを紹介します:"),
    "ko": ("좋은 질문이에요! 간단히 정리하면:", "몇 가지 아이디어를 드릴게요:"),
    "ar": ("سؤال جيد! إليك نظرة عامة قصيرة:", "إليك بعض الأفكار:"),
    "hi": ("अच्छा सवाल! यह रहा एक छोटा सा परिचय:", "यहाँ कुछ सुझाव हैं:"),
}


@dataclass(frozen=True)
class Exchange:
    """unsafe, response_unsafe None: not labelled. names: known categories of the unsafe side."""

    id: str
    source: str
    language: str
    prompt: str
    response: str
    unsafe: bool | None
    response_unsafe: bool
    names: tuple[str, ...]


def load_exchanges(pool: Path, split: Split, *, seed: int) -> tuple[list[Exchange], list[Exchange]]:
    """(to train on, held out): no prompt is in both, and no held-out prompt of `split` is in a trained exchange.

    Agreements and answers are made from the rows of `split.train`. Raises BundleError for a missing source.
    """
    exchanges = [exchange for source in sorted(REPLY_CAPS) for exchange in _labelled(pool, source, seed)]
    exchanges += _authored(split.train, seed)
    kept_away = {row.prompt for row in (*split.family, *split.random)}
    trained: list[Exchange] = []
    held_out: list[Exchange] = []
    for exchange in exchanges:
        digest = hashlib.sha256(f"{seed}/{exchange.prompt}".encode()).digest()
        drawn = int.from_bytes(digest[:8], "big") / 2**64 < HELD_OUT_SHARE
        (held_out if drawn or exchange.prompt in kept_away else trained).append(exchange)
    return trained, held_out


def _labelled(pool: Path, source: str, seed: int) -> list[Exchange]:
    path = pool / f"{source}.jsonl"
    if not path.is_file():
        raise BundleError(f"the training pool has no {path.name}")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows = [row for row in rows if _usable(row)]
    kept = random.Random(f"{seed}/{source}").sample(rows, min(REPLY_CAPS[source], len(rows)))
    return [
        Exchange(
            row["id"],
            source,
            row["language"],
            row["prompt"],
            row["response"],
            None if row["prompt_label"] is None else row["prompt_label"] == "unsafe",
            row["response_label"] == "unsafe",
            tuple(row["mapped_aegis_categories"] or ()),
        )
        for row in kept
    ]


def _usable(row: Mapping[str, Any]) -> bool:
    return (
        row["image"] is None
        and row["response_label"] is not None
        and 0 < len(row["prompt"].strip()) <= LONGEST_CHARACTERS
        and 0 < len((row["response"] or "").strip()) <= LONGEST_RESPONSE
    )


def _authored(rows: Sequence[Row], seed: int, *, most: int = 450) -> list[Exchange]:
    """An agreement for some unsafe prompts, an answer for some harmless ones; short prompts only."""
    made: list[Exchange] = []
    generator = random.Random(f"{seed}/authored")
    for unsafe, openings, source in ((True, _AGREEMENTS, AGREED), (False, _ANSWERS, ANSWERED)):
        fitting = [
            row
            for row in rows
            if row.unsafe == unsafe and len(row.prompt) <= 200 and row.language in openings and _is_request(row)
        ]
        for row in generator.sample(fitting, min(most, len(fitting))):
            opening = generator.choice(openings[row.language])
            response = opening if generator.random() < 0.4 else f"{opening} {row.prompt.strip().rstrip('?.!？。')}"
            made.append(
                Exchange(f"{source}:{row.id}", source, row.language, row.prompt, response, unsafe, unsafe, row.names)
            )
    return made


def _is_request(row: Row) -> bool:
    """Hate speech is said, not asked for: no assistant agrees to it step by step."""
    return row.source not in ("mhc_train", "sghatecheck")
