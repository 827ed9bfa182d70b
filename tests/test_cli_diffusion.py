"""The options of `impasto generate` for diffusion, its bars and its preview files."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from impasto.api.impasto.v1 import generation_pb2 as pb
from impasto.cli import app
from impasto.cli.denoising import SAMPLERS
from impasto.cli.output import parse_output
from impasto.cli.previews import Previews
from impasto.cli.progress import Bars
from impasto.engine.null import write_null_bundle
from impasto.events import Finished, Queued, Step
from impasto.images import Picture, decode
from tests.client.scripted import Scripted, chunk, header, pixels, serving
from tests.support.pictures import random_pixels, random_png


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.fixture
def service() -> Scripted:
    """Makes the picture of seed 7 in four steps, with a preview after the second."""
    service = Scripted()
    shown = header(7)
    shown.data = pixels(1).tobytes()
    service.events = [
        pb.GenerateEvent(queued=pb.Queued(position=0)),
        *(pb.GenerateEvent(step=pb.Step(index=0, step=step, steps=4)) for step in (1, 2)),
        pb.GenerateEvent(preview=pb.Preview(index=0, picture=shown)),
        *(pb.GenerateEvent(step=pb.Step(index=0, step=step, steps=4)) for step in (3, 4)),
        chunk(0, 0, pixels(7).tobytes(), seed=7),
        pb.GenerateEvent(done=pb.Done(timing=pb.Timing(batch_sizes=[1]))),
    ]
    return service


@pytest.fixture
def target(service: Scripted) -> Iterator[str]:
    with serving(service) as address:
        yield address


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_samplers_of_the_help_are_those_there_are() -> None:
    from impasto import sampling

    assert tuple(sampling.SAMPLERS) == SAMPLERS


def test_the_help_has_a_panel_of_its_own() -> None:
    command = [sys.executable, "-m", "impasto.cli", "generate", "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    _, _, panel = shown.partition("Diffusion")
    for option in ("--prompt", "--steps", "--sampler", "--strength", "--mask", "--noise-source", "--preview-every"):
        assert option in panel


def test_the_command_loads_what_makes_pictures_and_bars_only_when_it_runs() -> None:
    code = "import impasto.cli.generate, sys; print([name in sys.modules for name in ('numpy', 'rich.progress')])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert loaded == "[False, False]\n"


def test_every_option_reaches_the_server(service: Scripted, target: str, here: Path) -> None:
    (here / "image.png").write_bytes(random_png(5, 4, seed=1))
    (here / "mask.png").write_bytes(random_png(5, 4, seed=2))
    options: dict[str, object] = {
        "--prompt": "a night",
        "--negative-prompt": "blur",
        "--steps": 4,
        "--sampler": "ddim",
        "--guidance-scale": 7.5,
        "--guidance-rescale": 0.5,
        "--eta": 0.25,
        "--image": "image.png",
        "--strength": 0.75,
        "--mask": "mask.png",
        "--noise-source": "torch",
        "--preview-every": 2,
    }
    flat = [part for option in options.items() for part in option]
    result = run("generate", "scripted", "--server", target, "--seed", 7, *flat)
    assert result.exit_code == 0, result.output
    sent = service.requests[0].denoising
    assert np.array_equal(decode(service.requests[0].image), random_pixels(5, 4, seed=1))
    assert np.array_equal(decode(sent.mask), random_pixels(5, 4, seed=2))
    assert sent == pb.Denoising(
        prompt="a night",
        negative_prompt="blur",
        steps=4,
        sampler="ddim",
        guidance_scale=7.5,
        guidance_rescale=0.5,
        eta=0.25,
        strength=0.75,
        mask=sent.mask,
        noise=pb.NOISE_SOURCE_TORCH,
        preview_every=2,
    )
    assert files_in(here) == ["image.png", "mask.png", "scripted-7.png"]


def test_without_options_nothing_of_diffusion_is_asked_for(service: Scripted, target: str, here: Path) -> None:
    assert run("generate", "scripted", "--server", target, "--seed", 7).exit_code == 0
    assert not service.requests[0].HasField("denoising")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "0"], "impasto: steps: found 0; allowed is 1 to 1000"),
        (["--strength", "0.5"], "impasto: strength: found 'it without an image'; allowed is it beside an image"),
        (["--image", "none.png"], "impasto: none.png: No such file or directory"),
        (["--image", "text.png"], "impasto: image: found '4 bytes'; allowed is a PNG, JPEG or WebP file"),
        (["--steps", "30"], "impasto: steps: found 30; allowed is nothing; this model makes a picture in one call"),
    ],
)
def test_an_error_that_the_user_can_mend_is_one_line(arguments: list[str], message: str, here: Path) -> None:
    write_null_bundle(here.parent / "models")
    (here / "text.png").write_text("text")
    result = run("generate", "null", "--models", here.parent / "models", *arguments)
    assert result.exit_code == 1
    assert result.stderr == f"{message}\n"
    assert files_in(here) == ["text.png"]


@pytest.mark.parametrize(
    ("out", "sheet", "shown"),
    [
        ("a.png", None, "a.preview.png"),
        ("a.jpg", None, "a.preview.jpg"),
        ("a.npy", None, "a.preview.png"),
        ("d", None, "d/m-7.preview.png"),
        (None, None, "m-7.preview.png"),
        (None, "s.webp", "s.preview.webp"),
        ("d", "s.png", "d/m-7.preview.png"),
    ],
)
def test_a_preview_is_a_file_while_the_picture_is_made(
    out: str | None, sheet: str | None, shown: str, here: Path
) -> None:
    output = parse_output(out and Path(out), sheet and Path(sheet), None, 100, 1)  # type: ignore[arg-type]
    with Previews(output) as previews:
        for seed in (1, 2):
            previews.refresh(Picture({"model": "m", "seed": 7}, array=random_pixels(6, 5, seed)))
            assert [str(path) for path in Path().rglob("*") if path.is_file()] == [shown]
        if Path(shown).suffix != ".jpg":
            assert np.array_equal(decode(Path(shown).read_bytes()), random_pixels(6, 5, 2))
    assert not [path for path in Path().rglob("*") if path.is_file()]


def test_a_preview_is_gone_after_an_error_too(here: Path) -> None:
    output = parse_output(Path("a.png"), None, None, 0, 1)

    def break_off() -> None:
        with Previews(output) as previews:
            previews.refresh(Picture({"model": "m", "seed": 7}, array=random_pixels(6, 5)))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        break_off()
    assert files_in(here) == []


def bars_of(*events: Any) -> list[tuple[str, float, float | None]]:
    """What the bars show after these events: description, done and total."""
    with Bars(2, Console(file=io.StringIO(), force_terminal=True)) as bars:
        for event in events:
            bars.show(event)
        return [(task.description, task.completed, task.total) for task in bars.progress.tasks]


def test_a_bar_for_each_picture_under_way_shows_its_steps() -> None:
    done = Finished(0, Picture({}, array=random_pixels(2, 2)))
    steps = [Queued(3, 1.0), Step(0, 1, 4), Step(1, 1, 20), Step(0, 2, 4)]
    assert bars_of(Queued(3, 1.0)) == [("behind 3 in the queue", 0, 2)]
    assert bars_of(*steps) == [("pictures", 0, 2), ("picture 1, steps", 2, 4), ("picture 2, steps", 1, 20)]
    assert bars_of(*steps, done) == [("pictures", 1, 2), ("picture 2, steps", 1, 20)]


def test_no_bars_are_drawn_where_no_terminal_is() -> None:
    drawn = io.StringIO()
    with Bars(1, Console(file=drawn)) as bars:
        bars.show(Step(0, 1, 4))
    assert drawn.getvalue() == ""
