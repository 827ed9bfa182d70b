"""Networks built from a folder's config and tensors, and the tokenizers beside them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTokenizer

from impasto.errors import CheckpointError
from impasto.export.diffusion_modules import load_module, load_tokenizer
from impasto.generators.diffusers_folder import read_pipeline
from tests.generators.tiny_pipelines import KINDS, save_tiny, tiny_pipeline

UNET = "unet/diffusion_pytorch_model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"
PROMPTS = (
    "",
    "a starry night",
    "The  STAR!! isn't 1889's;\n night",
    "night " * 200,
    "x" * 500,
    "Ünïcødé ☃ 星月夜 \u200d",
    "<|endoftext|> a <|startoftext|>",
    "\x00\x1f\ufffd",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_tiny("sd15", tmp_path / "sd15")


def _state(folder: Path, component: str, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    state: dict[str, Tensor] = load_module(read_pipeline(folder).components[component], dtype).state_dict()
    return state


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_is_the_one_that_was_saved(kind: str, tmp_path: Path) -> None:
    components = read_pipeline(save_tiny(kind, tmp_path)).components
    for name, component in components.items():
        expected = getattr(tiny_pipeline(kind), name)
        module = load_module(component, torch.float32)
        assert type(module) is type(expected)
        for (key, found), (_, stored) in zip(_tensors(module), _tensors(expected), strict=True):
            assert torch.equal(found, stored), f"{name}.{key}"
        assert not module.training


def _tensors(module: torch.nn.Module) -> list[tuple[str, Tensor]]:
    """Parameters and all buffers, those too that no file keeps."""
    return sorted([*module.named_parameters(), *module.named_buffers()], key=lambda item: item[0])


def test_weights_are_rounded_to_the_precision_asked_for(folder: Path) -> None:
    full, half = _state(folder, "unet"), _state(folder, "unet", torch.float16)
    assert all(torch.equal(half[name], tensor.half().float()) for name, tensor in full.items())
    assert any(not torch.equal(half[name], tensor) for name, tensor in full.items())


def test_tensors_under_their_older_names_are_taken(folder: Path) -> None:
    expected = _state(folder, "vae"), _state(folder, "text_encoder")
    older = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def renamed(name: str) -> str:
        for now, then in older.items():
            name = name.replace(f"attentions.0.{now}.", f"attentions.0.{then}.")
        return name

    vae = {renamed(name): tensor for name, tensor in load_file(folder / VAE).items()}
    assert sum("proj_attn" in name for name in vae) == 4
    save_file(vae, folder / VAE)
    text = {f"text_model.{name}": tensor for name, tensor in load_file(folder / TEXT).items()}
    text["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    save_file(text, folder / TEXT)
    for found, tensors in zip((_state(folder, "vae"), _state(folder, "text_encoder")), expected, strict=True):
        assert found.keys() == tensors.keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


def test_the_older_class_of_a_class_conditional_transformer_is_taken(tmp_path: Path) -> None:
    save_tiny("dit", tmp_path)
    expected = _state(tmp_path, "transformer")
    _edit(tmp_path / "model_index.json", transformer=["diffusers", "Transformer2DModel"])
    _edit(tmp_path / "transformer/config.json", _class_name="Transformer2DModel", norm_type="ada_norm_zero")
    found = _state(tmp_path, "transformer")
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    _edit(tmp_path / "transformer/config.json", norm_type="layer_norm")
    with pytest.raises(CheckpointError, match="norm_type: found 'layer_norm'; allowed is 'ada_norm_zero'"):
        _state(tmp_path, "transformer")


def _edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def _config(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: _edit(folder / "unet/config.json", **changes)


def _with_tensors(change: Callable[[dict[str, Tensor]], object]) -> Callable[[Path], None]:
    def changed(folder: Path) -> None:
        tensors = load_file(folder / UNET)
        change(tensors)
        save_file(tensors, folder / UNET)

    return changed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_config(block_out_channels=[8, 32]), r"down_blocks\.1\.\S+: found the shape \[16.*\]; its config makes \[32"),
        (_config(layers_per_block=2), "unet: its weights lack 'down_blocks.0.resnets.1"),
        (_config(down_block_types=["DownBlock2D"] * 2), "unet: its config has no 'down_blocks.1.attentions"),
        (_config(down_block_types=["DownBlock2D"]), r"unet/config\.json: builds no UNet2DConditionModel: Must provide"),
        (_config(act_fn="os.system"), r"unet/config\.json: builds no UNet2DConditionModel: .*os\.system"),
        (_config(norm_num_groups="four"), r"unet/config\.json: builds no UNet2DConditionModel"),
        (_config(block_out_channels=[0, 0]), r"unet/config\.json: builds no UNet2DConditionModel"),
        (_config(block_out_channels=[-8, 16]), r"unet/config\.json: builds no UNet2DConditionModel"),
        (_with_tensors(lambda t: t.pop("conv_in.bias")), "unet: its weights lack 'conv_in.bias'"),
        (_with_tensors(lambda t: t.update(extra=torch.zeros(1))), "unet: its config has no 'extra'"),
        (_with_tensors(lambda t: t["conv_in.bias"].fill_(torch.nan)), "conv_in.bias: found NaN or infinite numbers"),
        (
            _with_tensors(lambda t: t.update({"text_model.conv_in.bias": t["conv_in.bias"].clone()})),
            "unet: found one tensor under two names",
        ),
    ],
)
def test_a_config_that_is_not_of_its_weights_is_refused(
    change: Callable[[Path], None], message: str, folder: Path
) -> None:
    change(folder)
    with pytest.raises(CheckpointError, match=message):
        _state(folder, "unet")


def test_numbers_that_half_precision_cannot_hold_are_refused(folder: Path) -> None:
    _with_tensors(lambda tensors: tensors["conv_in.bias"].fill_(1e6))(folder)
    assert _state(folder, "unet")["conv_in.bias"][0] == 1e6
    with pytest.raises(CheckpointError, match=r"unet: conv_in.bias: found numbers above the largest of torch\.float16"):
        _state(folder, "unet", torch.float16)


@pytest.mark.parametrize("tokenizer", ["tokenizer", "tokenizer_2"])
def test_the_ids_of_a_prompt_are_those_that_transformers_reads_from_the_folder(tokenizer: str, tmp_path: Path) -> None:
    save_tiny("sdxl", tmp_path)
    expected = CLIPTokenizer.from_pretrained(tmp_path / tokenizer)
    found = load_tokenizer(read_pipeline(tmp_path).tokenizers[tokenizer])
    for prompt in PROMPTS:
        assert found(prompt).input_ids == expected(prompt).input_ids, prompt


def test_an_older_tokenizers_folder_gives_the_ids_that_transformers_gives(tmp_path: Path) -> None:
    save_tiny("sd21", tmp_path)
    tokenizer = tmp_path / "tokenizer"
    model = json.loads((tokenizer / "tokenizer.json").read_text())["model"]
    shutil.rmtree(tokenizer)
    tokenizer.mkdir()
    (tokenizer / "vocab.json").write_text(json.dumps(model["vocab"]))
    (tokenizer / "merges.txt").write_text("\n".join(["#version: 0.2", *map(" ".join, model["merges"])]))
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "pad_token": "<|endoftext|>"}
    (tokenizer / "tokenizer_config.json").write_text(json.dumps(settings))
    (tokenizer / "special_tokens_map.json").write_text(json.dumps({"pad_token": "!"}))
    expected = CLIPTokenizer.from_pretrained(tokenizer)
    found = load_tokenizer(read_pipeline(tmp_path).tokenizers["tokenizer"])
    assert found.pad_token_id == expected.pad_token_id == expected.get_vocab()["!"]
    for prompt in PROMPTS:
        assert found(prompt).input_ids == expected(prompt).input_ids, prompt
