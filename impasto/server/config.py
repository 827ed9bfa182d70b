"""How a server is set up: a TOML file, and overrides from the command line."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from impasto.errors import InvalidRequest
from impasto.export.bundle import ZOO, model_directories, require_models

MEBIBYTE = 2**20
HOST_PORT = re.compile(r"(\[[^\s\[\]]+\]|[^\s\[\]:/]+):[0-9]{1,5}")


def _address(value: object) -> object:
    if isinstance(value, str) and HOST_PORT.fullmatch(value):
        return value
    raise PydanticCustomError("address", "HOST:PORT such as 127.0.0.1:8001 or [::]:8001")


Address = Annotated[str, BeforeValidator(_address)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Batching(_Section):
    """How batches form.

    An idle instance starts at once on what waits, and batches form while all are busy; a `max_queue_delay_ms` above 0
    lets an idle instance wait so long for a larger batch. Diffusion models are batched step by step, on one instance,
    or with `steps` off request by request, as other servers do it.
    """

    max_queue_delay_ms: float = Field(default=0.0, ge=0, le=60_000)
    priority_levels: int = Field(default=3, ge=1, le=100)
    default_priority: int = Field(default=2, ge=1, le=100)
    max_queue: int = Field(default=256, ge=1, description="pictures that may wait, per priority level")
    starvation_limit_ms: float = Field(default=2000.0, gt=0)
    steps: bool = Field(default=True, description="batch diffusion models step by step")
    step_starvation_limit_ms: float = Field(default=10_000.0, gt=0)

    @model_validator(mode="after")
    def _default_is_a_level(self) -> Self:
        if self.default_priority > self.priority_levels:
            raise ValueError(f"default_priority must be at most priority_levels, {self.priority_levels}")
        return self


class Limits(_Section):
    """What one call may ask for, send and receive."""

    receive_mib: int = Field(default=128, ge=1, le=2047)
    send_mib: int = Field(default=1024, ge=1, le=2047)
    max_pictures: int = Field(default=256, ge=1, le=65_536)
    stream_chunk_kib: int = Field(default=1024, ge=1, le=65_536)


class Tls(_Section):
    """PEM files. With `client_ca`, clients too must show a certificate that it signed (mutual TLS)."""

    cert: Path
    key: Path
    client_ca: Path | None = None


class ServerConfig(_Section):
    """Everything that a server can be told. Port 0 takes a free one; an empty `metrics_listen` serves no metrics."""

    listen: Address = "127.0.0.1:8001"
    metrics_listen: Address | None = "127.0.0.1:8002"
    models: tuple[Path, ...] = Field(default=(), description="model directories; none: the user's; then the zoo")
    load: tuple[str, ...] | None = Field(default=None, description="models to load at the start; unset: all there are")
    backend: str | None = None
    precision: str | None = None
    device: str = "cpu"
    threads: int | None = Field(default=None, ge=1)
    instances: int = Field(default=1, ge=1, le=64, description="batches of a model that run at the same time")
    encode_threads: int = Field(default=2, ge=1, le=256)
    drain_grace_s: float = Field(default=30.0, ge=0)
    batching: Batching = Batching()
    limits: Limits = Limits()
    tls: Tls | None = None

    @field_validator("metrics_listen", mode="before")
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        return value or None

    @property
    def most_pictures(self) -> int:
        """The most pictures in one call: what it may ask for, and what may wait at a priority."""
        return min(self.limits.max_pictures, self.batching.max_queue)

    @property
    def directories(self) -> list[Path]:
        """Where models are looked for, in this order. InvalidRequest if one that is named is not there."""
        return [*map(require_models, self.models), ZOO] if self.models else model_directories()


_SECTIONS: dict[str, type[_Section]] = {"batching": Batching, "limits": Limits, "tls": Tls}


def load_config(file: Path | None = None, overrides: Mapping[str, Any] | None = None) -> ServerConfig:
    """The configuration of a TOML file (None: the defaults) with overrides by dotted key, of which None is unset.

    InvalidRequest names the key, what was found and what is allowed.
    """
    values = _read(file) if file else {}
    for key, value in (overrides or {}).items():
        if value is not None:
            _set(values, key.split("."), value)
    try:
        return ServerConfig.model_validate(values)
    except ValidationError as error:
        raise _as_invalid(error.errors()[0], str(file) if file else "configuration") from error


def _set(values: dict[str, Any], key: list[str], value: object) -> None:
    section = values.setdefault(key[0], {}) if len(key) > 1 else values
    # A section that is none of the file's is left to the validation.
    if isinstance(section, dict):
        section[key[-1]] = value


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text())
    except OSError as error:
        raise InvalidRequest("config", str(file), f"a readable file ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest("config", str(file), f"a TOML file ({error})") from error


def _as_invalid(error: ErrorDetails, source: str) -> InvalidRequest:
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        section = _SECTIONS.get(str(error["loc"][0])) if len(error["loc"]) > 1 else ServerConfig
        return InvalidRequest(f"{source}: {key}", "an unknown key", ", ".join((section or ServerConfig).model_fields))
    return InvalidRequest(f"{source}: {key}", error["input"], error["msg"])
