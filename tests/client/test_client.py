from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

import impasto
from impasto.api.impasto.v1 import generation_pb2 as pb
from impasto.client import RetryPolicy
from impasto.errors import (
    Cancelled,
    DeadlineExceeded,
    ImpastoError,
    InternalError,
    InvalidRequest,
    ModelNotFound,
    QueueFull,
    Unavailable,
)
from impasto.events import Done, Event, Finished, Preview, Queued, Step
from impasto.images import Picture, decode, encode
from tests.client.scripted import Failure, Scripted, chunk, header, pixels, serving
from tests.support.pictures import random_pixels

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED
QUICK = RetryPolicy(attempts=4, first_delay=0.01, max_delay=0.02)


@pytest.fixture
def service() -> Scripted:
    return Scripted()


@pytest.fixture
def target(service: Scripted) -> Iterator[str]:
    with serving(service) as address:
        yield address


def generate_sync(target: str, retries: RetryPolicy, **parameters: Any) -> list[Picture]:
    with impasto.Client(target, retries=retries) as client:
        return client.generate("scripted", **parameters)


def generate_async(target: str, retries: RetryPolicy, **parameters: Any) -> list[Picture]:
    async def run() -> list[Picture]:
        async with impasto.AsyncClient(target, retries=retries) as client:
            return await client.generate("scripted", **parameters)

    return asyncio.run(run())


both = pytest.mark.parametrize("generate", [generate_sync, generate_async])


@both
def test_pictures_come_in_the_order_of_their_seeds(generate: Any, target: str) -> None:
    pictures = generate(target, QUICK, seeds=[3, 1])
    assert [picture.seed for picture in pictures] == [3, 1]
    assert np.array_equal(pictures[0].array, pixels(3))
    assert np.array_equal(pictures[1].array, pixels(1))


@both
def test_a_call_is_tried_again_until_it_succeeds(generate: Any, service: Scripted, target: str) -> None:
    service.failures = [Failure(UNAVAILABLE), Failure(EXHAUSTED), Failure(UNAVAILABLE)]
    assert len(generate(target, QUICK, seeds=[3])) == 1
    assert len(service.requests) == 4


@both
def test_the_delay_is_at_least_what_the_server_names(generate: Any, service: Scripted, target: str) -> None:
    service.failures = [Failure(UNAVAILABLE, retry_after_ms=300)]
    began = time.monotonic()
    generate(target, QUICK, seeds=[3])
    assert time.monotonic() - began >= 0.3


@both
@pytest.mark.parametrize(("code", "kind"), [(UNAVAILABLE, Unavailable), (EXHAUSTED, QueueFull)])
def test_the_error_comes_out_once_the_tries_are_used_up(
    generate: Any, code: grpc.StatusCode, kind: type[ImpastoError], service: Scripted, target: str
) -> None:
    service.failures = [Failure(code, "busy", retry_after_ms=20) for _ in range(9)]
    with pytest.raises(kind, match="busy") as caught:
        generate(target, QUICK, seeds=[3])
    assert caught.value.retry_after == 0.02
    assert len(service.requests) == 4


@both
def test_a_delay_beyond_the_deadline_is_not_waited_for(generate: Any, service: Scripted, target: str) -> None:
    service.failures = [Failure(EXHAUSTED, "full", retry_after_ms=60_000)]
    with pytest.raises(QueueFull, match="full"):
        generate(target, QUICK, seeds=[3], timeout=5.0)
    assert len(service.requests) == 1


@both
@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, InvalidRequest),
        (grpc.StatusCode.NOT_FOUND, ModelNotFound),
        (grpc.StatusCode.DEADLINE_EXCEEDED, DeadlineExceeded),
        (grpc.StatusCode.CANCELLED, Cancelled),
        (grpc.StatusCode.INTERNAL, InternalError),
        (grpc.StatusCode.UNIMPLEMENTED, ImpastoError),
    ],
)
def test_other_statuses_come_back_as_their_error_at_once(
    generate: Any, code: grpc.StatusCode, kind: type[ImpastoError], service: Scripted, target: str
) -> None:
    service.failures = [Failure(code, "psi: found nan; allowed is a finite number")]
    with pytest.raises(ImpastoError, match="psi: found nan; allowed is a finite number") as caught:
        generate(target, QUICK, seeds=[3])
    assert type(caught.value) is kind
    assert len(service.requests) == 1


def test_the_field_of_a_bad_request_is_named(service: Scripted, target: str) -> None:
    service.failures = [Failure(grpc.StatusCode.INVALID_ARGUMENT, "psi: found nan; allowed is a finite number")]
    with pytest.raises(InvalidRequest) as caught:
        generate_sync(target, QUICK, seeds=[3])
    assert caught.value.field == "psi"


