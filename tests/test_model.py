import dataclasses

import pytest
import torch

from mmfm.config import ConfigError, from_dict, to_dict
from mmfm.data.tokenizer import train_bpe
from mmfm.masking import draw_mask, keep_indices
from mmfm.model import ModelConfig
from tests.encoders.helpers import TEXTS, assert_close, lengths_mask

SMALL = {"width": 16, "layers": 1, "heads": 2}
ROWS = {"image": [0, 3], "text": [0, 1, 2, 3], "audio": [1, 3]}  # of five samples; 4 has nothing
MODALITIES = ("image", "text", "audio")


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    train_bpe(TEXTS, vocab_size=280, folder=folder)
    audio = {
        "sample_rate": 8000, "max_seconds": 0.25, "n_fft": 200, "hop": 80, "mels": 16,
        "patch_frames": 4, "patch_mels": 8,
    }  # fmt: skip
    return {
        "embed_dim": 12,
        "encoders": {
            "image": {"type": "vision_transformer", "image_size": 16, "patch_size": 4, **SMALL},
            "text": {"type": "text_transformer", "tokenizer": str(folder), **SMALL},
            "audio": {"type": "audio_transformer", **audio, **SMALL},
        },
        "fusion": {"type": "transformer", **SMALL},
    }


def _build(settings, assets=None):
    torch.manual_seed(0)
    model = from_dict(ModelConfig, settings, "model").build(assets)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


@pytest.fixture
def model(settings):
    return _build(settings)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    words = torch.randint(5, 270, (4, 7), generator=generator)
    return {
        "image": torch.randn(2, 3, 16, 16, generator=generator),
        "text": words,
        "text_mask": lengths_mask([7, 3, 5, 4]),
        "audio": torch.randn(2, 2000, generator=generator),
        "audio_mask": lengths_mask([900, 2000]),
        "rows": {m: torch.tensor(r) for m, r in ROWS.items()},
        "mask_seed": torch.tensor([11, 12, 13, 14, 15]),
        "sample_id": list("abcde"),
    }


def _only(batch, sample):
    """The batch of one sample."""
    chosen = {"rows": {}, "sample_id": [batch["sample_id"][sample]]}
    chosen["mask_seed"] = batch["mask_seed"][sample : sample + 1]
    for m, rows in ROWS.items():
        if sample in rows:
            i = rows.index(sample)
            chosen["rows"][m] = torch.tensor([0])
            for key in (m, f"{m}_mask"):
                if key in batch:
                    chosen[key] = batch[key][i : i + 1]
    return chosen


def _masks(model, batch, modalities=MODALITIES, ratio=0.5):
    return {
        m: draw_mask(
            model.encoder(m).maskable(batch[m], batch.get(f"{m}_mask")),
            ratio,
            batch["mask_seed"][batch["rows"][m]],
        )
        for m in modalities
    }


def test_clean_features(model, batch):
    features = model.encode(batch, MODALITIES)
    assert features.batch_size == 5
    for m in MODALITIES:
        encoder = model.encoder(m)
        tokens, pooled = encoder(batch[m], batch.get(f"{m}_mask"))
        assert torch.equal(features.rows[m], batch["rows"][m])
        assert torch.equal(features.tokens[m], tokens)
        assert torch.equal(features.pooled[m], pooled)
        assert features.valid[m].shape == tokens.shape[:2]
        expected = model.projections[m](pooled)
        assert_close(features.embedding[m], expected / expected.norm(dim=1, keepdim=True))
    assert not features.kept
    assert not features.masked
    assert not features.targets


def test_a_modality_that_the_batch_lacks_is_not_run(model, batch):
    del batch["audio"], batch["audio_mask"], batch["rows"]["audio"]
    features = model.encode(batch, MODALITIES)
    assert list(features.tokens) == ["image", "text"]
    features = model.encode(batch, ["text"])
    assert list(features.tokens) == ["text"]


def test_masked_view(model, batch):
    masks = _masks(model, batch)
    features = model.encode(batch, MODALITIES, "masked", masks)
    for m in ("image", "audio"):
        encoder = model.encoder(m)
        real = encoder.token_valid(batch[m], batch.get(f"{m}_mask"))
        keep = keep_indices(masks[m] | ~real)
        assert torch.equal(features.kept[m], keep)
        assert torch.equal(features.valid[m], keep >= 0)
        assert torch.equal(features.masked[m], masks[m])
        tokens, _ = encoder(batch[m], batch.get(f"{m}_mask"), keep)
        assert torch.equal(features.tokens[m], tokens)
        patches = encoder.patchify(batch[m], batch.get(f"{m}_mask"))
        assert torch.equal(features.targets[m], patches)
    text = model.encoder("text")
    hidden = text.mask_inputs(batch["text"], masks["text"], batch["mask_seed"][:4])
    assert not torch.equal(hidden, batch["text"])
    assert torch.equal(features.tokens["text"], text(hidden, batch["text_mask"])[0])
    assert torch.equal(features.valid["text"], batch["text_mask"])
    assert features.kept["text"].tolist() == [list(range(7))] * 4
    assert torch.equal(features.targets["text"], batch["text"])


