"""A student of fewer layers that learns from the fine-tuned model it is made of."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel

import mmfm
from mmfm import cli
from mmfm.checkpoint import Checkpoint
from mmfm.data.tokenizer import load_tokenizer
from mmfm.train.finetune import prepare
from tests.data.make_shards import write_set
from tests.tiny_runs import exact, training
from tests.train.test_finetune import finetune

HEAD = "head={type: classification, label: colour, modalities: [text]}"
HEAD_WEIGHT = "objectives.head.head.classifier.weight"
STACK = "model.encoders.text.model.encoder.layer"
QUERY = f"{STACK}.0.attention.self.query.weight"


@pytest.fixture(scope="module")
def teacher(synthetic, tmp_path_factory) -> Path:
    """BERT with three layers, fine-tuned for four steps."""
    folder = tmp_path_factory.mktemp("student")
    words = load_tokenizer(synthetic / "tokenizer")
    torch.manual_seed(3)
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3}
    heads = {"num_attention_heads": 2, "max_position_embeddings": 32}
    BertModel(BertConfig(vocab_size=words.vocab_size, **small, **heads)).save_pretrained(
        folder / "bert"
    )
    words.save(folder / "bert")
    text = f"{{type: hf_model, name: {folder / 'bert'}, max_length: 24}}"
    model = f"model={{embed_dim: 16, encoders: {{text: {text}}}}}"
    run = finetune(synthetic, folder, folder / "teacher", HEAD, model, "init=null")
    assert cli.main([*run, "optim.warmup_steps=0", "optim.ema={decay: 0.5, warmup: false}"]) == 0
    return folder / "teacher"


def student(data: Path, teacher: Path, run: Path, named: str = "") -> list[str]:
    """The dropout of BERT is on."""
    teacher = teacher / named
    return finetune(
        data,
        teacher,
        run,
        HEAD,
        "model.encoders.text.keep_layers=[0, 2]",
        f"teacher={{path: {teacher}, hidden: 1.0}}",
    )


@pytest.mark.parametrize("named", ["", "ema"])
def test_it_begins_with_the_teachers_layers_and_head(
    teacher: Path, synthetic: Path, tmp_path: Path, named: str
) -> None:
    """Those of the last step, or their averages; the teacher has the same."""
    _, config, *words = student(synthetic, teacher, tmp_path / "run", named)
    task = prepare(config, words).task
    old = Checkpoint.open(teacher).tensors("model")
    averages = Checkpoint.open(teacher).tensors("ema")
    assert not torch.equal(averages[HEAD_WEIGHT], old[HEAD_WEIGHT])
    if named:
        old |= averages
    taught = task.objectives["teacher"].teacher
    assert torch.equal(taught.head.state_dict()["classifier.weight"], old[HEAD_WEIGHT])
    assert torch.equal(taught.model.state_dict()[QUERY.removeprefix("model.")], old[QUERY])
    new = task.state_dict()
    for name, tensor in new.items():
        source = name
        if name.startswith(f"{STACK}.1."):
            source = name.replace(f"{STACK}.1.", f"{STACK}.2.")
        if not name.startswith("objectives.teacher_text.project."):
            assert torch.equal(tensor, old[source]), name
    assert not any(name.startswith(f"{STACK}.2.") for name in new)
    assert torch.equal(new["objectives.teacher_text.project.weight"], torch.eye(16))


def test_a_run_its_resume_and_what_it_trained(
    teacher: Path, synthetic: Path, tmp_path: Path
) -> None:
    words = student(synthetic, teacher, tmp_path / "run")
    assert cli.main(words) == 0
    rows = training(tmp_path / "run")
    assert rows[4]["teacher/answers_loss"] > 0
    assert rows[4]["teacher_text/text_loss"] > 0
    again = Path(shutil.copytree(tmp_path / "run", tmp_path / "again"))
    shutil.rmtree(again / "checkpoints/step_00000004")
    assert cli.main(student(synthetic, teacher, again)) == 0
    assert exact(again) == exact(tmp_path / "run")
    one, other = (Checkpoint.open(run).tensors("model") for run in (tmp_path / "run", again))
    assert all(torch.equal(one[name], other[name]) for name in one)

    away = teacher.with_name("away")
    os.rename(teacher, away)
    try:
        predictor = mmfm.load(tmp_path / "run")
        assert predictor.model.encoder("text").model.config.num_hidden_layers == 2
        assert set(predictor.task.objectives) == {"head"}
        assert predictor.encode(text=["a red circle"])["text"].shape == (1, 16)
    finally:
        os.rename(away, teacher)


def test_texts_without_labels_teach(teacher: Path, synthetic: Path, tmp_path: Path) -> None:
    """Alone, also where the head has no other names than the teacher's, and beside labels."""
    metas = [{"id": f"t{n}", "texts": [f"{n} red rings"]} for n in range(64)]
    shard = [(f"{n:03d}", {"json": json.dumps(meta).encode()}) for n, meta in enumerate(metas)]
    texts = f"{{path: {write_set(tmp_path / 'texts', [shard])}}}"
    alone = [f"data.sources.texts={texts}", "data.sources.synthetic=null"]
    bert = f"{{type: hf_model, name: {teacher.parent / 'bert'}, max_length: 24}}"
    fresh = ["init=null", f"model={{embed_dim: 16, encoders: {{text: {bert}}}}}"]
    fresh.append("model.encoders.text.keep_layers=[0, 2]")
    words = {"alone": alone, "fresh": [*fresh, *alone], "beside": alone[:1]}
    names = mmfm.load(teacher).head.label_names
    for name, more in words.items():
        assert cli.main([*student(synthetic, teacher, tmp_path / name), *more]) == 0
        rows = training(tmp_path / name)
        assert rows[4]["teacher/answers_loss"] > 0
        labelled = sum(row["head/classification_loss"] for row in rows.values())
        assert (labelled > 0) == (name == "beside")
        assert mmfm.load(tmp_path / name).head.label_names == names
        weights = Checkpoint.open(tmp_path / name).tensors("model")
        assert all(weight.isfinite().all() for weight in weights.values())
