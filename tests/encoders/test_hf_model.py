import pytest
import torch
import torch.nn.functional as F
from transformers import (
    AlbertConfig,
    AlbertModel,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    ModernBertConfig,
    ModernBertModel,
    RobertaConfig,
    RobertaModel,
    T5Config,
    T5Model,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
)

from tests.encoders.helpers import assert_close, config, lengths_mask, tokenizer

SMALL = {
    "vocab_size": 300, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 32, "max_position_embeddings": 20,
}  # fmt: skip


def _save(model, folder):
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    tokenizer(folder)
    return str(folder)


@pytest.fixture
def bert(tmp_path):
    return _save(BertModel(BertConfig(**SMALL)), tmp_path / "bert")


@pytest.fixture
def wav2vec2(tmp_path):
    settings = Wav2Vec2Config(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        conv_dim=[8, 8], conv_kernel=[10, 3], conv_stride=[5, 2], num_feat_extract_layers=2,
        feat_extract_norm="layer", do_stable_layer_norm=True, num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2, vocab_size=10, layerdrop=0.5, attention_dropout=0.0,
        hidden_dropout=0.0, feat_proj_dropout=0.0, activation_dropout=0.0,
    )  # fmt: skip
    folder = tmp_path / "wav2vec2"
    Wav2Vec2FeatureExtractor(sampling_rate=8000).save_pretrained(folder)
    torch.manual_seed(0)
    Wav2Vec2Model(settings).save_pretrained(folder)
    return str(folder)


def _build(name, **settings):
    return config(type="hf_model", name=name, max_length=16, **settings).build().eval()


def _ids(rows=3, length=9):
    return torch.randint(5, 270, (rows, length))


def test_text_equals_bert(bert):
    encoder, ids, valid = _build(bert), _ids(), lengths_mask([9, 4, 2])
    tokens, pooled = encoder(ids, valid)
    model = BertModel.from_pretrained(bert).eval()
    expected = model(ids, attention_mask=valid.long()).last_hidden_state
    assert_close(tokens[valid], expected[valid])
    for row, keep, mean in zip(expected, valid, pooled, strict=True):
        assert_close(mean, row[keep].mean(0))
    assert encoder.width == 16
    assert encoder.spec == {"tokenizer": bert, "max_length": 16, "vocab_size": 300}


@pytest.mark.parametrize(
    "model",
    [
        BertForMaskedLM(BertConfig(**SMALL)),
        DistilBertModel(DistilBertConfig(
            vocab_size=300, dim=16, n_layers=2, n_heads=2, hidden_dim=32,
            max_position_embeddings=20,
        )),
        RobertaModel(RobertaConfig(**SMALL, pad_token_id=0)),
    ],
    ids=["bert with a head", "distilbert", "roberta"],
)  # fmt: skip
def test_padding_changes_nothing(model, tmp_path):
    encoder = _build(_save(model, tmp_path))
    ids = _ids(rows=1, length=5)
    padded = torch.cat([ids, torch.zeros(1, 6, dtype=torch.int64)], dim=1)
    tokens, pooled = encoder(padded, lengths_mask([5], 11))
    alone, pooled_alone = encoder(ids)
    assert_close(tokens[:, :5], alone)
    assert_close(pooled, pooled_alone)


def test_columns_of_padding_change_nothing_and_are_given_back(bert):
    encoder = config(type="hf_model", name=bert, max_length=16).build().eval()
    inputs = torch.tensor([[2, 5, 6, 3], [2, 7, 3, 0]])
    valid = inputs != 0
    wide = F.pad(inputs, (0, 5)), F.pad(valid, (0, 5))
    tokens, pooled = encoder(inputs, valid)
    padded, pooled_too = encoder(*wide)
    assert padded.shape == (2, 9, encoder.width)
    assert_close(padded[:, :4][valid], tokens[valid])
    assert_close(pooled_too, pooled)
    assert not padded[:, 4:].any()


def test_no_parameter_stays_without_gradient(bert):
    encoder = _build(bert)
    encoder.train()
    encoder(_ids())[0].square().sum().backward()
    assert not [n for n, p in encoder.named_parameters() if p.grad is None]


def test_words_are_masked_and_special_ones_are_not(bert):
    encoder = _build(bert)
    words = encoder.tokenizer
    ids = torch.tensor([[words.cls_id, 50, 60, words.sep_id]])
    assert encoder.maskable(ids).tolist() == [[False, True, True, False]]
    masked = torch.tensor([[False, True, True, False]]).expand(200, -1)
    out = encoder.mask_inputs(ids.expand(200, -1), masked, torch.arange(200))
    assert (out[:, [0, 3]] == ids[:, [0, 3]]).all()
    assert 0.7 < (out[:, 1:3] == words.mask_id).float().mean() < 0.9


