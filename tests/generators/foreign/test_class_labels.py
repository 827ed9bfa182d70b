from __future__ import annotations

import pytest

from impasto.errors import CheckpointError
from impasto.generators.foreign.class_labels import read_class_labels


@pytest.mark.parametrize("labels", [None, {}])
def test_no_labels_are_no_names(labels: object) -> None:
    assert read_class_labels(labels, "id2label") == ()


def test_a_class_is_called_by_its_first_synonym_and_by_more_where_that_is_anothers_too() -> None:
    texts = ["tench, Tinca tinca", "crane", "goldfish", "crane", "maillot", " maillot, tank suit ", "Crane"]
    names = ("tench", "crane (1)", "goldfish", "crane (3)", "maillot", "maillot, tank suit", "Crane")
    assert read_class_labels({str(index): text for index, text in enumerate(texts)}, "id2label") == names


def test_the_order_of_the_file_does_not_matter() -> None:
    assert read_class_labels({"2": "c", "0": "a", "1": "b"}, "id2label") == ("a", "b", "c")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["a", "b"], "found a list; allowed is an object with a text for each class"),
        ("a", "found 'a'; allowed is an object"),
        ({"0": "a", "2": "c"}, "found 2 labels, none for class 1; allowed is one a class"),
        ({"tench": "0"}, "found 1 labels, none for class 0"),
        ({"0": "a", "1": 7}, "1: found 7; allowed is a text"),
        ({"0": None}, "0: found None; allowed is a text"),
    ],
)
def test_other_labels_are_refused(labels: object, message: str) -> None:
    with pytest.raises(CheckpointError, match=rf"model_index\.json: id2label: {message}"):
        read_class_labels(labels, "model_index.json: id2label")
