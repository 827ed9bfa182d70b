"""The configuration: a TOML file, overrides, and what a wrong key or value is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from impasto.errors import InvalidRequest
from impasto.export.bundle import ZOO
from impasto.server.config import Batching, Limits, ServerConfig, Tls, load_config
from tests.support.inference import serving


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "impasto.toml"


def test_without_a_file_and_overrides_there_are_the_defaults() -> None:
    assert load_config() == ServerConfig()
    assert load_config(None, {"listen": None, "batching.max_queue": None}) == ServerConfig()


def test_a_file_sets_every_section(file: Path) -> None:
    file.write_text(
        """
        listen = "0.0.0.0:9001"
        models = ["/srv/models", "more"]
        load = ["starry"]
        drain_grace_s = 5
        [batching]
        max_queue_delay_ms = 2.5
        [limits]
        max_pictures = 16
        [tls]
        cert = "server.pem"
        key = "server.key"
        """
    )
    assert load_config(file) == ServerConfig(
        listen="0.0.0.0:9001",
        models=(Path("/srv/models"), Path("more")),
        load=("starry",),
        drain_grace_s=5.0,
        batching=Batching(max_queue_delay_ms=2.5),
        limits=Limits(max_pictures=16),
        tls=Tls(cert=Path("server.pem"), key=Path("server.key")),
    )


def test_an_override_goes_before_the_file_and_leaves_its_neighbours(file: Path) -> None:
    file.write_text('listen = "127.0.0.1:1"\ndevice = "cuda"\n[batching]\nmax_queue = 7\npriority_levels = 5\n')
    config = load_config(file, {"listen": "127.0.0.1:2", "batching.max_queue": 9, "limits.send_mib": 1, "device": None})
    assert (config.listen, config.device) == ("127.0.0.1:2", "cuda")
    assert config.batching == Batching(max_queue=9, priority_levels=5)
    assert config.limits == Limits(send_mib=1)


@pytest.mark.parametrize(
    ("text", "key", "section"),
    [
        ('lisen = "127.0.0.1:1"', "lisen", ServerConfig),
        ("[batching]\nmax_batch = 4", "batching.max_batch", Batching),
        ("[limits]\nmax_picture = 4", "limits.max_picture", Limits),
        ('[tls]\ncert = "a"\nkey = "b"\nca = "c"', "tls.ca", Tls),
    ],
)
def test_an_unknown_key_is_named_with_those_there_are(text: str, key: str, section: Any, file: Path) -> None:
    file.write_text(text)
    with pytest.raises(InvalidRequest) as refused:
        load_config(file)
    assert str(refused.value) == f"{file}: {key}: found 'an unknown key'; allowed is {', '.join(section.model_fields)}"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('listen = "8001"', "listen: found '8001'; allowed is"),
        ("listen = 8001", "listen: found 8001; allowed is"),
        ('load = "starry"', "load: found 'starry'; allowed is"),
        ("threads = 0", "threads: found 0; allowed is Input should be greater than or equal to 1"),
        ("instances = 65", "instances: found 65; allowed is Input should be less than or equal to 64"),
        ("drain_grace_s = nan", "drain_grace_s: found nan; allowed is"),
        ("drain_grace_s = -1", "drain_grace_s: found -1; allowed is"),
        ("batching = 3", "batching: found 3; allowed is"),
        ("[batching]\nmax_queue = 0", "batching.max_queue: found 0; allowed is"),
        ("[batching]\nmax_queue_delay_ms = inf", "batching.max_queue_delay_ms: found inf; allowed is"),
        ("[batching]\nmax_queue = 'many'", "batching.max_queue: found 'many'; allowed is"),
        ("[batching]\npriority_levels = 1", "default_priority must be at most priority_levels, 1"),
        ("[limits]\nsend_mib = 2048", "limits.send_mib: found 2048; allowed is"),
        ("[tls]\ncert = 'server.pem'", "tls.key: "),
    ],
)
def test_a_bad_value_is_told_with_its_key(text: str, line: str, file: Path) -> None:
    file.write_text(text)
    with pytest.raises(InvalidRequest) as refused:
        load_config(file)
    assert str(refused.value).startswith(f"{file}: ")
    assert line in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_bad_override_is_told_as_the_configurations() -> None:
    with pytest.raises(InvalidRequest, match=r"^configuration: batching\.max_queue: found -1; allowed is"):
        load_config(None, {"batching.max_queue": -1})


def test_an_override_of_a_section_that_the_file_has_wrong_names_the_section(file: Path) -> None:
    file.write_text("batching = 3")
    with pytest.raises(InvalidRequest, match=r"batching: found 3"):
        load_config(file, {"batching.max_queue": 7})


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"listen = ", "a TOML file (Invalid value"),
        (b"listen = 1\nlisten = 2", "a TOML file (Cannot overwrite a value"),
        (b"\xff\xfe", "a TOML file ("),
        (None, "a readable file (No such file or directory)"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(content: bytes | None, line: str, tmp_path: Path) -> None:
    file = Path("impasto.toml")
    if content is not None:
        file = tmp_path / "impasto.toml"
        file.write_bytes(content)
    with pytest.raises(InvalidRequest) as refused:
        load_config(file)
    assert str(refused.value).startswith("config: found '")
    assert f"allowed is {line}" in str(refused.value)


def test_models_are_looked_for_in_the_named_directories_then_in_the_zoo(tmp_path: Path) -> None:
    named = (tmp_path / "a", tmp_path / "b")
    for folder in named:
        folder.mkdir()
    assert ServerConfig(models=named).directories == [*named, ZOO]


def test_an_empty_metrics_address_serves_no_metrics(file: Path) -> None:
    file.write_text('metrics_listen = ""')
    assert load_config(file).metrics_listen is None


@pytest.mark.parametrize("field", ["listen", "metrics_listen"])
async def test_a_port_that_cannot_be_is_one_line_that_names_the_address(field: str, null_models: Path) -> None:
    with pytest.raises(InvalidRequest, match=rf"^{field}: found '127\.0\.0\.1:99999'"):
        async with serving(null_models, "null", **{field: "127.0.0.1:99999"}):
            pass
