"""The tensors of the Open Inference Protocol: numpy arrays out of a request, a reply out of pictures.

All are row-major and little-endian. What a model takes and gives is in its manifest; a tensor that differs is refused
with a line that names it, what was found and what is allowed.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from impasto.api.inference.grpc_service_pb2 import ModelInferRequest, ModelInferResponse
from impasto.engine.picture import Pixels
from impasto.engine.sizes import Size
from impasto.errors import InvalidRequest
from impasto.export.bundle import TensorSpec
from impasto.server.config import MEBIBYTE, Limits
from impasto.server.encoding import RAW_FLOAT32, RAW_UINT8, Data, Encoder
from impasto.server.wire import Parts, bytes_field

InputTensor = ModelInferRequest.InferInputTensor

RAW_OUTPUT_CONTENTS = ModelInferResponse.RAW_OUTPUT_CONTENTS_FIELD_NUMBER
DEFAULT_OUTPUT = "image"
PIXELS: Mapping[str, Callable[[Pixels], Data]] = {
    "image": lambda pixels: pixels.array.data,
    "image_float": lambda pixels: np.ascontiguousarray(pixels.image_float, dtype="<f4").data,
}


@dataclass(frozen=True)
class Datatype:
    """How a datatype's elements lie in raw contents, and which field of InferTensorContents holds them.

    BYTES elements are Python's own, each after its length as an uint32 in raw contents.
    """

    raw: np.dtype[Any]
    contents: str


DATATYPES: Mapping[str, Datatype] = {
    "BYTES": Datatype(np.dtype(object), "bytes_contents"),
    "FP32": Datatype(np.dtype("<f4"), "fp32_contents"),
    "INT32": Datatype(np.dtype("<i4"), "int_contents"),
    "INT64": Datatype(np.dtype("<i8"), "int64_contents"),
    "UINT8": Datatype(np.dtype("u1"), "uint_contents"),
}


def read_inputs(request: ModelInferRequest, specs: Sequence[TensorSpec], limit: int) -> dict[str, NDArray[Any]]:
    """The request's tensors by name, in their specs' shapes with the same N, 1 to `limit`, and without NaN.

    InvalidRequest for an unknown or repeated name, a wrong datatype or shape, contents of another size, raw and typed
    contents together, differing N, or a value that is not finite.
    """
    contents = _raw_contents(request)
    arrays: dict[str, NDArray[Any]] = {}
    for index, tensor in enumerate(request.inputs):
        name = tensor.name
        spec = _named(name, specs)
        if spec is None:
            raise InvalidRequest(f"inputs[{index}].name", name, _one_of(specs))
        if name in arrays:
            raise InvalidRequest("inputs", f"{name} twice", "each tensor once")
        shape = _checked_shape(tensor, spec, limit)
        values = _from_raw(contents[index], spec, shape) if contents else _from_typed(tensor, spec, shape)
        if values.dtype.kind == "f":
            _check_finite(name, values)
        arrays[name] = values
    if len(arrays) > 1:
        _check_same_rows(arrays)
    return arrays


def requested_outputs(request: ModelInferRequest, specs: Sequence[TensorSpec]) -> list[TensorSpec]:
    """What the caller wants, in its order; `image` where it names none."""
    if not request.outputs:
        return [spec for spec in specs if spec.name == DEFAULT_OUTPUT]
    wanted: list[TensorSpec] = []
    for index, output in enumerate(request.outputs):
        spec = _named(output.name, specs)
        if spec is None:
            raise InvalidRequest(f"outputs[{index}].name", output.name, _one_of(specs))
        if spec in wanted:
            raise InvalidRequest("outputs", f"{output.name} twice", "each tensor once")
        if output.parameters:
            raise _parameters_refused(f"outputs.{output.name}.parameters", output.parameters)
        wanted.append(spec)
    return wanted


def check_reply_size(outputs: Sequence[TensorSpec], picture: Size, pictures: int, limits: Limits) -> None:
    """Raise InvalidRequest if the reply, of so many pictures of that size, would be larger than the server sends."""
    size = sum(math.prod(_row_shape(spec, picture)) * DATATYPES[spec.dtype].raw.itemsize for spec in outputs)
    allowed = limits.send_mib * MEBIBYTE // size
    if pictures > allowed:
        raise InvalidRequest("inputs", f"N = {pictures}", f"N of at most {allowed} with these outputs")


def encoder_of(outputs: Sequence[TensorSpec]) -> Encoder:
    """Prepares the pixels for `reply_parts`, off the event loop; pixels keep what was made of them."""
    return RAW_UINT8 if any(spec.name == DEFAULT_OUTPUT for spec in outputs) else RAW_FLOAT32


def reply_parts(header: ModelInferResponse, outputs: Sequence[TensorSpec], pictures: Sequence[Pixels]) -> Parts:
    """The response: the header, then the outputs, each with its pictures as raw contents."""
    parts: Parts = [header.SerializeToString()]
    size = Size(*pictures[0].size)
    for spec in outputs:
        parts.append(_described(spec.name, spec.dtype, (len(pictures), *_row_shape(spec, size))))
        parts += bytes_field(RAW_OUTPUT_CONTENTS, *[PIXELS[spec.name](pixels) for pixels in pictures])
    return parts


@functools.lru_cache(maxsize=256)
def _described(name: str, datatype: str, shape: tuple[int, ...]) -> bytes:
    """An output of the response but for its contents, serialised."""
    output = ModelInferResponse.InferOutputTensor(name=name, datatype=datatype, shape=shape)
    return ModelInferResponse(outputs=[output]).SerializeToString()


def _raw_contents(request: ModelInferRequest) -> Sequence[bytes]:
    """One entry an input, or none where the inputs have typed contents."""
    raw = request.raw_input_contents
    if not raw:
        return ()
    for tensor in request.inputs:
        if tensor.HasField("contents"):
            raise InvalidRequest(
                "raw_input_contents", f"contents in {tensor.name} too", "one of the two for all inputs"
            )
    if len(raw) != len(request.inputs):
        raise InvalidRequest("raw_input_contents", f"{len(raw)} entries", f"one an input, {len(request.inputs)}")
    return raw


def _checked_shape(tensor: InputTensor, spec: TensorSpec, limit: int) -> tuple[int, ...]:
    """The tensor's shape as its spec writes it; [N] stands for [N, 1]."""
    if tensor.parameters:
        raise _parameters_refused(f"inputs.{spec.name}.parameters", tensor.parameters)
    if tensor.datatype != spec.dtype:
        raise InvalidRequest(f"inputs.{spec.name}.datatype", tensor.datatype, spec.dtype)
    shape = tuple(tensor.shape)
    row = spec.shape[1:]
    if row == (1,) and len(shape) == 1:
        shape = (*shape, 1)
    fits = len(shape) == len(spec.shape) and all(map(_fits, shape[1:], row))
    if not fits or not 1 <= shape[0] <= limit:
        written = ", ".join(("N", *("any" if side == -1 else str(side) for side in row)))
        raise InvalidRequest(f"inputs.{spec.name}.shape", list(tensor.shape), f"[{written}] with N from 1 to {limit}")
    return shape