@both
def test_a_message_over_the_servers_limit_is_not_tried_again(generate: Any, service: Scripted, target: str) -> None:
    service.failures = [Failure(EXHAUSTED, "Received message larger than max (20 vs. 10)")]
    with pytest.raises(InvalidRequest, match="message: found 'Received message larger than max"):
        generate(target, QUICK, seeds=[3])


@both
def test_a_server_out_of_reach_is_named(generate: Any) -> None:
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1: "):
        generate("127.0.0.1:1", QUICK, seeds=[3])


@both
def test_a_deadline_that_passes_is_told(generate: Any) -> None:
    with pytest.raises((DeadlineExceeded, Unavailable)):
        generate("127.0.0.1:1", RetryPolicy(attempts=1000), seeds=[3], timeout=0.3)


@both
def test_every_parameter_reaches_the_server(generate: Any, service: Scripted, target: str) -> None:
    generate(
        target,
        QUICK,
        seeds=[3, 4],
        label=2,
        psi=0.5,
        psi_cutoff=4,
        noise_mode="random",
        style_mix=(9, 1, 3),
        format="webp",
        quality=80,
        priority=1,
        version="2",
    )
    assert service.requests[0] == pb.GenerateRequest(
        model="scripted",
        version="2",
        seeds=[3, 4],
        label=2,
        psi=0.5,
        psi_cutoff=4,
        noise_mode=pb.NOISE_MODE_RANDOM,
        style_mix=pb.StyleMix(seed=9, first_layer=1, last_layer=3),
        format=pb.IMAGE_FORMAT_WEBP,
        quality=80,
        priority=1,
    )


@both
def test_every_parameter_of_diffusion_reaches_the_server(generate: Any, service: Scripted, target: str) -> None:
    image, mask = random_pixels(4, 3, seed=1), random_pixels(4, 3, seed=2)
    generate(
        target,
        QUICK,
        seeds=[3, 4],
        prompt="★",
        negative_prompt="",
        steps=30,
        sampler="ddim",
        eta=0.5,
        guidance_scale=7.5,
        guidance_rescale=0.25,
        image=image,
        strength=0.75,
        mask=mask,
        latent=np.arange(8).reshape(2, 1, 2, 2),
        noise="torch",
        preview_every=5,
    )
    sent = service.requests[0].denoising
    assert np.array_equal(decode(service.requests[0].image), image)
    assert np.array_equal(decode(sent.mask), mask)
    assert sent == pb.Denoising(
        prompt="★",
        negative_prompt="",
        steps=30,
        sampler="ddim",
        eta=0.5,
        guidance_scale=7.5,
        guidance_rescale=0.25,
        strength=0.75,
        mask=sent.mask,
        latent=[pb.Latent(values=[0, 1, 2, 3]), pb.Latent(values=[4, 5, 6, 7])],
        noise=pb.NOISE_SOURCE_TORCH,
        preview_every=5,
    )


def test_an_image_is_a_path_the_bytes_of_a_file_or_an_array(service: Scripted, target: str, tmp_path: Path) -> None:
    image = random_pixels(4, 3)
    (tmp_path / "start.webp").write_bytes(encode(image, "webp", {}, 100))
    for given in (tmp_path / "start.webp", encode(image, "png", {}), image, Picture({}, array=image)):
        generate_sync(target, QUICK, seeds=1, image=given)
        assert np.array_equal(decode(service.requests[-1].image), image)


def test_latents_reach_the_server_row_by_row(service: Scripted, target: str) -> None:
    generate_sync(target, QUICK, ws=np.arange(12).reshape(2, 3, 2), class_vector=[0, 1])
    request = service.requests[0]
    assert [list(latent.values) for latent in request.ws] == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]]
    assert list(request.class_vector.values) == [0, 1]
    generate_sync(target, QUICK, z=[0.5, -1])
    assert [list(latent.values) for latent in service.requests[1].z] == [[0.5, -1]]


def test_unset_parameters_stay_unset(service: Scripted, target: str) -> None:
    generate_sync(target, QUICK, seeds=1)
    request = service.requests[0]
    assert not any(request.HasField(field) for field in ("label", "psi", "psi_cutoff", "class_vector", "style_mix"))
    assert not request.HasField("denoising")
    generate_sync(target, QUICK, seeds=1, steps=4)
    assert [field.name for field, _ in service.requests[1].denoising.ListFields()] == ["steps"]


@pytest.mark.parametrize("parameters", [{"priority": -1}, {"psi_cutoff": 2**40}])
def test_a_number_that_fits_no_message_is_refused(parameters: dict[str, int], target: str) -> None:
    with pytest.raises(InvalidRequest, match="request: found"):
        generate_sync(target, QUICK, seeds=1, **parameters)


