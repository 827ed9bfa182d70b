"""CLIP's byte-pair vocabulary as a tokenizer's folder keeps it: `vocab.json` and `merges.txt`, or a `tokenizer.json`.

Of a `tokenizer.json` only vocabulary and merges are taken: how CLIP splits text is known, and not the file's to say.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from impasto.errors import CheckpointError
from impasto.generators.foreign.folder import Folder
from impasto.generators.foreign.plain_values import shown

MAX_TOKENS = 2**20
MAX_LENGTH = 512
END = "<|endoftext|>"
SPECIAL_TOKENS = {"unk_token": END, "bos_token": "<|startoftext|>", "eos_token": END, "pad_token": END}


@dataclasses.dataclass(frozen=True, eq=False)
class ClipVocabulary:
    """Tokens and their ids, pairs in the order they merge, the special tokens by role, and the ids of one prompt."""

    tokens: dict[str, int]
    merges: list[tuple[str, str]]
    special: dict[str, str]
    max_length: int


def read_vocabulary(folder: Folder, component: str) -> ClipVocabulary:
    """The vocabulary of a tokenizer's folder; CheckpointError names the file and what is wrong with it."""
    settings = folder.object(f"{component}/tokenizer_config.json")
    if folder.find(f"{component}/vocab.json"):
        where = f"{component}/vocab.json"
        tokens, merges = folder.object(where), _merges_of_lines(folder.text(f"{component}/merges.txt"))
    else:
        where = f"{component}/tokenizer.json"
        tokens, merges = _parts_of(folder.object(where), where)
    _check_tokens(tokens, where)
    _check_merges(merges, tokens, component)
    special = _special_tokens(folder, component, settings)
    for role, token in special.items():
        if token not in tokens:
            raise CheckpointError(f"{component}: {role}: found {shown(token)}, which is not in the vocabulary")
    _refuse_added_tokens(folder, component, tokens)
    length = settings.get("model_max_length", 77)
    if type(length) is not int or not 2 < length <= MAX_LENGTH:
        raise CheckpointError(
            f"{component}/tokenizer_config.json: model_max_length: found {shown(length)}; allowed is 3 to {MAX_LENGTH}"
        )
    return ClipVocabulary(tokens, [(first, second) for first, second in merges], special, length)


def _merges_of_lines(text: str) -> list[Any]:
    return [line.split(" ") for line in text.splitlines() if line and not line.startswith("#version")]


def _parts_of(value: dict[str, Any], where: str) -> tuple[Any, list[Any]]:
    model = value.get("model")
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE":
        raise CheckpointError(f"{where}: model: found {shown(model)}; allowed is a BPE model")
    merges = model.get("merges")
    if not isinstance(merges, list):
        raise CheckpointError(f"{where}: model.merges: found {shown(merges)}; allowed is a list")
    return model.get("vocab"), [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]


def _check_tokens(tokens: Any, where: str) -> None:
    if not isinstance(tokens, dict) or not 0 < len(tokens) <= MAX_TOKENS:
        raise CheckpointError(f"{where}: found {shown(tokens)} as vocabulary; allowed is a token → its id")
    if any(type(index) is not int for index in tokens.values()) or set(tokens.values()) != set(range(len(tokens))):
        raise CheckpointError(f"{where}: found ids that are not 0 to {len(tokens) - 1}, each once")


def _check_merges(merges: list[Any], tokens: dict[str, int], component: str) -> None:
    for merge in merges:
        pair = isinstance(merge, list) and len(merge) == 2 and all(isinstance(part, str) for part in merge)
        if not pair or not {merge[0], merge[1], merge[0] + merge[1]} <= tokens.keys():
            raise CheckpointError(f"{component}: merges: found {shown(merge)}; allowed are two tokens that make one")


def _special_tokens(folder: Folder, component: str, settings: dict[str, Any]) -> dict[str, str]:
    """By role. A `special_tokens_map.json` beside an older config wins, as in transformers."""
    chosen = settings
    if "added_tokens_decoder" not in settings and folder.find(f"{component}/special_tokens_map.json"):
        chosen = settings | folder.object(f"{component}/special_tokens_map.json")
    special: dict[str, str] = {}
    for role, usual in SPECIAL_TOKENS.items():
        token = chosen.get(role, usual)
        token = token.get("content") if isinstance(token, dict) else token
        if not isinstance(token, str):
            raise CheckpointError(f"{component}: {role}: found {shown(token)}; allowed is a token")
        special[role] = token
    return special


def _refuse_added_tokens(folder: Folder, component: str, tokens: dict[str, int]) -> None:
    name = f"{component}/added_tokens.json"
    if folder.find(name) and (added := folder.object(name).keys() - tokens.keys()):
        raise CheckpointError(f"{name}: found {shown(sorted(added)[0])}, which is not in the vocabulary of CLIP")
