from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from impasto.errors import CheckpointError
from impasto.evaluation.inception import Inception, bilinear_2015, load_inception

# torchvision publishes 27 161 264 parameters for 1000 classes; 3 326 696 of them are the auxiliary head's, which these
# scores do not use, and 8 classes more take 2049 each.
PARAMETERS = 27_161_264 - 3_326_696 + 8 * 2049


@pytest.fixture(scope="module")
def network() -> Inception:
    torch.manual_seed(0)
    return Inception().eval()


def test_the_network_has_the_published_number_of_parameters(network: Inception) -> None:
    assert sum(parameter.numel() for parameter in network.parameters()) == PARAMETERS


def test_its_tensors_have_the_published_names(network: Inception) -> None:
    state = network.state_dict()
    shapes = {
        "Conv2d_1a_3x3.conv.weight": (32, 3, 3, 3),
        "Conv2d_4a_3x3.bn.running_var": (192,),
        "Mixed_5b.branch5x5_2.conv.weight": (64, 48, 5, 5),
        "Mixed_5d.branch_pool.conv.weight": (64, 288, 1, 1),
        "Mixed_6a.branch3x3.conv.weight": (384, 288, 3, 3),
        "Mixed_6c.branch7x7dbl_5.conv.weight": (192, 160, 1, 7),
        "Mixed_7a.branch7x7x3_3.bn.bias": (192,),
        "Mixed_7b.branch3x3dbl_3b.conv.weight": (384, 384, 3, 1),
        "Mixed_7c.branch1x1.conv.weight": (320, 2048, 1, 1),
        "fc.weight": (1008, 2048),
        "fc.bias": (1008,),
    }
    assert {name: tuple(state[name].shape) for name in shapes} == shapes


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_come_from_a_file_and_pictures_of_any_size_have_features(
    suffix: str, network: Inception, tmp_path: Path
) -> None:
    # As published, without the counters that newer layers have.
    tensors = {key: value for key, value in network.state_dict().items() if not key.endswith("num_batches_tracked")}
    path = tmp_path / f"weights{suffix}"
    torch.save(tensors, path) if suffix == ".pth" else save_file(tensors, path)
    pictures = torch.randint(0, 256, (1, 3, 20, 30), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    wanted, found = network(pictures), load_inception(path)(pictures)
    assert found.pool.shape == (1, 2048)
    assert found.logits.shape == (1, 1008)
    assert torch.equal(found.pool, wanted.pool)
    assert torch.allclose(found.logits, wanted.pool @ network.fc.weight.detach().t(), atol=1e-6)


def test_other_files_are_refused_with_where_the_right_one_is(tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_text("no weights")
    torch.save({"fc.weight": torch.zeros(1008, 2048)}, tmp_path / "part.pth")
    torch.save({"fc.weight": torch.zeros(3)}, tmp_path / "shape.pth")
    for name in ("text.pth", "part.pth", "shape.pth"):
        with pytest.raises(CheckpointError, match=r"pt_inception-2015-12-05-6726825d\.pth") as error:
            load_inception(tmp_path / name)
        assert name in str(error.value)
    with pytest.raises(FileNotFoundError):
        load_inception(tmp_path / "none.pth")


def test_pictures_are_scaled_as_tensorflow_did_then() -> None:
    ramp = torch.arange(4.0).expand(1, 1, 4, 4)
    scaled = bilinear_2015(ramp, 8)[0, 0]
    # Place i comes from i/2, the last one from the border.
    assert torch.allclose(scaled[0], torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.0]))
    assert torch.equal(bilinear_2015(ramp, 4), ramp)
    smaller = bilinear_2015(torch.arange(8.0).expand(1, 1, 8, 8), 4)[0, 0, 0]
    assert torch.equal(smaller, torch.tensor([0.0, 2.0, 4.0, 6.0]))  # unfiltered