def test_frozen_stays_in_eval_mode(bert):
    encoder = _build(bert, frozen=True, cache=True)
    encoder.train()
    assert not any(m.training for m in encoder.modules())
    assert not encoder(_ids())[0].requires_grad


@pytest.mark.parametrize("kind", ["bert", "wav2vec2"])
def test_assets_build_the_same_encoder_without_the_folder(kind, request, tmp_path):
    name = request.getfixturevalue(kind)
    settings = config(type="hf_model", name=name, max_length=16)
    encoder = settings.build().eval()
    assets = tmp_path / "assets"
    assets.mkdir()
    encoder.save_assets(assets)
    assert not list(assets.glob("*.safetensors"))
    settings.name = "no-such-model"
    again = settings.build(assets=assets).eval()
    again.load_state_dict(encoder.state_dict())
    inputs = _ids() if kind == "bert" else torch.randn(2, 900)
    for one, other in zip(encoder(inputs), again(inputs), strict=True):
        assert torch.equal(one, other)
    expected = {**encoder.spec, **({"tokenizer": str(assets)} if kind == "bert" else {})}
    assert again.spec == expected


def test_waveform_equals_wav2vec2(wav2vec2):
    encoder = _build(wav2vec2, max_seconds=0.25)
    audio, valid = torch.randn(2, 1000) * 3 + 1, lengths_mask([1000, 600])
    tokens, pooled = encoder(audio, valid)
    extractor = Wav2Vec2FeatureExtractor.from_pretrained(wav2vec2)
    clips = [row[keep].numpy() for row, keep in zip(audio, valid, strict=True)]
    inputs = extractor(
        clips, sampling_rate=8000, padding=True, return_attention_mask=True, return_tensors="pt"
    )
    model = Wav2Vec2Model.from_pretrained(wav2vec2).eval()
    expected = model(**inputs).last_hidden_state
    real = encoder.token_valid(audio, valid)
    assert torch.equal(real, model._get_feature_vector_attention_mask(
        expected.shape[1], inputs["attention_mask"]
    ).bool())  # fmt: skip
    assert_close(tokens[real], expected[real])
    assert_close(pooled[1], expected[1][real[1]].mean(0))
    assert encoder.spec == {"sample_rate": 8000, "max_samples": 2000}
    assert encoder.grid_length == encoder(torch.randn(1, 2000))[0].shape[1]


def test_waveform_training_draws_nothing_beyond_dropout(wav2vec2):
    encoder = _build(wav2vec2)
    encoder.train()
    audio = torch.randn(2, 4000)
    assert all(torch.equal(encoder(audio)[0], encoder(audio)[0]) for _ in range(5))


def test_what_does_not_fit_is_refused(bert, tmp_path):
    with pytest.raises(ValueError, match=r"max_length = 32: .* at most 20"):
        config(type="hf_model", name=bert, max_length=32).build()
    with pytest.raises(ValueError, match=r"can't load .*nothing"):
        _build(str(tmp_path / "nothing"))
    with pytest.raises(ValueError, match="must be at least 1"):
        config(type="hf_model", name=bert, max_length=0)
    small = _save(BertModel(BertConfig(**{**SMALL, "vocab_size": 100})), tmp_path / "small")
    with pytest.raises(ValueError, match=r"tokenizer of .* model only 100"):
        _build(small)
    roberta = _save(RobertaModel(RobertaConfig(**SMALL, pad_token_id=1)), tmp_path / "roberta")
    with pytest.raises(ValueError, match="at most 18"):
        config(type="hf_model", name=roberta, max_length=19).build()


def test_encoder_decoders_are_refused(tmp_path):
    settings = T5Config(vocab_size=300, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    T5Model(settings).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="T5Model"):
        _build(str(tmp_path))


