import json

import pytest
import timm
import timm.optim
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tests.encoders.helpers import assert_close, config

NAMES = ["test_efficientnet", "test_vit", "test_resnet", "test_maxvit", "test_convnext"]


def _build(**settings):
    torch.manual_seed(0)
    return config(type="timm_model", **settings).build()


@pytest.fixture
def folder(tmp_path):
    """A folder as the hub has it: the classifier's weights are in the file too."""
    torch.manual_seed(1)
    model = timm.create_model("test_efficientnet")
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    settings = {
        "input_size": [3, 96, 96], "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6],
        "interpolation": "bilinear", "classifier": "classifier",
    }  # fmt: skip
    text = json.dumps({"architecture": "test_efficientnet", "pretrained_cfg": settings})
    (tmp_path / "config.json").write_text(text)
    return tmp_path


@pytest.mark.parametrize("name", NAMES)
def test_tokens_and_pooled_are_timms(name):
    encoder = _build(name=name).eval()
    images = torch.randn(2, 3, encoder.spec["size"], encoder.spec["size"])
    tokens, pooled = encoder(images)
    assert_close(pooled, encoder.model(images))
    features = encoder.model.forward_features(images)
    if features.ndim == 4:
        expected = features.flatten(2).transpose(1, 2)
    else:
        expected = features[:, encoder.model.num_prefix_tokens :]
    assert_close(tokens, expected)
    assert tokens.shape == (2, encoder.grid_length, encoder.width)
    assert encoder.patchify(images).shape == (2, encoder.grid_length, encoder.patch_dim)


@pytest.mark.parametrize("name", NAMES)
def test_depths_are_those_of_timms_layer_decay(name):
    """Whose scale of 1 is for the classifier."""
    theirs = timm.create_model(name)
    groups = timm.optim.param_groups_layer_decay(theirs, layer_decay=0.5)
    names = {id(p): n for n, p in theirs.named_parameters()}
    scales = {f"model.{names[id(p)]}": g["lr_scale"] for g in groups for p in g["params"]}
    encoder = _build(name=name)
    depths = encoder.depths()
    assert set(depths) == {n for n, _ in encoder.named_parameters()}
    top = max(depths.values())
    assert top > 2
    for parameter, depth in depths.items():
        own_head = parameter.startswith("model.head.")
        assert 0.5 ** (top + 1 - depth) == (0.5 if own_head else scales[parameter]), parameter


def test_one_width_where_timms_head_widens():
    encoder = _build(name="mobilenetv3_small_050").eval()
    tokens, pooled = encoder(torch.randn(1, 3, 224, 224))
    assert tokens.shape[2] == pooled.shape[1] == encoder.width == 288
    assert_close(pooled, tokens.mean(1))


def test_token_grid_averages_the_map():
    images = torch.randn(2, 3, 160, 160)
    fine = _build(name="test_vit").eval()
    coarse = _build(name="test_vit", token_grid=2).eval()
    tokens, pooled = coarse(images)
    whole, pooled_whole = fine(images)
    expected = whole.view(2, 2, 5, 2, 5, 64).mean(dim=(2, 4)).view(2, 4, 64)
    assert coarse.grid_length == 4
    assert_close(tokens, expected)
    assert_close(pooled, pooled_whole)


def test_a_token_sees_its_own_part_of_the_picture():
    """Tokens, patches and masks have one order: what changes in a patch changes its token most."""
    encoder = _build(name="test_vit", token_grid=5).eval()
    image = torch.randn(1, 3, 160, 160)
    masked = torch.zeros(1, 25, dtype=torch.bool)
    masked[0, 7] = True  # row 1, column 2
    hidden = encoder.mask_inputs(image, masked, torch.zeros(1, dtype=torch.int64))
    assert (hidden[0, :, 32:64, 64:96] == 0).all()
    assert int((hidden != image).any(dim=1).sum()) == 32 * 32
    patches = (encoder.patchify(hidden) != encoder.patchify(image)).any(dim=2)
    assert torch.equal(patches, masked)
    change = (encoder(hidden)[0] - encoder(image)[0]).norm(dim=2)
    assert change.argmax() == 7


