"""What a denoiser is told besides the latent: embedded prompts, sizes, class labels. Needs no torch."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from impasto.denoising import Denoising
from impasto.engine.picture import PictureRequest
from impasto.engine.sessions import Array, Sessions
from impasto.engine.sizes import Size
from impasto.errors import BackendUnavailable, BundleError, InvalidRequest

if TYPE_CHECKING:
    from tokenizers import Tokenizer

CACHED_PROMPTS = 256
Condition = dict[str, Array]
"""Inputs of the denoiser by name, each with a first dimension of 1."""


class Prompts:
    """Texts to the denoiser's inputs, through a bundle's tokenizers and its text encoder.

    The last CACHED_PROMPTS texts are kept: a caller asks for many pictures of one prompt, and most share the negative
    one. May be used from several threads.
    """

    def __init__(self, folder: Path, text: Mapping[str, Any], sessions: Sessions) -> None:
        self._tokenizers = {name: _tokenizer(folder / file) for name, file in text["tokenizers"].items()}
        self._zero_negative = bool(text.get("zero_negative", False))
        self._sessions = sessions
        self._cache: OrderedDict[str, Condition] = OrderedDict()
        self._lock = threading.Lock()

    def embed(self, prompt: str | None, *, negative: bool = False) -> Condition:
        """What the denoiser takes for this text, the empty one for None.

        `negative` where it is what the picture is guided away from: there some models have zeros for None.
        """
        text = prompt or ""
        with self._lock:
            if text in self._cache:
                self._cache.move_to_end(text)
            else:
                self._cache[text] = self._encode(text)
                if len(self._cache) > CACHED_PROMPTS:
                    self._cache.popitem(last=False)
            found = self._cache[text]
        if prompt is None and negative and self._zero_negative:
            return {name: np.zeros_like(values) for name, values in found.items()}
        return found

    def _encode(self, prompt: str) -> Condition:
        ids = {name: np.array([tokenizer.encode(prompt).ids], np.int64) for name, tokenizer in self._tokenizers.items()}
        return self._sessions.run("text_encoder", [ids])[0]


class Conditioner:
    """The inputs of the denoiser that a request decides: one set, or two where it is guided."""

    def __init__(self, folder: Path, config: Mapping[str, Any], sessions: Sessions) -> None:
        text = config.get("text")
        self.prompts = Prompts(folder, text, sessions) if text else None
        self.classes = int(config.get("classes") or 0)
        self._null_class = config.get("null_class")
        self._tells_size = "time_ids" in config["denoiser_inputs"]

    @property
    def can_guide(self) -> bool:
        """Whether the model has something to be guided away from."""
        return self.prompts is not None or self._null_class is not None

    def check(self, request: PictureRequest) -> None:
        """InvalidRequest names what this model has no use for."""
        wanted = request.denoising
        if self.prompts is None and wanted is not None:
            for field in ("prompt", "negative_prompt"):
                if getattr(wanted, field) is not None:
                    raise InvalidRequest(field, getattr(wanted, field), "nothing; this model has no text encoder")
        if not self.classes and request.label is not None:
            raise InvalidRequest("label", request.label, "nothing; this model is not conditional")
        if request.label is not None and not 0 <= request.label < self.classes:
            raise InvalidRequest("label", request.label, f"an integer from 0 to {self.classes - 1}")

    def conditions(self, request: PictureRequest, size: Size, guided: bool) -> list[Condition]:
        """The conditional inputs of a picture of that size, and the unconditional ones too if `guided`."""
        wanted = request.denoising or Denoising()
        conditions = [self._condition(wanted.prompt, size, request.label or 0)]
        if guided:
            conditions.append(self._condition(wanted.negative_prompt, size, self._null_class, negative=True))
        return conditions

    def _condition(self, prompt: str | None, size: Size, label: int | None, *, negative: bool = False) -> Condition:
        condition = dict(self.prompts.embed(prompt, negative=negative)) if self.prompts else {}
        if self._tells_size:
            # Original size, crop and target size (Podell et al. 2023, section 2.2), each height first.
            sides = (size.height, size.width)
            condition["time_ids"] = np.array([[*sides, 0, 0, *sides]], np.float32)
        if self.classes:
            condition["class_labels"] = np.array([label or 0], np.int64)
        return condition


def _tokenizer(path: Path) -> Tokenizer:
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise BackendUnavailable(
            "a model that takes prompts needs tokenizers; remedy: pip install tokenizers"
        ) from error
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the package raises plain Exceptions
        raise BundleError(f"{path}: not a tokenizer: {error}") from error