def _fits(found: int, allowed: int) -> bool:
    return found >= 1 if allowed == -1 else found == allowed


def _row_shape(spec: TensorSpec, picture: Size) -> tuple[int, ...]:
    """That of one row of an output, whose free dimensions are the picture's height and width."""
    row = spec.shape[1:]
    if -1 not in row:
        return row
    free = iter((picture.height, picture.width))
    return tuple(next(free) if side == -1 else side for side in row)


def _from_raw(content: bytes, spec: TensorSpec, shape: tuple[int, ...]) -> NDArray[Any]:
    dtype = DATATYPES[spec.dtype].raw
    if dtype.hasobject:
        return _from_lengths(content, spec, shape)
    size = math.prod(shape) * dtype.itemsize
    if len(content) != size:
        allowed = f"{size} bytes for {spec.dtype} {list(shape)}"
        raise InvalidRequest(f"inputs.{spec.name}", f"{len(content)} bytes of raw contents", allowed)
    return np.frombuffer(content, dtype).reshape(shape)


def _from_lengths(content: bytes, spec: TensorSpec, shape: tuple[int, ...]) -> NDArray[Any]:
    """Elements that each follow their length, a little-endian uint32."""
    values = np.empty(math.prod(shape), object)
    start = 0
    for index in range(len(values)):
        end = start + 4 + int.from_bytes(content[start : start + 4], "little")
        if len(content) < start + 4 or len(content) < end:
            allowed = f"{len(values)} elements, each after its length in 4 bytes"
            raise InvalidRequest(f"inputs.{spec.name}", f"raw contents that end in element {index}", allowed)
        values[index] = content[start + 4 : end]
        start = end
    if start != len(content):
        found = f"{len(content) - start} bytes of raw contents after the last element"
        raise InvalidRequest(f"inputs.{spec.name}", found, f"{len(values)} elements for {list(shape)}")
    return values.reshape(shape)


def _from_typed(tensor: InputTensor, spec: TensorSpec, shape: tuple[int, ...]) -> NDArray[Any]:
    datatype = DATATYPES[spec.dtype]
    field = f"inputs.{spec.name}.contents"
    filled = [descriptor.name for descriptor, _ in tensor.contents.ListFields()]
    if filled != [datatype.contents]:
        raise InvalidRequest(field, ", ".join(filled) or "none", f"{datatype.contents}, or raw_input_contents")
    values = getattr(tensor.contents, datatype.contents)
    if len(values) != math.prod(shape):
        raise InvalidRequest(field, f"{len(values)} values", f"{math.prod(shape)} values for {list(shape)}")
    return np.fromiter(values, datatype.raw, len(values)).reshape(shape)


def _check_finite(name: str, values: NDArray[Any]) -> None:
    wrong = np.flatnonzero(~np.isfinite(values))
    if len(wrong):
        index = np.unravel_index(wrong[0], values.shape)
        where = "".join(f"[{i}]" for i in index)
        raise InvalidRequest(f"inputs.{name}{where}", float(values[index]), "a finite number")


def _check_same_rows(arrays: Mapping[str, NDArray[Any]]) -> None:
    rows = {name: len(array) for name, array in arrays.items()}
    first = next(iter(rows), "")
    for name, count in rows.items():
        if count != rows[first]:
            raise InvalidRequest(f"inputs.{name}.shape", f"N = {count}", f"N = {rows[first]} as in inputs.{first}")


def _parameters_refused(field: str, parameters: Mapping[str, Any]) -> InvalidRequest:
    return InvalidRequest(field, ", ".join(sorted(parameters)), "none: shared memory and classes are not served")


def _named(name: str, specs: Sequence[TensorSpec]) -> TensorSpec | None:
    for spec in specs:
        if spec.name == name:
            return spec
    return None


def _one_of(specs: Iterable[TensorSpec]) -> str:
    return f"one of {', '.join(spec.name for spec in specs)}"
