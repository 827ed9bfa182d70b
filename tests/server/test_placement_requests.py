"""Rotation and translation from a client's keywords to what an engine is asked for."""

from __future__ import annotations

import pytest

from impasto.client.messages import generate_request
from impasto.engine.picture import PictureRequest
from impasto.errors import InvalidRequest
from impasto.export.bundle import Manifest
from impasto.generation import Parameters, generation
from impasto.server.requests import picture_requests

MANIFEST = Manifest(name="m", version="1", family="stylegan3", config={}, width=16, height=16)


def arrived(**parameters: object) -> list[PictureRequest]:
    keywords: Parameters = {"seeds": [1, 2], **parameters}  # type: ignore[typeddict-item]
    return picture_requests(generate_request("m", "", 0, generation(**keywords)), MANIFEST, 4)


def test_they_arrive_as_sent_for_every_picture() -> None:
    requests = arrived(rotation=-30.5, translation=(0.25, -0.5))
    assert [request.seed for request in requests] == [1, 2]
    assert all(request.rotation == -30.5 and request.translation == (0.25, -0.5) for request in requests)


def test_zero_is_told_from_nothing() -> None:
    assert all(request.rotation == 0.0 and request.translation is None for request in arrived(rotation=0))
    assert all(
        request.rotation is None and request.translation == (0.0, 0.0) for request in arrived(translation=(0, 0))
    )
    assert all(request.rotation is None and request.translation is None for request in arrived())


def test_a_translation_has_two_parts() -> None:
    with pytest.raises(InvalidRequest, match=r"translation: found \(1, 2, 3\); allowed is \(x, y\)"):
        arrived(translation=(1, 2, 3))
