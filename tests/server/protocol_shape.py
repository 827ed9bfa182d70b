"""The shape of a protocol: its messages, fields, enums and methods. Runs in any environment that has protobuf.

As a program: prints, as JSON, the shape that `tritonclient` was generated from.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, FileDescriptor

Shape = dict[str, dict[str, Any]]


def shape_of(files: Iterable[FileDescriptor]) -> Shape:
    """Messages as name → field → its number, type, repetition and oneof; enums as values; services as methods."""
    shape: Shape = {}
    for file in files:
        for message in file.message_types_by_name.values():
            shape |= dict(_messages(message))
        for enum in file.enum_types_by_name.values():
            shape[enum.full_name] = _values(enum)
        for service in file.services_by_name.values():
            shape[service.full_name] = {
                method.name: [
                    method.input_type.full_name,
                    method.output_type.full_name,
                    method.client_streaming,
                    method.server_streaming,
                ]
                for method in service.methods
            }
    return shape


def _messages(message: Descriptor) -> Iterator[tuple[str, dict[str, Any]]]:
    yield message.full_name, {field.name: _field(field) for field in message.fields}
    for nested in message.nested_types:
        yield from _messages(nested)
    for enum in message.enum_types:
        yield enum.full_name, _values(enum)


def _field(field: FieldDescriptor) -> list[Any]:
    refers_to = field.message_type or field.enum_type
    oneof = field.containing_oneof
    return [
        field.number,
        field.type,
        field.is_repeated,
        refers_to.full_name if refers_to else None,
        oneof.name if oneof else None,
    ]


def _values(enum: EnumDescriptor) -> dict[str, int]:
    return {value.name: value.number for value in enum.values}


if __name__ == "__main__":
    from tritonclient.grpc import model_config_pb2, service_pb2

    print(json.dumps(shape_of([model_config_pb2.DESCRIPTOR, service_pb2.DESCRIPTOR])))
