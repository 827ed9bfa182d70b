"""Names of classes out of `id2label` of a diffusers pipeline: for each class its synonyms, "tench, Tinca tinca"."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from impasto.errors import CheckpointError
from impasto.generators.foreign.plain_values import shown


def read_class_labels(labels: object, where: str) -> tuple[str, ...]:
    """A name for each class by its index, none if there are no labels. CheckpointError unless they are texts by index.

    A class has the first of its synonyms for a name; where that is another's first too, all of them; and where another
    has just the same ones, as ImageNet's two cranes have, the index behind them.
    """
    if labels is None or labels == {}:
        return ()
    texts = list(_by_index(labels, where))
    firsts, wholes = Counter(map(_first, texts)), Counter(texts)
    return tuple(
        _first(text) if firsts[_first(text)] == 1 else text if wholes[text] == 1 else f"{text} ({index})"
        for index, text in enumerate(texts)
    )


def _by_index(labels: object, where: str) -> Iterator[str]:
    if not isinstance(labels, dict):
        raise CheckpointError(f"{where}: found {shown(labels)}; allowed is an object with a text for each class")
    for index in range(len(labels)):
        if str(index) not in labels:
            raise CheckpointError(
                f"{where}: found {len(labels)} labels, none for class {index}; allowed is one a class"
            )
        text = labels[str(index)]
        if not isinstance(text, str):
            raise CheckpointError(f"{where}: {index}: found {shown(text)}; allowed is a text")
        yield text.strip()


def _first(synonyms: str) -> str:
    return synonyms.partition(",")[0].strip()