def test_a_modality_without_mask_is_whole_in_the_masked_view(model, batch):
    masks = _masks(model, batch, ["text"])
    features = model.encode(batch, MODALITIES, "masked", masks)
    clean = model.encode(batch, MODALITIES)
    assert torch.equal(features.tokens["image"], clean.tokens["image"])
    assert features.kept["image"].tolist() == [list(range(16))] * 2
    assert list(features.masked) == ["text"]
    assert not torch.equal(features.tokens["text"], clean.tokens["text"])


def test_what_a_mask_hides_has_no_influence(model, batch):
    """Nothing of the hidden patches and words reaches the fused outputs."""
    masks = _masks(model, batch)
    before = model.fuse(model.encode(batch, MODALITIES, "masked", masks), MODALITIES)
    batch["image"] = batch["image"].clone()
    patches = batch["image"].view(2, 3, 4, 4, 4, 4).permute(0, 2, 4, 1, 3, 5)
    patches[masks["image"].view(2, 4, 4)] = 5.0  # a view: changes the pictures
    after = model.fuse(model.encode(batch, MODALITIES, "masked", masks), MODALITIES)
    assert not torch.equal(after.targets["image"], before.targets["image"])
    assert torch.equal(after.fused_pooled, before.fused_pooled)


@pytest.mark.parametrize("sample", range(4))
@pytest.mark.parametrize("view", ["clean", "masked"])
def test_a_sample_alone_gives_the_same(model, batch, sample, view):
    def fused(b):
        here = [m for m in MODALITIES if m in b]
        masks = _masks(model, b, here) if view == "masked" else None
        return model.fuse(model.encode(b, MODALITIES, view, masks), MODALITIES)

    whole, alone = fused(batch), fused(_only(batch, sample))
    assert whole.rows["fused"].tolist() == [0, 1, 2, 3]
    assert_close(alone.fused_pooled[0], whole.fused_pooled[sample], atol=5e-5)
    assert_close(alone.embedding["fused"][0], whole.embedding["fused"][sample], atol=5e-5)
    for m in alone.tokens:
        i, n = ROWS[m].index(sample), alone.tokens[m].shape[1]
        real = alone.valid[m][0]
        assert_close(alone.embedding[m][0], whole.embedding[m][i], atol=5e-5)
        assert_close(alone.tokens[m][0][real], whole.tokens[m][i, :n][real], atol=5e-5)
        assert_close(alone.fused[m][0][real], whole.fused[m][i, :n][real], atol=5e-5)


def test_fuse_takes_any_subset_in_any_order(model, batch):
    features = model.encode(batch, MODALITIES)
    two = model.fuse(features, ["audio", "image"])
    assert two.rows["fused"].tolist() == [0, 1, 3]
    assert set(two.tokens) == set(two.fused) == {"image", "audio"}
    assert set(two.embedding) == {"image", "audio", "fused"}
    assert torch.equal(two.fused_pooled, model.fuse(features, ["image", "audio"]).fused_pooled)
    one = model.fuse(features, ["image"])
    assert_close(two.fused_pooled[0], one.fused_pooled[0])  # sample 0 has no audio
    assert (two.fused_pooled[2] - one.fused_pooled[1]).abs().max() > 1e-3
    assert not features.fused  # what was given is untouched
    assert "fused" not in features.rows


def test_fusing_nothing_is_an_error(settings, model, batch):
    with pytest.raises(ValueError, match="none of audio"):
        model.fuse(model.encode(batch, ["image"]), ["audio"])
    plain = _build({**settings, "fusion": None})
    assert plain.fusion_width is None
    with pytest.raises(ValueError, match=r"set model\.fusion"):
        plain.fuse(plain.encode(batch, MODALITIES), MODALITIES)


def test_order_of_samples_does_not_matter(model, batch):
    order = torch.tensor([3, 1, 4, 0, 2])  # new place ▶ old sample
    place = order.argsort()
    shuffled = {**batch, "mask_seed": batch["mask_seed"][order]}
    shuffled["rows"] = {m: place[rows] for m, rows in batch["rows"].items()}
    one, other = (
        model.fuse(model.encode(b, MODALITIES, "masked", _masks(model, b)), MODALITIES)
        for b in (batch, shuffled)
    )
    assert other.rows["fused"].tolist() == [0, 1, 3, 4]
    expected = dict(zip(one.rows["fused"].tolist(), one.fused_pooled, strict=True))
    for row, vector in zip(other.rows["fused"].tolist(), other.fused_pooled, strict=True):
        assert_close(vector, expected[int(order[row])])


