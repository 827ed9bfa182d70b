"""Diffusion pipelines as small as they get, made and saved by diffusers itself, with weights drawn at random.

`tiny_pipeline(kind)` is diffusers' own object, to compare with; `save_tiny(kind, folder)` saves it as a user's folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    UNet2DModel,
)
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

KINDS = ("ddpm", "sd15", "sd21", "sdxl", "inpaint", "dit", "sd3")
LATENT_SIDE = 8
PIXELS_PER_LATENT = 2
PIXEL_SIDE = 16
CLASSES = 1000  # as many as DiTPipeline takes for granted: it guides by class 1000
TEXT_WIDTH = 16
MAX_LENGTH = 77
_MERGES = ("s t", "st a", "sta r", "n i", "ni g", "nig h", "nigh t</w>", "t h", "th e</w>")
_STABLE_DIFFUSION = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def tiny_pipeline(kind: str, seed: int = 0) -> Any:
    """A diffusers pipeline of one of KINDS; the same kind and seed give the same weights."""
    torch.manual_seed(seed)
    pipeline = _BUILDERS[kind]()
    for component in pipeline.components.values():
        if isinstance(component, torch.nn.Module):
            _spread(component)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def save_tiny(kind: str, folder: Path, seed: int = 0, **options: Any) -> Path:
    """Save `tiny_pipeline(kind)` in `folder`, which it returns; `options` are those of save_pretrained."""
    tiny_pipeline(kind, seed).save_pretrained(folder, **options)
    return folder


def tiny_tokenizer(pad_token: str = "<|endoftext|>") -> CLIPTokenizer:
    """CLIP's tokenizer with a vocabulary of all bytes and a few merges; its start and end have the last ids."""
    characters = sorted(ByteLevel.alphabet())
    merged = [merge.replace(" ", "") for merge in _MERGES]
    tokens = [
        *characters,
        *(f"{character}</w>" for character in characters),
        *merged,
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    return CLIPTokenizer(
        vocab={token: index for index, token in enumerate(tokens)},
        merges=[tuple(merge.split()) for merge in _MERGES],
        pad_token=pad_token,
        model_max_length=MAX_LENGTH,
    )


def _spread(module: torch.nn.Module) -> None:
    """Make every bias and norm matter, and layers that start near zero too, so that a lost tensor shows."""
    for name, parameter in module.named_parameters():
        if parameter.ndim == 1:
            parameter.data.add_(torch.randn_like(parameter), alpha=0.1)
        elif "embedding" in name:
            parameter.data.normal_(std=0.3)
    module.eval().requires_grad_(False)


def _unet(**changes: Any) -> UNet2DConditionModel:
    settings: dict[str, Any] = {
        "sample_size": LATENT_SIDE,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": TEXT_WIDTH,
        "attention_head_dim": 2,
        "norm_num_groups": 4,
    }
    return UNet2DConditionModel(**(settings | changes))


def _vae(**changes: Any) -> AutoencoderKL:
    settings: dict[str, Any] = {
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": 4,
        "block_out_channels": (8, 8),
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "norm_num_groups": 4,
        "sample_size": LATENT_SIDE * PIXELS_PER_LATENT,
    }
    return AutoencoderKL(**(settings | changes))


def _text_config(**changes: Any) -> CLIPTextConfig:
    tokenizer = tiny_tokenizer()
    settings: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": TEXT_WIDTH,
        "intermediate_size": 32,
        "projection_dim": 12,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": MAX_LENGTH,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    return CLIPTextConfig(**(settings | changes))


def _ddpm() -> DDPMPipeline:
    unet = UNet2DModel(
        sample_size=PIXEL_SIDE,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=4,
        norm_num_groups=4,
    )
    scheduler = DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", clip_sample=False)
    return DDPMPipeline(unet, scheduler)


def _sd15() -> StableDiffusionPipeline:
    scheduler = PNDMScheduler(**_STABLE_DIFFUSION, skip_prk_steps=True, steps_offset=1, set_alpha_to_one=False)
    return _stable_diffusion(StableDiffusionPipeline, _unet(), _text_config(eos_token_id=2), scheduler)


def _sd21() -> StableDiffusionPipeline:
    scheduler = DDIMScheduler(
        **_STABLE_DIFFUSION,
        prediction_type="v_prediction",
        clip_sample=False,
        steps_offset=1,
        set_alpha_to_one=False,
    )
    unet = _unet(attention_head_dim=(2, 4), use_linear_projection=True)
    return _stable_diffusion(StableDiffusionPipeline, unet, _text_config(hidden_act="gelu"), scheduler, pad_token="!")


def _inpaint() -> StableDiffusionInpaintPipeline:
    scheduler = DDIMScheduler(**_STABLE_DIFFUSION, clip_sample=False, steps_offset=1, set_alpha_to_one=False)
    return _stable_diffusion(StableDiffusionInpaintPipeline, _unet(in_channels=9), _text_config(), scheduler)


def _stable_diffusion(
    pipeline: Any, unet: UNet2DConditionModel, text: CLIPTextConfig, scheduler: Any, **tokenizer: str
) -> Any:
    return pipeline(
        vae=_vae(),
        text_encoder=CLIPTextModel(text),
        tokenizer=tiny_tokenizer(**tokenizer),
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _sdxl() -> StableDiffusionXLPipeline:
    second = _text_config(hidden_size=24, num_attention_heads=4, hidden_act="gelu")
    unet = _unet(
        cross_attention_dim=TEXT_WIDTH + 24,
        block_out_channels=(8,),
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        use_linear_projection=True,
        transformer_layers_per_block=(2,),
        attention_head_dim=(2,),
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 12,
    )
    return StableDiffusionXLPipeline(
        vae=_vae(scaling_factor=0.13025, force_upcast=True),
        text_encoder=CLIPTextModel(_text_config()),
        text_encoder_2=CLIPTextModelWithProjection(second),
        tokenizer=tiny_tokenizer(),
        tokenizer_2=tiny_tokenizer(pad_token="!"),
        unet=unet,
        scheduler=EulerDiscreteScheduler(**_STABLE_DIFFUSION, steps_offset=1, timestep_spacing="leading"),
        add_watermarker=False,
    )


def _dit() -> DiTPipeline:
    transformer = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=1,
        sample_size=LATENT_SIDE,
        patch_size=2,
        num_embeds_ada_norm=CLASSES,
    )
    return DiTPipeline(transformer, _vae(), DDIMScheduler(clip_sample=False))


def _sd3() -> StableDiffusion3Pipeline:
    first, second = _text_config(), _text_config(hidden_size=24, num_attention_heads=4, hidden_act="gelu")
    transformer = SD3Transformer2DModel(
        sample_size=LATENT_SIDE,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        caption_projection_dim=16,
        joint_attention_dim=48,
        pooled_projection_dim=24,
        pos_embed_max_size=8,
    )
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=_vae(scaling_factor=1.5305, shift_factor=0.0609, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=CLIPTextModelWithProjection(first),
        tokenizer=tiny_tokenizer(),
        text_encoder_2=CLIPTextModelWithProjection(second),
        tokenizer_2=tiny_tokenizer(),
        text_encoder_3=None,
        tokenizer_3=None,
    )


_BUILDERS = {
    "ddpm": _ddpm,
    "sd15": _sd15,
    "sd21": _sd21,
    "sdxl": _sdxl,
    "inpaint": _inpaint,
    "dit": _dit,
    "sd3": _sd3,
}
