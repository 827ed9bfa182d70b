from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from impasto.denoising import Denoising
from impasto.engine.diffusion import DiffusionEngine
from impasto.engine.picture import PictureRequest
from impasto.engine.registry import open_engine
from impasto.engine.stepwise import Ready, Stepped, StepRow, is_stepwise
from impasto.errors import BackendUnavailable, ImpastoError, InvalidRequest
from impasto.export.bundle import open_bundle
from impasto.sampling import SAMPLERS
from tests.support.diffusion import SIDE, write_tiny_diffusion

VP_SAMPLERS = [name for name in SAMPLERS if name != "flow_euler"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for kind in ("ddpm", "sd15"):
        write_tiny_diffusion(folder, kind)
    return folder


@pytest.fixture(scope="module")
def pixel(models: Path) -> Iterator[DiffusionEngine]:
    yield from _opened(models / "ddpm" / "1")


@pytest.fixture(scope="module")
def latent(models: Path) -> Iterator[DiffusionEngine]:
    yield from _opened(models / "sd15" / "1")


def _opened(path: Path) -> Iterator[DiffusionEngine]:
    engine = open_engine(open_bundle(path), threads=2)
    assert isinstance(engine, DiffusionEngine)
    engine.warm_up()
    yield engine
    engine.close()


def _request(seed: int, label: int | None = None, image: Any = None, **wanted: Any) -> PictureRequest:
    return PictureRequest(seed, label=label, image=image, denoising=Denoising(**wanted))


def _alone(engine: DiffusionEngine, request: PictureRequest) -> bytes:
    return engine.run([request])[0].image_float.tobytes()


def _picture(seed: int, width: int = SIDE, height: int = SIDE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("sampler", VP_SAMPLERS)
def test_every_sampler_makes_a_picture_that_its_seed_decides(pixel: DiffusionEngine, sampler: str) -> None:
    first, again, other = (_alone(pixel, _request(seed, steps=4, sampler=sampler)) for seed in (1, 1, 2))
    assert first == again != other
    assert np.isfinite(np.frombuffer(first, np.float32)).all()


def test_guidance_prompt_and_negative_prompt_change_the_picture(latent: DiffusionEngine) -> None:
    wanted = [
        {"prompt": "night", "guidance_scale": 1.0},
        {"prompt": "night", "guidance_scale": 3.0},
        {"prompt": "star", "guidance_scale": 3.0},
        {"prompt": "night", "guidance_scale": 3.0, "negative_prompt": "star"},
        {"prompt": "night", "guidance_scale": 3.0, "guidance_rescale": 0.7},
    ]
    made = [_alone(latent, _request(0, steps=3, **each)) for each in wanted]
    assert len(set(made)) == len(made)


def test_without_guidance_a_row_takes_one_model_row_and_with_it_two(latent: DiffusionEngine) -> None:
    assert latent.work(_request(0, steps=5, guidance_scale=1.0)).width == 1
    assert latent.work(_request(0, steps=5, guidance_scale=7.5)).width == 2
    assert latent.work(_request(0, steps=5, sampler="ddim")).calls == 5
    assert latent.work(_request(0, steps=5, sampler="heun")).calls == 9


class _Mix:
    """Rows that join and leave a step batch at random, as a scheduler would have them do."""

    def __init__(self, engine: DiffusionEngine, requests: list[PictureRequest], seed: int) -> None:
        self._engine = engine
        self._waiting = list(enumerate(requests))
        self._random = random.Random(seed)
        self._free = list(range(engine.slots))
        self._running: dict[int, tuple[int, int, int]] = {}
        self._random.shuffle(self._free)

    def pictures(self) -> dict[int, bytes]:
        """Each request's picture; one in ten rows that run is dropped and begun anew in another slot."""
        made: dict[int, bytes] = {}
        requests = dict(self._waiting)
        while self._waiting or self._running:
            while self._waiting and (not self._running or self._random.random() < 0.6):
                index, request = self._waiting.pop(self._random.randrange(len(self._waiting)))
                slot = self._free.pop()
                self._engine.start(slot, request)
                self._running[slot] = (index, 0, self._engine.work(request).calls)
            rows = self._chosen(requests)
            self._engine.step([StepRow(slot, self._running[slot][1], self._random.random() < 0.2) for slot in rows])
            for slot in rows:
                index, call, calls = self._running[slot]
                if call + 1 == calls:
                    made[index] = self._engine.decode([self._engine.latent(slot)])[0].image_float.tobytes()
                elif self._random.random() < 0.1:
                    self._waiting.append((index, requests[index]))
                else:
                    self._running[slot] = (index, call + 1, calls)
                    continue
                del self._running[slot]
                self._free.insert(0, slot)
        return made

    def _chosen(self, requests: dict[int, PictureRequest]) -> list[int]:
        """Slots of one group, as many as the largest batch holds or fewer."""
        slots = self._random.sample(list(self._running), len(self._running))
        work = {slot: self._engine.work(requests[self._running[slot][0]]) for slot in slots}
        chosen: list[int] = []
        room = self._engine.buckets[-1]
        for slot in slots:
            fits = work[slot].width <= room and work[slot].group == work[slots[0]].group
            if fits and (not chosen or self._random.random() < 0.8):
                chosen.append(slot)
                room -= work[slot].width
        return chosen


_ANY_PIXEL = st.builds(
    _request,
    st.integers(0, 5),
    steps=st.sampled_from([2, 3, 5]),
    sampler=st.sampled_from(["dpmpp_2m", "euler_a", "ddpm", "unipc", "heun", "plms"]),
    image=st.sampled_from([None, _picture(0)]),
)
_ANY_LATENT = st.builds(
    _request,
    st.integers(0, 5),
    steps=st.sampled_from([2, 4]),
    sampler=st.sampled_from(["dpmpp_2m", "euler_a", "ddim", "lcm"]),
    prompt=st.sampled_from(["night", "the star"]),
    guidance_scale=st.sampled_from([1.0, 2.0, 7.5]),
    guidance_rescale=st.sampled_from([None, 0.5]),
    width=st.sampled_from([None, 8, 20, 24]),
    height=st.sampled_from([None, 24]),
)
_KNOWN: dict[tuple[Any, ...], bytes] = {}


def _known(engine: DiffusionEngine, request: PictureRequest) -> bytes:
    """The picture alone, made once."""
    assert request.denoising is not None
    key = (engine.digest, request.seed, request.image is None, *dataclasses.astuple(request.denoising))
    if key not in _KNOWN:
        _KNOWN[key] = _alone(engine, request)
    return _KNOWN[key]


def _same_in_a_mix(engine: DiffusionEngine, requests: list[PictureRequest], seed: int) -> None:
    valid = []
    for request in requests:
        try:
            engine.check(request)
            valid.append(request)
        except ImpastoError:  # a rescale without guidance, an image with too few steps
            continue
    mixed = _Mix(engine, valid, seed).pictures()
    assert [mixed[index] for index in range(len(valid))] == [_known(engine, request) for request in valid]


@settings(max_examples=120)
@given(requests=st.lists(_ANY_PIXEL, min_size=2, max_size=5), seed=st.integers(0, 2**32))
def test_a_picture_is_the_same_alone_and_in_any_mix(
    pixel: DiffusionEngine, requests: list[PictureRequest], seed: int
) -> None:
    _same_in_a_mix(pixel, requests, seed)


@settings(max_examples=80)
@given(requests=st.lists(_ANY_LATENT, min_size=2, max_size=5), seed=st.integers(0, 2**32))
def test_a_guided_picture_of_any_size_is_the_same_alone_and_in_any_mix(
    latent: DiffusionEngine, requests: list[PictureRequest], seed: int
) -> None:
    _same_in_a_mix(latent, requests, seed)


@pytest.mark.parametrize(("width", "height"), [(24, 24), (8, 24), (20, 12), (8, 8)])
def test_pictures_and_previews_have_the_size_that_is_asked_for(
    latent: DiffusionEngine, width: int, height: int
) -> None:
    request = _request(0, steps=3, sampler="ddim", preview_every=1, width=width, height=height)
    events = list(latent.run_steps([request]))
    made = [event.pixels for event in events if isinstance(event, Ready)]
    shown = [event.preview for event in events if isinstance(event, Stepped) and event.preview is not None]
    assert [picture.size for picture in (*made, *shown)] == [(width, height)] * 3
    assert [picture.array.shape for picture in made] == [(height, width, 3)]


def test_only_pictures_of_one_size_share_a_batch(latent: DiffusionEngine) -> None:
    sizes: list[dict[str, Any]] = [{}, {"width": SIDE}, {"width": 24}, {"height": 24}, {"image": _picture(0, 24, SIDE)}]
    usual, same, wide, high, image = (latent.work(_request(0, steps=5, **size)).group for size in sizes)
    assert usual == same != wide == image != high != usual
    events = latent.run_steps([_request(0, steps=3, **size) for size in sizes])
    order = [event.index for event in events if isinstance(event, Stepped)]
    assert set(order) == {0, 1, 2, 3, 4}
    assert sorted(order, key=lambda index: [0, 0, 1, 2, 3][index]) == order, "a size is done before the next begins"


def test_latents_of_several_sizes_are_decoded_in_their_order(latent: DiffusionEngine) -> None:
    shapes = [(4, 8, 8), (4, 8, 8), (4, 4, 12), (4, 8, 8)]
    latents = [np.random.default_rng(seed).standard_normal(shape, np.float32) for seed, shape in enumerate(shapes)]
    together = [pixels.image_float.tobytes() for pixels in latent.decode(latents)]
    assert together == [latent.decode([each])[0].image_float.tobytes() for each in latents]


def test_an_image_decides_the_size_unless_the_request_does(latent: DiffusionEngine) -> None:
    image = _picture(0, 20, 12)
    by_image = _alone(latent, _request(0, steps=4, sampler="ddim", image=image))
    assert len(by_image) == 20 * 12 * 3 * 4
    assert by_image == _alone(latent, _request(0, steps=4, sampler="ddim", image=image, width=20, height=12))
    with pytest.raises(InvalidRequest, match=r"^image: found '20 × 12 pixels'; allowed is 16 × 12 pixels"):
        latent.check(_request(0, image=image, width=16))


def test_what_a_mask_leaves_black_stays_at_another_size(latent: DiffusionEngine) -> None:
    image, mask = _picture(0, 24, 12), np.zeros((12, 24, 3), np.uint8)
    kept = _alone(latent, _request(0, steps=4, sampler="ddim", image=image, mask=mask, strength=1.0))
    encoded = latent.run([_request(1, steps=4, sampler="ddim", image=image, mask=mask, strength=1.0)])[0]
    assert kept == encoded.image_float.tobytes(), "nothing of a seed is left where all of the image stays"
    mask[:, :12] = 255
    painted = {_alone(latent, _request(seed, steps=4, sampler="ddim", image=image, mask=mask)) for seed in (0, 1)}
    assert len({kept, *painted}) == 3


def test_in_process_pictures_come_with_steps_and_previews(pixel: DiffusionEngine) -> None:
    requests = [_request(seed, steps=4, preview_every=2) for seed in range(6)]
    events = list(pixel.run_steps(requests))
    steps = [(event.index, event.step) for event in events if isinstance(event, Stepped)]
    assert sorted(steps) == [(index, step) for index in range(6) for step in range(1, 5)]
    previews = [event.step for event in events if isinstance(event, Stepped) and event.preview is not None]
    assert previews == [2] * 6
    assert sorted(event.index for event in events if isinstance(event, Ready)) == list(range(6))


def test_a_run_that_is_dropped_half_way_gives_its_slots_back(pixel: DiffusionEngine) -> None:
    for _ in range(2 * pixel.slots):
        events = pixel.run_steps([_request(seed, steps=5) for seed in range(3)])
        next(events)
        events.close()  # type: ignore[attr-defined]
    assert len(pixel.run([_request(0, steps=2)])) == 1


def test_a_preview_is_close_to_the_picture_at_the_end(pixel: DiffusionEngine) -> None:
    request = _request(3, steps=20, preview_every=1)
    picture = pixel.run([request])[0].image_float
    previews = [event.preview for event in pixel.run_steps([request]) if isinstance(event, Stepped)]
    errors = [float(np.abs(preview.image_float - picture).mean()) for preview in previews if preview is not None]
    assert errors[-1] < 0.25 * errors[0]


def test_a_preview_of_a_latent_model_has_the_size_of_the_picture(latent: DiffusionEngine) -> None:
    events = list(latent.run_steps([_request(0, steps=3, sampler="ddim", preview_every=1)]))
    previews = [event.preview for event in events if isinstance(event, Stepped) and event.preview is not None]
    assert [preview.array.shape for preview in previews] == [(SIDE, SIDE, 3)] * 2


def test_strength_says_how_much_of_an_image_is_made_anew(pixel: DiffusionEngine) -> None:
    image = _picture(1)
    start = image.transpose(2, 0, 1) / np.float32(127.5) - 1
    distances = []
    for strength in (0.05, 0.5, 1.0):
        made = pixel.run([_request(0, steps=20, sampler="ddim", image=image, strength=strength)])[0].image_float
        distances.append(float(np.abs(made - start).mean()))
    assert distances[0] < distances[1] < distances[2]


@pytest.mark.parametrize(("strength", "calls"), [(0.7, 7), (0.8, 8), (0.9, 9), (1.0, 10)])
def test_a_strength_leaves_as_many_steps_as_in_diffusers_though_it_came_as_a_float32(
    pixel: DiffusionEngine, strength: float, calls: int
) -> None:
    asked = _request(0, steps=10, sampler="ddim", image=_picture(1), strength=float(np.float32(strength)))
    assert pixel.work(asked).calls == calls == int(10 * strength)


def test_a_rescale_is_refused_wherever_nothing_is_guided(latent: DiffusionEngine) -> None:
    for scale in (0.5, 1.0):
        with pytest.raises(InvalidRequest, match=r"guidance_rescale: found 0\.7; allowed is nothing without guidance"):
            latent.check(_request(0, guidance_scale=scale, guidance_rescale=0.7))
    latent.check(_request(0, guidance_scale=1.5, guidance_rescale=0.7))


def test_what_a_mask_leaves_black_stays(pixel: DiffusionEngine) -> None:
    image, mask = _picture(2), np.zeros((SIDE, SIDE, 3), np.uint8)
    mask[:, : SIDE // 2] = 255
    made = pixel.run([_request(0, steps=8, image=image, mask=mask, strength=1.0)])[0].array
    assert np.array_equal(made[:, SIDE // 2 :], image[:, SIDE // 2 :])
    assert not np.array_equal(made[:, : SIDE // 2], image[:, : SIDE // 2])


def test_a_latent_of_ones_own_takes_the_place_of_the_seeds_noise(pixel: DiffusionEngine) -> None:
    noise = np.random.default_rng(0).standard_normal((1, 3, SIDE, SIDE)).astype(np.float32)
    made = {_alone(pixel, _request(seed, steps=3, sampler="ddim", latent=noise)) for seed in (1, 2)}
    assert len(made) == 1


def test_torch_noise_is_that_of_a_cpu_generator(pixel: DiffusionEngine) -> None:
    import torch

    drawn = torch.randn((1, 3, SIDE, SIDE), generator=torch.Generator("cpu").manual_seed(7)).numpy()
    by_seed = _alone(pixel, _request(7, steps=3, sampler="ddim", noise="torch"))
    assert by_seed == _alone(pixel, _request(0, steps=3, sampler="ddim", latent=drawn))


def test_metadata_has_every_parameter_with_its_default(latent: DiffusionEngine) -> None:
    described = latent.describe(_request(5, prompt="night", guidance_scale=2.0, steps=3))
    assert described["seed"] == 5
    assert described["digest"] == latent.digest
    assert described["parameters"] == {
        "sampler": latent.manifest.defaults["sampler"],
        "steps": 3,
        "width": SIDE,
        "height": SIDE,
        "prompt": "night",
        "guidance_scale": 2.0,
    }


def test_it_is_stepwise(pixel: DiffusionEngine) -> None:
    assert is_stepwise(pixel)


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (PictureRequest(), "seeds"),
        (PictureRequest(z=np.zeros(4, np.float32)), "z"),
        (PictureRequest(0, psi=0.7), "psi"),
        (PictureRequest(0, noise_mode="none"), "noise_mode"),
        (PictureRequest(-1), "seeds"),
        (PictureRequest(0, label=1), "label"),
        (_request(0, prompt="night"), "prompt"),
        (_request(0, guidance_scale=2.0), "guidance_scale"),
        (_request(0, steps=0), "steps"),
        (_request(0, steps=1001), "steps"),
        (_request(0, sampler="euler_b"), "sampler"),
        (_request(0, sampler="flow_euler"), "sampler"),
        (_request(0, sampler="euler", eta=0.5), "eta"),
        (_request(0, eta=float("nan")), "eta"),
        (_request(0, strength=0.5), "strength"),
        (_request(0, image=_picture(0)[:4]), "image"),
        (_request(0, image=_picture(0), mask=_picture(0)[:4]), "mask"),
        (_request(0, image=_picture(0), strength=0.01, steps=4), "strength"),
        (_request(0, latent=np.zeros((1, 3, 4, 4), np.float32)), "latent"),
        (_request(0, latent=np.full((1, 3, SIDE, SIDE), np.nan, np.float32)), "latent"),
        (_request(0, noise="numpy"), "noise"),
        (_request(0, preview_every=-1), "preview_every"),
        (_request(0, width=SIDE + 4), "width"),
        (_request(0, height=0), "height"),
    ],
)
def test_bad_parameters_are_refused_by_name(pixel: DiffusionEngine, request_: PictureRequest, field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        pixel.check(request_)
    assert str(caught.value).startswith(f"{field}: found")


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"width": 18}, "width: found 18; allowed is 8 to 24 in steps of 4"),
        ({"width": 16, "height": 28}, "height: found 28; allowed is 8 to 24 in steps of 4"),
        ({"height": 4}, "height: found 4; allowed is 8 to 24 in steps of 4"),
        ({"width": -8}, "width: found -8; allowed is 1 to 65536"),
        (
            {"image": _picture(0, 18, 16)},
            "image: found '18 × 16 pixels'; allowed is 16 × 16 pixels, or sides of 8 to 24 in steps of 4",
        ),
        ({"image": _picture(0), "width": 24}, "image: found '16 × 16 pixels'; allowed is 24 × 16 pixels"),
        (
            {"image": _picture(0, 24, 8), "mask": _picture(0)},
            "mask: found '16 × 16 pixels'; allowed is 24 × 8 pixels",
        ),
        (
            {"latent": np.zeros((1, 4, 8, 8), np.float32), "width": 24},
            "latent: found 'shape [4, 8, 8]'; allowed is [4, 8, 12]",
        ),
    ],
)
def test_bad_sizes_are_refused_by_name(latent: DiffusionEngine, wanted: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        latent.check(_request(0, **wanted))
    assert str(caught.value) == message


def test_another_backend_or_precision_is_refused_by_name(models: Path) -> None:
    bundle = open_bundle(models / "ddpm" / "1")
    with pytest.raises(BackendUnavailable, match="backend: found 'torch'"):
        open_engine(bundle, backend="torch")
    with pytest.raises(BackendUnavailable, match=r"precision: onnxruntime has no bf16 .*; remedy: precision fp16"):
        open_engine(bundle, precision="bf16")