def test_gradients_reach_every_parameter(model, batch):
    model.train()
    features = model.encode(batch, MODALITIES, "masked", _masks(model, batch))
    fused = model.fuse(features, MODALITIES)
    target = torch.linspace(-1, 1, 12)
    loss = sum(e @ target for e in fused.embedding.values() for e in e)
    (loss + sum(t.square().sum() for t in fused.fused.values())).backward()
    for name, parameter in model.named_parameters():
        assert parameter.ndim > 0, name
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_cached_outputs_stand_in_for_the_encoder(settings, batch):
    text = {**settings["encoders"]["text"], "frozen": True, "cache": True}
    model = _build({**settings, "encoders": {**settings["encoders"], "text": text}})
    live = model.encode(batch, MODALITIES)
    cached = {
        **batch,
        "text_tokens": live.tokens["text"] + 1,
        "text_tokens_mask": batch["text_mask"],
        "text_pooled": live.pooled["text"] + 1,
    }
    raw = cached.pop("text")
    features = model.encode(cached, MODALITIES)
    assert torch.equal(features.tokens["text"], cached["text_tokens"])
    assert torch.equal(features.pooled["text"], cached["text_pooled"])
    assert torch.equal(features.valid["text"], batch["text_mask"])
    # A mask needs the words themselves: the frozen encoder runs on them.
    masks = _masks(model, batch, ["text"])
    hidden = model.encode({**cached, "text": raw}, MODALITIES, "masked", masks)
    assert_close(
        hidden.tokens["text"], model.encode(batch, ["text"], "masked", masks).tokens["text"]
    )
    with pytest.raises(AssertionError, match="raw inputs"):
        model.encode(cached, MODALITIES, "masked", masks)


def test_assets_build_the_same_model(settings, model, batch, tmp_path):
    model.save_assets(tmp_path)
    changed = {**settings["encoders"]["text"], "tokenizer": "gone"}
    encoders = {**settings["encoders"], "text": changed}
    again = _build({**settings, "encoders": encoders}, tmp_path)
    assert again.state_dict().keys() == model.state_dict().keys()
    again.load_state_dict(model.state_dict())
    one, other = (m.fuse(m.encode(batch, MODALITIES), MODALITIES) for m in (model, again))
    assert torch.equal(one.fused_pooled, other.fused_pooled)
    assert again.specs["text"] == {**model.specs["text"], "tokenizer": str(tmp_path / "text")}


def test_bfloat16_runs_whole(model, batch):
    expected = model.fuse(model.encode(batch, MODALITIES), MODALITIES).embedding["fused"]
    model.bfloat16()
    fused = model.fuse(model.encode(batch, MODALITIES, "masked", _masks(model, batch)), MODALITIES)
    assert fused.fused_pooled.dtype == torch.bfloat16
    clean = model.fuse(model.encode(batch, MODALITIES), MODALITIES).embedding["fused"]
    assert clean.dtype == torch.float32
    assert (clean * expected).sum(1).min() > 0.99


def test_the_configuration_survives_a_round_trip(settings):
    config = from_dict(ModelConfig, settings, "model")
    assert from_dict(ModelConfig, to_dict(config), "model") == config


VIDEO = '''
from dataclasses import dataclass
from torch import nn
from mmfm.encoders.base import Encoder, EncoderConfig

@dataclass(kw_only=True)
class Config(EncoderConfig):
    width: int = 10

    def build(self, assets=None):
        return Frames(self).finish()

class Frames(Encoder):
    """[B,T,P] ▶ a token for each frame."""

    def __init__(self, config):
        super().__init__(config)
        self.width, self.spec, self.grid_length = config.width, {"frames": 4}, 4
        self.linear = nn.Linear(6, config.width)

    def encode(self, inputs, valid, keep):
        tokens = self.linear(inputs)
        return tokens, tokens.mean(1)
'''


def test_another_modality_is_one_file_outside_the_package(settings, batch, tmp_path, monkeypatch):
    (tmp_path / "my_video.py").write_text(VIDEO)
    monkeypatch.syspath_prepend(tmp_path)
    encoders = {**settings["encoders"], "video": {"type": "my_video"}}
    with pytest.raises(ConfigError, match="my_video"):  # without a dot it is a name inside mmfm
        from_dict(ModelConfig, {**settings, "encoders": encoders}, "model")
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / "video.py").write_text(VIDEO)
    encoders["video"] = {"type": "my_package.video", "width": 8}
    model = _build({**settings, "encoders": encoders})
    batch["video"] = torch.randn(3, 4, 6)
    batch["rows"]["video"] = torch.tensor([0, 2, 4])
    features = model.encode(batch, [*MODALITIES, "video"])
    fused = model.fuse(features, ["text", "video"])
    assert fused.rows["fused"].tolist() == [0, 1, 2, 3, 4]
    assert fused.fused["video"].shape == (3, 4, 16)
    assert model.specs["video"] == {"frames": 4}


