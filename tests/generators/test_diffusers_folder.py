"""Reading a diffusers folder: what is accepted, and a row for each way in which a folder can be broken or hostile."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from impasto.errors import CheckpointError
from impasto.generators.diffusers_folder import read_pipeline
from tests.generators.tiny_pipelines import KINDS, MAX_LENGTH, save_tiny, tiny_pipeline, tiny_tokenizer

UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a kind of pipeline, saved once."""
    root = tmp_path_factory.mktemp("pipelines")
    return lambda kind: root / kind if (root / kind).exists() else save_tiny(kind, root / kind)


@pytest.fixture
def folder(saved: Callable[[str], Path], tmp_path: Path) -> Path:
    """A Stable Diffusion folder to break."""
    return shutil.copytree(saved("sd15"), tmp_path / "sd15")


@pytest.mark.parametrize("kind", KINDS)
def test_every_tensor_of_a_pipeline_is_found(kind: str, saved: Callable[[str], Path]) -> None:
    read, expected = read_pipeline(saved(kind)), tiny_pipeline(kind)
    modules = {name: part for name, part in expected.components.items() if isinstance(part, torch.nn.Module)}
    assert read.class_name == type(expected).__name__
    assert read.components.keys() == modules.keys()
    for name, module in modules.items():
        tensors, state = dict(read.components[name].weights.read()), module.state_dict()
        assert tensors.keys() == state.keys()
        assert all(torch.equal(tensors[key], state[key]) for key in state)
    assert read.scheduler["_class_name"] == type(expected.scheduler).__name__
    assert read.scheduler["num_train_timesteps"] == 1000


def test_the_vocabularies_are_the_tokenizers_own(saved: Callable[[str], Path]) -> None:
    first, second = read_pipeline(saved("sdxl")).tokenizers.values()
    tokenizer = tiny_tokenizer()
    assert first.tokens == second.tokens == tokenizer.get_vocab()
    assert first.max_length == MAX_LENGTH
    assert (first.special["pad_token"], second.special["pad_token"]) == ("<|endoftext|>", "!")


def test_an_older_folder_with_vocab_json_and_merges_has_the_same_vocabulary(folder: Path) -> None:
    expected = read_pipeline(folder).tokenizers["tokenizer"]
    _as_older_tokenizer(folder / "tokenizer", pad_token="!")
    found = read_pipeline(folder).tokenizers["tokenizer"]
    assert (found.tokens, found.merges) == (expected.tokens, expected.merges)
    assert found.special["pad_token"] == "!", "special_tokens_map.json wins over an older tokenizer_config.json"
    assert found.special["bos_token"] == "<|startoftext|>"


def _as_older_tokenizer(tokenizer: Path, pad_token: str) -> None:
    model = json.loads((tokenizer / "tokenizer.json").read_text())["model"]
    (tokenizer / "tokenizer.json").unlink()
    (tokenizer / "vocab.json").write_text(json.dumps(model["vocab"]))
    lines = ["#version: 0.2", *(" ".join(merge) for merge in model["merges"])]
    (tokenizer / "merges.txt").write_text("\n".join(lines) + "\n")
    begin = {"__type": "AddedToken", "content": "<|startoftext|>", "lstrip": False}
    settings = {"model_max_length": 77, "bos_token": begin, "pad_token": "<|endoftext|>"}
    (tokenizer / "tokenizer_config.json").write_text(json.dumps(settings))
    (tokenizer / "special_tokens_map.json").write_text(json.dumps({"pad_token": pad_token}))


def test_weights_of_a_variant_are_read_where_there_are_no_others(tmp_path: Path) -> None:
    torch.manual_seed(0)
    pipeline = tiny_pipeline("sd15").to(torch.float16)
    pipeline.save_pretrained(tmp_path, variant="fp16")
    weights = read_pipeline(tmp_path).components["unet"].weights
    assert [file.name for file in weights.files] == ["diffusion_pytorch_model.fp16.safetensors"]
    assert {tensor.dtype for tensor in weights.tensors.values()} == {"F16"}


