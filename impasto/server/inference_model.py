"""What the Open Inference Protocol tells of a model: metadata, configuration and statistics."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from impasto.api.inference import grpc_service_pb2 as pb
from impasto.api.inference import model_config_pb2 as config_pb
from impasto.export.bundle import TensorSpec
from impasto.server.config import Batching, ServerConfig
from impasto.server.inference_requests import SOURCES
from impasto.server.loaded import LoadedModel
from impasto.server.statistics import Duration


def model_metadata(model: LoadedModel, versions: Iterable[str]) -> pb.ModelMetadataResponse:
    """Names, datatypes and shapes, in which -1 is the batch; `versions` are those that are loaded."""
    manifest = model.engine.manifest
    return pb.ModelMetadataResponse(
        name=model.name,
        versions=versions,
        platform=_platform(model),
        inputs=map(_tensor, manifest.inputs),
        outputs=map(_tensor, manifest.outputs),
    )


def model_config(model: LoadedModel, config: ServerConfig) -> config_pb.ModelConfig:
    """As Triton would describe the model: shapes without the batch, batching and instances."""
    manifest = model.engine.manifest
    return config_pb.ModelConfig(
        name=model.name,
        platform=_platform(model),
        backend=model.engine.backend,
        max_batch_size=config.most_pictures,
        input=_inputs(manifest.inputs),
        output=[
            config_pb.ModelOutput(name=spec.name, data_type=_data_type(spec), dims=spec.shape[1:])
            for spec in manifest.outputs
        ],
        instance_group=[_instances(model, config.instances)],
        dynamic_batching=_dynamic_batching(model.engine.buckets, config.batching),
        parameters={
            "digest": config_pb.ModelParameter(string_value=model.engine.digest),
            "family": config_pb.ModelParameter(string_value=manifest.family),
        },
    )


def model_statistics(model: LoadedModel) -> pb.ModelStatistics:
    """Counted since the model was loaded, over all services; durations are sums in ns, last_inference in ms."""
    statistics = model.statistics
    return pb.ModelStatistics(
        name=model.name,
        version=model.version,
        last_inference=round(statistics.last_inference * 1000),
        inference_count=statistics.pictures,
        execution_count=statistics.executions,
        inference_stats=pb.InferStatistics(
            success=_duration(statistics.success),
            fail=_duration(statistics.fail),
            queue=_duration(statistics.queue),
            compute_infer=_duration(statistics.compute_infer),
        ),
        batch_stats=[
            pb.InferBatchStatistics(batch_size=rows, compute_infer=_duration(batch))
            for rows, batch in sorted(statistics.batches.items())
        ],
    )


def _platform(model: LoadedModel) -> str:
    return f"impasto_{model.engine.backend}"


def _tensor(spec: TensorSpec) -> pb.ModelMetadataResponse.TensorMetadata:
    return pb.ModelMetadataResponse.TensorMetadata(name=spec.name, datatype=spec.dtype, shape=spec.shape)


def _inputs(specs: Iterable[TensorSpec]) -> Iterator[config_pb.ModelInput]:
    required = {spec.name for spec in specs} & {*SOURCES, "image"}
    for spec in specs:
        yield config_pb.ModelInput(
            name=spec.name,
            data_type=_data_type(spec),
            dims=spec.shape[1:],
            optional=required != {spec.name},
        )


def _data_type(spec: TensorSpec) -> config_pb.DataType.ValueType:
    # Triton's configuration has another name for BYTES than the protocol.
    return config_pb.DataType.Value("TYPE_STRING" if spec.dtype == "BYTES" else f"TYPE_{spec.dtype}")


def _instances(model: LoadedModel, count: int) -> config_pb.ModelInstanceGroup:
    kind, _, index = model.engine.device.partition(":")
    group = config_pb.ModelInstanceGroup(name=f"{model.name}_0", count=count)
    if kind == "cpu":
        group.kind = config_pb.ModelInstanceGroup.KIND_CPU
    else:
        group.kind = config_pb.ModelInstanceGroup.KIND_GPU
        group.gpus.append(int(index or 0))
    return group


def _dynamic_batching(buckets: Iterable[int], batching: Batching) -> config_pb.ModelDynamicBatching:
    return config_pb.ModelDynamicBatching(
        preferred_batch_size=buckets,
        max_queue_delay_microseconds=round(batching.max_queue_delay_ms * 1000),
        priority_levels=batching.priority_levels,
        default_priority_level=batching.default_priority,
        default_queue_policy=config_pb.ModelQueuePolicy(
            timeout_action=config_pb.ModelQueuePolicy.REJECT,
            allow_timeout_override=True,
            max_queue_size=batching.max_queue,
        ),
    )


def _duration(duration: Duration) -> pb.StatisticDuration:
    return pb.StatisticDuration(count=duration.count, ns=duration.ns)