def test_missing_weights_are_an_error(bert):
    from safetensors.torch import load_file, save_file

    file = f"{bert}/model.safetensors"
    state = load_file(file)
    del state["encoder.layer.1.output.dense.weight"]
    save_file(state, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lack 1 tensors: .*layer.1.output.dense.weight"):
        _build(bert)


def test_words_of_a_text_model_and_none_of_a_waveform_model(bert, wav2vec2):
    text = _build(bert)
    assert text.word_embedding() is text.model.embeddings.word_embeddings
    assert text.text_frame() == ([text.tokenizer.cls_id], [text.tokenizer.sep_id])
    waveform = config(type="hf_model", name=wav2vec2).build()
    assert waveform.word_embedding() is None
    assert waveform.text_frame() == ([], [])


def test_depths_of_text_and_waveform_models(bert, wav2vec2):
    """Embeddings and feature extractor 0, then layer by layer."""
    for folder, layer in ((bert, "model.encoder.layer."), (wav2vec2, "model.encoder.layers.")):
        found = _build(folder).depths()
        for name, depth in found.items():
            inside = name.startswith(layer)
            assert depth == (int(name.removeprefix(layer)[0]) + 1 if inside else 0), name
        assert set(found.values()) == {0, 1, 2}


@pytest.mark.parametrize("kind", ["bert", "distilbert", "modernbert", "wav2vec2"])
def test_some_layers_make_a_smaller_encoder(kind, request, tmp_path):
    keep = [1] if kind in ("bert", "wav2vec2") else [0, 2]
    name = _three_layers(kind, tmp_path) if len(keep) > 1 else request.getfixturevalue(kind)
    whole = _build(name)
    inputs = torch.randn(2, 900) if kind == "wav2vec2" else _ids()
    settings = config(type="hf_model", name=name, max_length=16, keep_layers=keep)
    small = settings.build().eval()
    assets = tmp_path / "assets"
    assets.mkdir()
    small.save_assets(assets)
    stacks = {
        "bert": "encoder.layer", "distilbert": "transformer.layer", "modernbert": "layers",
        "wav2vec2": "encoder.layers",
    }  # fmt: skip
    parent, _, last = stacks[kind].rpartition(".")
    layers = whole.model.get_submodule(stacks[kind])
    setattr(whole.model.get_submodule(parent), last, torch.nn.ModuleList(layers[i] for i in keep))
    if kind == "modernbert":  # it looks up there what kind of attention a layer has
        whole.model.config.layer_types = [whole.model.config.layer_types[i] for i in keep]
        assert small.model.config.layer_types == ["full_attention", "sliding_attention"]
    for one, other in zip(small(inputs), whole(inputs), strict=True):
        assert torch.equal(one, other)
    # A checkpoint's assets are of the smaller one.
    again = settings.build(assets=assets).eval()
    again.load_state_dict(small.state_dict())
    assert torch.equal(again(inputs)[0], small(inputs)[0])


def _three_layers(kind, folder):
    if kind == "distilbert":
        return _save(DistilBertModel(DistilBertConfig(
            vocab_size=300, dim=16, n_layers=3, n_heads=2, hidden_dim=32,
            max_position_embeddings=20,
        )), folder / kind)  # fmt: skip
    return _save(ModernBertModel(ModernBertConfig(
        **{**SMALL, "num_hidden_layers": 3}, local_attention=4, pad_token_id=0, bos_token_id=2,
        eos_token_id=3, cls_token_id=2, sep_token_id=3,
        layer_types=["full_attention", "full_attention", "sliding_attention"],
    )), folder / kind)  # fmt: skip


def test_weights_of_the_whole_one_are_picked(bert):
    whole = _build(bert)
    small = _build(bert, keep_layers=[1])
    before = {n: t.clone() for n, t in small.state_dict().items()}
    for parameter in small.parameters():
        torch.nn.init.zeros_(parameter)
    small.load_state_dict(small.pick(whole.state_dict()))
    assert all(torch.equal(t, before[n]) for n, t in small.state_dict().items())
    assert set(small.pick(before)) == set(before)
    assert whole.pick(before).keys() == before.keys()


@pytest.mark.parametrize(
    ("keep", "message"),
    [([], "name each layer once"), ([1, 0], "from the first on"), ([0, 0], "once"), ([-1], "once")],
)
def test_bad_layers_to_keep(bert, keep, message):
    with pytest.raises(ValueError, match=message):
        _build(bert, keep_layers=keep)


def test_layers_that_are_not_there(bert, tmp_path):
    with pytest.raises(ValueError, match=r"keep_layers = \[2\]: there are the layers 0 to 1"):
        _build(bert, keep_layers=[2])
    with pytest.raises(ValueError, match=r"keep_layers = \[0, 2\]: there are the layers 0 to 1"):
        _build(bert, keep_layers=[0, 2])  # as many as there are
    shared = AlbertConfig(**SMALL, embedding_size=8)
    with pytest.raises(ValueError, match="a AlbertModel has no list of single layers"):
        _build(_save(AlbertModel(shared), tmp_path / "albert"), keep_layers=[0])
