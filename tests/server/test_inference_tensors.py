"""Reading tensors, whatever a caller sends."""

from __future__ import annotations

import math
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from impasto.api.inference import grpc_service_pb2 as pb
from impasto.engine.picture import Pixels
from impasto.errors import InvalidRequest
from impasto.export.bundle import TensorSpec
from impasto.server.tensors import read_inputs, reply_parts

SEED = TensorSpec(name="seed", dtype="INT64", shape=(-1, 1), meaning="a seed")
LATENT = TensorSpec(name="z", dtype="FP32", shape=(-1, 2), meaning="a latent")
STEPS = TensorSpec(name="steps", dtype="INT32", shape=(-1, 1), meaning="steps")
PROMPT = TensorSpec(name="prompt", dtype="BYTES", shape=(-1, 1), meaning="a text")
IMAGE = TensorSpec(name="image", dtype="UINT8", shape=(-1, 2, 2, 3), meaning="a picture")
IMAGE_FLOAT = TensorSpec(name="image_float", dtype="FP32", shape=(-1, 3, 2, 2), meaning="a picture")

CONTENTS = st.one_of(
    st.none(),
    st.builds(pb.InferTensorContents, int64_contents=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=4)),
    st.builds(pb.InferTensorContents, fp32_contents=st.lists(st.floats(width=32), max_size=4)),
    st.builds(pb.InferTensorContents, int_contents=st.lists(st.integers(-(2**31), 2**31 - 1), max_size=4)),
    st.builds(pb.InferTensorContents, bytes_contents=st.lists(st.binary(max_size=4), max_size=2)),
)
INPUTS = st.builds(
    pb.ModelInferRequest.InferInputTensor,
    name=st.sampled_from(["seed", "z", "steps", "prompt", "image", ""]),
    datatype=st.sampled_from(["INT64", "FP32", "INT32", "BYTES", ""]),
    shape=st.lists(st.sampled_from([-1, 0, 1, 2, 3, 2**40, 2**63 - 1]), max_size=3),
    contents=CONTENTS,
)
REQUESTS = st.builds(
    pb.ModelInferRequest,
    inputs=st.lists(INPUTS, max_size=3),
    raw_input_contents=st.lists(st.binary(max_size=24), max_size=3),
)


@given(REQUESTS)
def test_a_request_is_read_in_its_specs_shapes_or_refused(request: pb.ModelInferRequest) -> None:
    try:
        arrays = read_inputs(request, [SEED, LATENT, STEPS, PROMPT], limit=4)
    except InvalidRequest:
        return
    assert len({len(array) for array in arrays.values()}) <= 1
    for spec in (SEED, LATENT, STEPS, PROMPT):
        if spec.name in arrays:
            array = arrays[spec.name]
            assert (
                array.dtype == {"INT64": np.int64, "FP32": np.float32, "INT32": np.int32, "BYTES": object}[spec.dtype]
            )
            assert array.shape == (len(array), *spec.shape[1:])
            assert 1 <= len(array) <= 4
            if spec is PROMPT:
                assert all(isinstance(element, bytes) for element in array.flat)
            else:
                assert np.isfinite(array).all()


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=4))
def test_integers_come_through_unchanged_both_ways(values: list[int]) -> None:
    raw = pb.ModelInferRequest(raw_input_contents=[np.array(values, "<i8").tobytes()])
    raw.inputs.add(name="seed", datatype="INT64", shape=[len(values), 1])
    typed = pb.ModelInferRequest()
    typed.inputs.add(name="seed", datatype="INT64", shape=[len(values)]).contents.int64_contents[:] = values
    for request in (raw, typed):
        assert read_inputs(request, [SEED], limit=4)["seed"].tolist() == [[value] for value in values]


@given(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=4))
def test_short_integers_come_through_unchanged_both_ways(values: list[int]) -> None:
    raw = pb.ModelInferRequest(raw_input_contents=[np.array(values, "<i4").tobytes()])
    raw.inputs.add(name="steps", datatype="INT32", shape=[len(values), 1])
    typed = pb.ModelInferRequest()
    typed.inputs.add(name="steps", datatype="INT32", shape=[len(values)]).contents.int_contents[:] = values
    for request in (raw, typed):
        assert read_inputs(request, [STEPS], limit=4)["steps"].tolist() == [[value] for value in values]


def with_lengths(*elements: bytes) -> bytes:
    """BYTES elements as raw contents."""
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)


def prompts(rows: int, raw: bytes) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(raw_input_contents=[raw])
    request.inputs.add(name="prompt", datatype="BYTES", shape=[rows, 1])
    return request


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=4))
def test_bytes_come_through_unchanged_both_ways(elements: list[bytes]) -> None:
    typed = pb.ModelInferRequest()
    typed.inputs.add(name="prompt", datatype="BYTES", shape=[len(elements), 1]).contents.bytes_contents[:] = elements
    for request in (prompts(len(elements), with_lengths(*elements)), typed):
        assert read_inputs(request, [PROMPT], limit=4)["prompt"].tolist() == [[element] for element in elements]


@pytest.mark.parametrize(
    ("raw", "line"),
    [
        (b"", "inputs.prompt: found 'raw contents that end in element 0'; allowed is 2 elements, each after its"),
        (b"\1\0\0", "inputs.prompt: found 'raw contents that end in element 0'"),
        (with_lengths(b"a"), "inputs.prompt: found 'raw contents that end in element 1'"),
        (with_lengths(b"a", b"bcd")[:-1], "inputs.prompt: found 'raw contents that end in element 1'"),
        (b"\xff" * 12, "inputs.prompt: found 'raw contents that end in element 0'"),
        (with_lengths(b"a", b"b", b"c"), "inputs.prompt: found '5 bytes of raw contents after the last element'"),
    ],
)
def test_lengths_that_do_not_add_up_are_refused(raw: bytes, line: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read_inputs(prompts(2, raw), [PROMPT], limit=4)
    assert str(refused.value).startswith(line)


@pytest.mark.parametrize("rows", [1, 3])
def test_a_reply_put_together_by_hand_is_the_message_that_protobuf_would_make(rows: int) -> None:
    pictures = [Pixels(chw=np.full((3, 2, 2), row / 10, np.float32)) for row in range(rows)]
    header = pb.ModelInferResponse(model_name="tiny", model_version="1", id="7")
    reply = pb.ModelInferResponse.FromString(b"".join(reply_parts(header, [IMAGE_FLOAT, IMAGE], pictures)))
    expected = pb.ModelInferResponse(model_name="tiny", model_version="1", id="7")
    expected.outputs.add(name="image_float", datatype="FP32", shape=[rows, 3, 2, 2])
    expected.outputs.add(name="image", datatype="UINT8", shape=[rows, 2, 2, 3])
    expected.raw_output_contents.append(b"".join(pixels.image_float.tobytes() for pixels in pictures))
    expected.raw_output_contents.append(b"".join(pixels.array.tobytes() for pixels in pictures))
    assert reply == expected


def test_an_array_that_is_not_contiguous_is_sent_in_row_major_order() -> None:
    chw = np.arange(math.prod((2, 2, 3)), dtype=np.float32).reshape(2, 2, 3).transpose(2, 0, 1)
    content = reply_parts(pb.ModelInferResponse(), [IMAGE_FLOAT], [Pixels(chw=chw)])[-1]
    assert_array_equal(np.frombuffer(content, np.float32).reshape(3, 2, 2), chw)