def test_shards_come_together(tmp_path: Path) -> None:
    save_tiny("sd15", tmp_path, max_shard_size="100KB")
    weights = read_pipeline(tmp_path).components["unet"].weights
    assert len(weights.files) > 1
    expected = tiny_pipeline("sd15").unet.state_dict()
    found = dict(weights.read())
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_safety_checker_is_left_out(folder: Path) -> None:
    _edit(folder / "model_index.json", safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"])
    assert set(read_pipeline(folder).components) == {"unet", "vae", "text_encoder"}


def test_links_inside_the_folder_are_followed(folder: Path) -> None:
    (folder / UNET).rename(folder / "weights")
    (folder / UNET).symlink_to(folder / "weights")
    assert read_pipeline(folder).components["unet"].weights.elements > 0


def test_reading_builds_nothing(saved: Callable[[str], Path]) -> None:
    code = f"""
import sys
from pathlib import Path
from impasto.generators.diffusers_folder import read_pipeline
read_pipeline(Path({str(saved("sdxl"))!r}))
assert not {{"diffusers", "transformers"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def _edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def _index(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: _edit(folder / "model_index.json", **changes)


def _config(component: str, **changes: Any) -> Callable[[Path], None]:
    return lambda folder: _edit(folder / component / "config.json", **changes)


def _write(name: str, content: bytes | str) -> Callable[[Path], None]:
    data = content if isinstance(content, bytes) else content.encode()
    return lambda folder: (folder / name).write_bytes(data) and None


def _remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def _without(component: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        index = json.loads((folder / "model_index.json").read_text())
        del index[component]
        (folder / "model_index.json").write_text(json.dumps(index))

    return change


def _pickled(folder: Path) -> None:
    torch.save(load_file(folder / UNET), folder / "unet/diffusion_pytorch_model.bin")
    (folder / UNET).unlink()


def _truncated(folder: Path) -> None:
    data = (folder / UNET).read_bytes()
    (folder / UNET).write_bytes(data[:-100])


def _sharded(file: str) -> Callable[[Path], None]:
    """An index that says that a tensor is in `file`; the true weights lie outside of the folder and in unet/."""

    def change(folder: Path) -> None:
        shutil.copy(folder / UNET, folder.parent / "outside.safetensors")
        (folder / UNET).rename(folder / "unet/inside.safetensors")
        index = {"metadata": {}, "weight_map": dict.fromkeys(load_file(folder / "unet/inside.safetensors"), file)}
        (folder / f"{UNET}.index.json").write_text(json.dumps(index))

    return change


def _linked_out(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        outside = folder.parent / "outside"
        (folder / name).rename(outside)
        (folder / name).symlink_to(outside)

    return change


def _component_linked_out(folder: Path) -> None:
    (folder / "unet").rename(folder.parent / "outside")
    (folder / "unet").symlink_to(folder.parent / "outside")


def _with_integers(folder: Path) -> None:
    save_file({"conv_in.weight": torch.zeros(4, dtype=torch.int8)}, folder / UNET)


def _many_tensors(folder: Path) -> None:
    save_file({str(index): torch.zeros(1) for index in range(20_001)}, folder / UNET)


INDEX_LIST = "allowed are DDPMPipeline, DDIMPipeline, StableDiffusionPipeline"
SHARD = "allowed is the plain name of a safetensors file beside it"

HOSTILE: list[tuple[str, Callable[[Path], None], str]] = [
    ("no index", _remove("model_index.json"), r"sd15: model_index\.json: the file is missing"),
    ("index is no JSON", _write("model_index.json", "{"), r"model_index\.json: found no JSON: Expecting"),
    ("index is a list", _write("model_index.json", "[]"), r"model_index\.json: found a list; allowed is a JSON object"),
    ("index is nested", _write("model_index.json", "[" * 10**5), r"model_index\.json: found no JSON: .*recursion"),
    ("index is huge", _write("model_index.json", b" " * (2**24 + 1)), r"found 16777217 bytes; allowed are 16777216"),
    ("index is no text", _write("model_index.json", b"\xff\xfe"), r"model_index\.json: found bytes that are not UTF-8"),
    ("unknown pipeline", _index(_class_name="FluxPipeline"), f"_class_name: found 'FluxPipeline'; {INDEX_LIST}"),
    ("no pipeline", _index(_class_name=None), f"_class_name: found None; {INDEX_LIST}"),
    ("pipeline of its own", _index(_class_name=["my", "P"]), f"_class_name: found code of its own; {INDEX_LIST}"),
    ("class of its own", _index(unet=["my_unet", "MyUNet"]), "unet: found 'my_unet.MyUNet'; allowed is diffusers.UNet"),
    ("other library", _index(unet=["os", "system"]), "unet: found 'os.system'; allowed is diffusers.UNet2DConditionMo"),
    ("other class", _index(vae=["diffusers", "VQModel"]), "found 'diffusers.VQModel'; allowed is diffusers.Autoenco"),
    ("scheduler of its own", _index(scheduler=["mine", "S"]), "scheduler: found 'mine.S'; allowed is diffusers.a sche"),
    ("entry is text", _index(unet="../../unet"), "unet: found '../../unet'; allowed is a library and its class"),
    ("component is null", _index(vae=[None, None]), "vae: found a list; allowed is a library and its class"),
    (
        "more components",
        _index(controlnet=["diffusers", "ControlNetModel"]),
        "'controlnet': found an entry that stable",
    ),
    ("entry leaves", _index(**{"../up": ["diffusers", "UNet2DConditionModel"]}), "'../up': found an entry that stable"),
    (
        "image encoder",
        _index(image_encoder=["transformers", "CLIPVisionModel"]),
        "'image_encoder': found an entry that",
    ),
    ("lacks a component", _without("vae"), "vae: found none; a stable-diffusion pipeline has it"),
    ("lacks the scheduler", _without("scheduler"), "scheduler: found none; a stable-diffusion pipeline has it"),
    ("no config", _remove("vae/config.json"), r"vae/config\.json: the file is missing"),
    ("no weights", _remove(UNET), r"unet/diffusion_pytorch_model\.safetensors: the file is missing"),
    ("pickled weights", _pickled, r"unet/diffusion_pytorch_model\.bin: found a pickle, which can run code"),
    ("truncated weights", _truncated, "found a damaged or truncated safetensors file"),
    ("empty weights", _write(UNET, b""), "found a damaged or truncated safetensors file"),
    ("huge header", _write(UNET, b"\xff" * 7 + b"\x00{}"), "found a damaged or truncated safetensors file"),
    ("header is no JSON", _write(UNET, b"\x08" + bytes(7) + b"nonsense"), "found a damaged or truncated safetensors"),
    ("a pickle's content", _write(UNET, b"\x80\x04N."), "found a damaged or truncated safetensors file"),
    ("integers", _with_integers, "'conv_in.weight': found I8; allowed are F64, F32, F16, BF16"),
    ("many tensors", _many_tensors, "unet: found 20001 tensors; allowed are 1 to 20000"),
    ("shard above", _sharded("../../outside.safetensors"), rf"found '\.\./\.\./outside\.safetensors'; {SHARD}"),
    ("shard by its path", _sharded("/etc/passwd"), f"weight_map: found '/etc/passwd'; {SHARD}"),
    ("shard with backslash", _sharded("..\\outside.safetensors"), SHARD),
    ("shard of a pickle", _sharded("inside.bin"), f"weight_map: found 'inside.bin'; {SHARD}"),
    ("shard missing", _sharded("other.safetensors"), r"unet/other\.safetensors: the file is missing"),
    ("weights linked out", _linked_out(UNET), "found a link out of the folder; allowed are files inside it"),
    ("config linked out", _linked_out("unet/config.json"), r"unet/config\.json: found a link out of the folder"),
    ("index linked out", _linked_out("model_index.json"), r"model_index\.json: found a link out of the folder"),
    ("folder linked out", _component_linked_out, r"unet/config\.json: found a link out of the folder"),
    ("another class in config", _config("unet", _class_name="UNet3D"), r"found 'UNet3D'; model_index\.json says 'UNet"),
    ("code in config", _config("text_encoder", auto_map={"AutoModel": "x.Y"}), "auto_map: found code of its own"),
    ("infinite width", _config("unet", cross_attention_dim=float("inf")), "found no JSON: Infinity is no number"),
    ("large number", _write("vae/config.json", '{"in_channels": 1e999}'), "in_channels: found inf; its weights have"),
    (
        "huge width",
        _config("unet", cross_attention_dim=10**9),
        "cross_attention_dim: found 1000000000; its weights have",
    ),
    ("huge vocabulary", _config("text_encoder", vocab_size=2**40), "vocab_size: found 1099511627776; its weights have"),
    ("many layers", _config("text_encoder", num_hidden_layers=900), "found 900 layers; its weights are 52 tensors"),
    ("layers in layers", _config("unet", layers_per_block=900), "found 1800 layers; its weights are 208 tensors"),
    (
        "many blocks",
        _config("unet", block_out_channels=[8] * 17),
        "block_out_channels: found 17 entries; allowed are 16",
    ),
    ("nested list", _config("unet", attention_head_dim=[[[8]]]), "attention_head_dim: found 1 entries; allowed are 16"),
    ("object in a list", _config("unet", attention_head_dim=[{}]), "attention_head_dim: found an object in a list"),
    ("huge sample", _config("unet", sample_size=1025), "sample_size: found 1025; its weights have no dimension above"),
    ("no scheduler", _remove("scheduler/scheduler_config.json"), r"scheduler/scheduler_config\.json: the file is"),
    ("no vocabulary", _remove("tokenizer/tokenizer.json"), r"tokenizer/tokenizer\.json: the file is missing"),
    ("other tokens", _write("tokenizer/tokenizer.json", '{"model": {"type": "Unigram"}}'), "allowed is a BPE model"),
    (
        "ids out of range",
        _write("tokenizer/tokenizer.json", '{"model": {"vocab": {"a": 7}, "merges": []}}'),
        "found ids that are not 0 to 0, each once",
    ),
    (
        "merge of unknown tokens",
        _write("tokenizer/tokenizer.json", '{"model": {"vocab": {"a": 0}, "merges": ["a b"]}}'),
        "merges: found a list; allowed are two tokens that make one",
    ),
    (
        "special token unknown",
        lambda folder: _edit(folder / "tokenizer/tokenizer_config.json", pad_token="<pad>"),
        "pad_token: found '<pad>', which is not in the vocabulary",
    ),
    (
        "long prompts",
        lambda folder: _edit(folder / "tokenizer/tokenizer_config.json", model_max_length=10**30),
        "model_max_length: found 1000000000000000000000000000000; allowed is 3 to 512",
    ),
    (
        "added tokens",
        _write("tokenizer/added_tokens.json", '{"<cat>": 523}'),
        "added_tokens.json: found '<cat>', which",
    ),
]


@pytest.mark.parametrize(("change", "message"), [row[1:] for row in HOSTILE], ids=[row[0] for row in HOSTILE])
def test_a_hostile_or_broken_folder_is_refused(change: Callable[[Path], None], message: str, folder: Path) -> None:
    change(folder)
    with pytest.raises(CheckpointError, match=message) as refused:
        read_pipeline(folder)
    assert "\n" not in str(refused.value)
    assert str(folder) in str(refused.value)


def test_a_table_of_positions_larger_than_the_weights_is_refused(saved: Callable[[str], Path], tmp_path: Path) -> None:
    folder = shutil.copytree(saved("dit"), tmp_path / "dit")
    _edit(folder / "transformer/config.json", sample_size=1000)
    with pytest.raises(CheckpointError, match=r"found 500² positions of 16 numbers; its weights are \d+ in"):
        read_pipeline(folder)


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="found no folder; a diffusers pipeline is one"):
        read_pipeline(tmp_path / "none")
    os.mkfifo(tmp_path / "model_index.json")
    with pytest.raises(CheckpointError, match=r"model_index\.json: the file is missing"):
        read_pipeline(tmp_path)