def test_batch_norm_never_trains_but_its_weights_do():
    encoder = _build(name="test_efficientnet")
    encoder.train()
    norms = [m for m in encoder.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert not any(m.training for m in norms)
    assert encoder.model.training
    before = {k: v.clone() for k, v in encoder.named_buffers()}
    encoder(torch.randn(4, 3, 160, 160) + 3)[1].sum().backward()
    assert all(torch.equal(v, before[k]) for k, v in encoder.named_buffers())
    assert norms[0].weight.grad is not None


def test_batch_norms_train_over_groups_where_asked_for():
    encoder = _build(name="test_efficientnet", batch_norm_size=4)
    original = timm.create_model("test_efficientnet", num_classes=0).train()
    original.load_state_dict(encoder.model.state_dict())
    images = torch.randn(8, 3, 160, 160)
    with torch.no_grad():
        want = torch.cat([original(part) for part in images.split(4)])
        assert_close(encoder(images)[1], want)
        encoder.eval()
        original.load_state_dict(encoder.model.state_dict())
        assert_close(encoder(images)[1], original.eval()(images))


@pytest.mark.parametrize(
    ("name", "more", "why"),
    [
        ("test_efficientnet", {"frozen": True}, "trains batch norms, frozen = true none"),
        ("test_vit", {}, "has 0 batch norms"),
    ],
)
def test_batch_norms_that_can_not_train_are_refused(name, more, why):
    with pytest.raises(ValueError, match=why):
        _build(name=name, batch_norm_size=4, **more)


def test_frozen_never_trains():
    encoder = _build(name="test_vit", frozen=True)
    nn.ModuleDict({"image": encoder}).train()
    assert not any(m.training for m in encoder.modules())
    assert not any(p.requires_grad for p in encoder.parameters())
    tokens, pooled = encoder(torch.randn(1, 3, 160, 160, requires_grad=True))
    assert not tokens.requires_grad
    assert not pooled.requires_grad


def test_weights_of_a_folder(folder):
    encoder = _build(weights=folder).eval()
    original = timm.create_model("test_efficientnet").eval()
    original.load_state_dict(load_file(folder / "model.safetensors"))
    images = torch.randn(2, 3, 96, 96)
    assert_close(encoder(images)[1], original.forward_head(
        original.forward_features(images), pre_logits=True
    ))  # fmt: skip
    assert encoder.spec == {
        "size": 96, "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "interpolation": "bilinear",
    }  # fmt: skip
    assert encoder.grid_length == 9


def _lose(state):
    del state["conv_stem.weight"]


def _add(state):
    state["conv_stem.bias"] = torch.zeros(3)


def _reshape(state):
    state["conv_stem.weight"] = torch.zeros(1, 3, 3, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_lose, "1 tensors: conv_stem.weight is missing"),
        (_add, "conv_stem.bias is unknown"),
        (_reshape, r"conv_stem.weight has shape \[1, 3, 3, 3\]"),
        (dict.clear, r"in \d\d+ tensors"),
    ],
)
def test_every_tensor_must_match(folder, change, message):
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors")
    with pytest.raises(ValueError, match=message):
        _build(weights=folder)


def test_files_without_counters_load(folder):
    state = load_file(folder / "model.safetensors")
    save_file(
        {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")},
        folder / "model.safetensors",
    )
    assert _build(weights=folder).width == 256


@pytest.mark.parametrize("source", ["name", "folder"])
def test_assets_build_the_same_encoder_without_the_folder(source, folder, tmp_path):
    chosen = {"weights": folder} if source == "folder" else {"name": "test_resnet"}
    settings = config(type="timm_model", token_grid=2, **chosen)
    encoder = settings.build().eval()
    assets = tmp_path / "assets"
    assets.mkdir()
    encoder.save_assets(assets)
    assert [p.name for p in assets.iterdir()] == ["config.json"]
    (folder / "model.safetensors").unlink()
    again = settings.build(assets=assets).eval()
    again.load_state_dict(encoder.state_dict())
    side = encoder.spec["size"]
    images = torch.randn(1, 3, side, side)
    for one, other in zip(encoder(images), again(images), strict=True):
        assert torch.equal(one, other)
    assert again.spec == encoder.spec


def test_bad_settings_are_refused(folder):
    with pytest.raises(ValueError, match="name a timm model"):
        config(type="timm_model")
    with pytest.raises(ValueError, match="exclude each other"):
        config(type="timm_model", weights=folder, pretrained=True)
    with pytest.raises(ValueError, match="no model 'test_vitt'"):
        _build(name="test_vitt")
    with pytest.raises(ValueError, match=r"token_grid = 9 is finer than the feature map, 5x5"):
        _build(name="test_resnet", token_grid=9)
    with pytest.raises(ValueError, match="says test_efficientnet"):
        _build(name="test_vit", weights=folder)
    with pytest.raises(ValueError, match=r"can't read .*config.json"):
        _build(weights=folder / "nothing")
    for change, message in [
        ({"interpolation": "lanczos"}, "'lanczos' is neither bilinear"),
        ({"input_size": [3, 96, 64]}, r"\[3, S, S\]"),
    ]:
        settings = {"architecture": "test_efficientnet", "pretrained_cfg": change}
        (folder / "config.json").write_text(json.dumps(settings))
        with pytest.raises(ValueError, match=message):
            _build(weights=folder)
    (folder / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="must hold architecture"):
        _build(weights=folder)
    (folder / "model.safetensors").write_bytes(b"not weights")
    (folder / "config.json").write_text(
        json.dumps({"architecture": "test_efficientnet", "pretrained_cfg": {}})
    )
    with pytest.raises(ValueError, match="can't read the weights"):
        _build(weights=folder)


def test_another_image_size_reaches_the_pipeline_and_the_assets(tmp_path):
    encoder = _build(name="test_efficientnet", image_size=64).eval()
    own = _build(name="test_efficientnet").eval()
    assert encoder.spec["size"] == 64 != own.spec["size"]
    assert encoder.grid == (2, 2)
    encoder.save_assets(tmp_path)
    again = config(type="timm_model", name="test_efficientnet", image_size=64).build(tmp_path)
    assert again.spec == encoder.spec


def test_a_network_of_one_size_refuses_another():
    with pytest.raises(ValueError, match="does not take pictures of image_size = 64"):
        _build(name="test_vit3", image_size=64)