def test_bad_settings_name_their_place(settings):
    image = {**settings["encoders"]["image"], "patch_size": 5}
    with pytest.raises(ConfigError, match=r"model\.encoders\.image: image_size"):
        from_dict(ModelConfig, {**settings, "encoders": {"image": image}}, "model")
    with pytest.raises(ConfigError, match="at least one modality"):
        from_dict(ModelConfig, {"encoders": {}}, "model")
    config = from_dict(ModelConfig, settings, "model")
    with pytest.raises(ValueError, match="'fused' names what fusion makes"):
        dataclasses.replace(config, encoders={"fused": config.encoders["image"]})
    with pytest.raises(ValueError, match="no encoder of 'video'; it has image, text, audio"):
        config.build().encode({"sample_id": []}, ["video"])


def test_projections_with_a_hidden_layer(settings, batch):
    projections = {
        "image": {"hidden": 24, "dropout": 0.5, "reads": "tokens", "root": True},
        "audio": {"hidden": 24, "residual": True},
        "fused": {"hidden": 24},
    }
    image = {"type": "timm_model", "name": "test_efficientnet", "image_size": 64, "token_grid": 2}
    encoders = {**settings["encoders"], "image": image}
    batch["image"] = torch.nn.functional.interpolate(batch["image"], size=64)
    model = _build({**settings, "encoders": encoders, "projections": projections})
    features = model.encode(batch, MODALITIES)
    fused = model.fuse(features, MODALITIES)
    inputs = {m: features.pooled[m] for m in MODALITIES} | {"fused": fused.fused_pooled}
    tokens = features.tokens["image"].flatten(1)
    inputs["image"] = tokens / (tokens.abs() + 1e-4).sqrt()
    for name in projections:
        part = model.projections[name]
        (norm, _), (first, _, last) = part.norm, part.maps["hidden"]
        x = norm(inputs[name])
        by_hand = torch.nn.functional.gelu(first(x)) @ last.weight.T
        if name == "audio":
            by_hand = by_hand + x @ part.maps["linear"].weight.T
        by_hand = by_hand / by_hand.norm(dim=-1, keepdim=True)
        found = fused.embedding["fused"] if name == "fused" else features.embedding[name]
        assert_close(found, by_hand)
    trained = model.train().encode(batch, ["image", "audio"]).embedding
    assert not torch.allclose(trained["image"], features.embedding["image"])  # there is dropout
    assert_close(trained["audio"], features.embedding["audio"])


def test_the_slope_of_a_rooted_projection_is_finite_at_zero(settings):
    projections = {"image": {"root": True}}
    model = _build({**settings, "projections": projections})
    pooled = torch.zeros(1, SMALL["width"], requires_grad=True)
    model.projections["image"](pooled).sum().backward()
    assert torch.isfinite(pooled.grad).all()
    assert pooled.grad.abs().max() > 0


@pytest.mark.parametrize(
    ("projections", "message"),
    [
        ({"image": {"hidden": 0}}, "projections.image: hidden = 0"),
        ({"imgae": {"hidden": 8}}, "projections names 'imgae'; the model has"),
        ({"image": {"dropout": 0.1}}, "projections.image: dropout and residual need a hidden"),
        ({"image": {"residual": True}}, "projections.image: dropout and residual need a hidden"),
        ({"text": {"hidden": 8, "dropout": 1.0}}, r"dropout = 1.0 must be in \[0, 1\)"),
        ({"fused": {"reads": "tokens"}}, "projections.fused: the fused tokens vary in number"),
    ],
)
def test_bad_projections_are_refused(settings, projections, message):
    with pytest.raises(ConfigError, match=message):
        from_dict(ModelConfig, {**settings, "projections": projections})


def test_a_projection_of_what_nothing_fuses_is_refused(settings):
    projections = {"fused": {"hidden": 8}}
    with pytest.raises(ConfigError, match=r"projections\.fused needs model\.fusion"):
        from_dict(ModelConfig, {**settings, "fusion": None, "projections": projections})


@pytest.mark.parametrize("modality", ["text", "image"])
def test_a_projection_of_tokens_needs_a_fixed_number_of_them(settings, modality):
    # Texts vary in length; an encoder that leaves masked patches out gives fewer.
    projections = {modality: {"reads": "tokens"}}
    with pytest.raises(ValueError, match=f"projections.{modality}: reads = tokens needs"):
        _build({**settings, "projections": projections})