def whole_stream() -> list[Any]:
    """Two pictures whose chunks interleave, of seeds 8 and 9."""
    first, second = pixels(8).tobytes(), pixels(9).tobytes()
    return [
        pb.GenerateEvent(queued=pb.Queued(position=3, estimated_wait_ms=12.5)),
        chunk(0, 0, first[:20], seed=8),
        chunk(1, 0, second[:50], seed=9),
        chunk(0, 20, first[20:]),
        chunk(1, 50, second[50:]),
        pb.GenerateEvent(done=pb.Done(timing=pb.Timing(queue_ms=1, execute_ms=2, encode_ms=3, batch_sizes=[2, 2]))),
    ]


@both
def test_a_stream_tells_its_progress_and_gives_whole_pictures(generate: Any, service: Scripted, target: str) -> None:
    service.events = whole_stream()
    events: list[Event] = []
    pictures = generate(target, QUICK, seeds=[8, 9], on_progress=events.append)
    assert [picture.seed for picture in pictures] == [8, 9]
    assert np.array_equal(pictures[0].array, pixels(8))
    assert np.array_equal(pictures[1].array, pixels(9))
    assert events[0] == Queued(3, 12.5)
    assert [event.index for event in events if isinstance(event, Finished)] == [0, 1]
    assert events[-1] == Done(1, 2, 3, (2, 2))


@both
def test_a_stream_tells_of_steps_and_shows_previews(generate: Any, service: Scripted, target: str) -> None:
    shown = header(8)
    shown.data = pixels(5).tobytes()
    service.events = [
        pb.GenerateEvent(step=pb.Step(index=1, step=3, steps=20)),
        pb.GenerateEvent(preview=pb.Preview(index=1, picture=shown)),
        *whole_stream(),
    ]
    events: list[Event] = []
    generate(target, QUICK, seeds=[8, 9], on_progress=events.append)
    assert events[0] == Step(1, 3, 20)
    assert isinstance(events[1], Preview)
    assert events[1].index == 1
    assert events[1].picture.seed == 8
    assert np.array_equal(events[1].picture.array, pixels(5))
    assert len([event for event in events if isinstance(event, Finished)]) == 2


@both
def test_a_stream_that_has_not_begun_is_tried_again(generate: Any, service: Scripted, target: str) -> None:
    service.failures = [Failure(UNAVAILABLE)]
    with pytest.raises(InternalError, match="stream: ended after 0 of 1 pictures"):
        generate(target, QUICK, seeds=[8], on_progress=lambda event: None)
    assert len(service.requests) == 2


@both
def test_a_stream_that_breaks_off_is_not_tried_again(generate: Any, service: Scripted, target: str) -> None:
    service.events = whole_stream()[:3]
    service.failures = [Failure(UNAVAILABLE, "drained")]
    with pytest.raises(Unavailable, match="drained"):
        generate(target, QUICK, seeds=[8, 9], on_progress=lambda event: None)
    assert len(service.requests) == 1


@both
@pytest.mark.parametrize(
    ("events", "message"),
    [
        ([chunk(2, 0, b"x", seed=1)], "found a chunk of picture 2; 2 were asked for"),
        ([chunk(0, 0, b"x" * 30)], "picture 0 starts without its description"),
        ([chunk(0, 0, b"x", seed=1, total=2**40)], "picture 0 starts without its description or a size in bounds"),
        ([chunk(0, 10, b"x", seed=1)], "found bytes 10 to 11 of picture 0; next are those from 0 on, of 60"),
        ([chunk(0, 0, b"x" * 61, seed=1)], "found bytes 0 to 61 of picture 0; next are those from 0 on, of 60"),
        ([chunk(0, 0, b"x" * 9, seed=1), chunk(0, 0, b"x")], "found bytes 0 to 1 of picture 0; next are those from 9"),
        ([chunk(0, 0, b"x" * 60, seed=1), chunk(0, 0, b"x", seed=1)], "found a chunk of picture 0"),
        ([chunk(0, 0, b"x" * 59, seed=1, total=59)], r"found 59 bytes of picture; \[4, 5, 3\] takes 60"),
        ([chunk(0, 0, b"x" * 60, seed=1)], "ended after 1 of 2 pictures"),
    ],
)
def test_a_stream_out_of_order_is_an_error(
    generate: Any, events: list[Any], message: str, service: Scripted, target: str
) -> None:
    service.events = events
    with pytest.raises(InternalError, match=message):
        generate(target, QUICK, seeds=[0, 1], on_progress=lambda event: None)


def test_closing_a_stream_cancels_the_call(service: Scripted, target: str) -> None:
    service.events = whole_stream()
    with impasto.Client(target) as client:
        stream = client.generate_stream("scripted", seeds=[8, 9])
        assert next(stream) == Queued(3, 12.5)
        stream.close()  # type: ignore[attr-defined]
        service.events = []
        assert len(client.generate("scripted", seeds=[1])) == 1


def test_waiting_for_a_server_that_never_comes_ends_at_the_timeout() -> None:
    with impasto.Client("127.0.0.1:1") as client, pytest.raises(DeadlineExceeded, match=r"not ready after 0\.3 s"):
        client.wait_until_ready(timeout=0.3)
