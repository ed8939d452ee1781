"""``mmfm finetune`` with hard negatives: harder than chance, and the same on any ranks,
micro-batches and ZeRO stage, and after a resume.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mmfm import cli
from mmfm.data.hard_negatives import Direction, NegativeTable, Numbers
from mmfm.data.manifest import Manifest
from mmfm.data.reader import SampleReader
from mmfm.data.sequential import SequentialData
from mmfm.predictor import load
from mmfm.train.finetune import prepare
from mmfm.train.log import read_metrics
from mmfm.train.mining import FILE, next_mining
from mmfm.train.mining.sides import _codes, encode_sides
from mmfm.types import Read
from tests import launch
from tests.tiny_runs import IN_PARTS, exact, pretrain, training

RECIPE = """
head:
  type: retrieval
  pairs: [[image, text], [audio+image, text]]
  matching: {{weight: 0.5}}
  hard_negatives: {{per_sample: 1, among: 8, skip: 1, every: 3}}
init: {init}
run: {{dir: {run}}}
data:
  sources:
    synthetic: {{path: {data}, splits: [train]}}
  global_batch_size: 32
  streams: 8
  workers: 0
  allow_rare_strata: true
optim: {{lr: 1.0e-3}}
train: {{max_steps: 5, save_every: 4, eval_every: 9, keep_checkpoints: 10}}
eval:
  sources:
    held_out: {{path: {data}, splits: [val]}}
  tasks:
    found:
      type: retrieval
      query: {{source: held_out, modality: image}}
      gallery: {{source: held_out, modality: text}}
      rerank: 4
"""
PLAIN = ["eval.tasks={}"]
CAPTION = [
    "head={type: caption, sources: [image], width: 16, heads: 2, layers: 1, beams: 2, "
    "max_length: 6, length_penalty: 4.0}",
    "eval.tasks={texts: {type: caption, source: held_out}}",
    "train.max_steps=8",
    "optim.lr=0.05",
]
FOUND = ["head.hard_negatives=null", "train.max_steps=1"]
STEPS = range(1, 6)


@pytest.fixture(scope="module")
def folder(synthetic: Path, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("mining")
    assert cli.main(pretrain(synthetic, folder / "init", "train.max_steps=4")) == 0
    recipe = RECIPE.format(init=folder / "init", run=folder / "whole", data=synthetic)
    (folder / "recipe.yaml").write_text(recipe)
    return folder


def finetune(folder: Path, run: str, *more: str) -> list[str]:
    return ["finetune", str(folder / "recipe.yaml"), f"run.dir={folder / run}", *more]


@pytest.fixture(scope="module")
def whole(folder: Path) -> Path:
    assert cli.main(finetune(folder, "whole", *PLAIN)) == 0
    return folder / "whole"


def test_it_searches_anew_every_few_steps(whole: Path) -> None:
    """The checkpoint of a step holds the table that was used up to it."""
    told = [r for r in read_metrics(whole / "metrics.jsonl") if r.get("event") == "negatives"]
    assert [row["step"] for row in told] == [0, 3]
    for row in told:
        assert row["similarity"] > row["random"] + 0.01
    saved = {
        step: NegativeTable(whole / f"checkpoints/step_{step:08d}" / FILE).settings["step"]
        for step in (3, 4, 5)
    }
    assert saved == {3: 0, 4: 3, 5: 3}
    assert set(training(whole)) == set(STEPS)


def test_two_ranks_learn_and_judge_the_same(folder: Path, whole: Path) -> None:
    """With grad_cache over small micro-batches; judged where ZeRO-3 holds the weights in parts."""
    learnt = [*PLAIN, "train.zero_stage=2", "train.micro_batch_size=8"]
    in_parts = ["train.zero_stage=3", IN_PARTS]
    commands = [
        finetune(folder, "two", *learnt),
        finetune(folder, "texts2", *CAPTION, *in_parts),
        finetune(folder, "found2", *FOUND, *in_parts),
    ]
    (folder / "commands.json").write_text(json.dumps(commands))
    launch.on_ranks(2, "tests.train.run_worker", str(folder / "commands.json"))
    want, got = training(whole), training(folder / "two")
    for step in STEPS:
        assert got[step]["batch_hash"] == want[step]["batch_hash"], step
        for key in (k for k in want[step] if k.endswith("loss")):
            assert got[step][key] == pytest.approx(want[step][key], rel=1e-5), (step, key)
    assert {k for k in want[1] if k.endswith("loss")} > {"head/image_text_loss", "matching_loss"}
    for name, settings, metric in (
        ("texts", CAPTION, "ROUGE-L"),
        ("found", FOUND, "text_to_image_MRR_reranked"),
    ):
        assert cli.main(finetune(folder, f"{name}1", *settings)) == 0
        one, two = (last_scores(folder / f"{name}{ranks}") for ranks in (1, 2))
        assert one[metric] > 0
        for key, value in one.items():
            near = 0.5 if "rank" in key.split("_") else 0.02
            assert two[key] == pytest.approx(value, abs=near), key
        kept = [list((folder / f"{name}{n}").glob("evaluation/*/*.json")) for n in (1, 2)]
        assert [len(files) for files in kept] == [2, 2]
        for files in kept:
            assert all(json.loads(file.read_text())["mistakes"] for file in files)


def last_scores(run: Path) -> dict[str, float]:
    rows = [row for row in read_metrics(run / "metrics.jsonl") if "metric" in row]
    return {row["metric"]: row["value"] for row in rows}


@pytest.mark.parametrize("step", [3, 4])
def test_a_resumed_run_goes_on_bit_for_bit(folder: Path, whole: Path, step: int) -> None:
    """Between two searches by the table in the checkpoint, at one by searching again."""
    run = f"from{step}"
    source = f"run.resume={whole}/checkpoints/step_{step:08d}"
    assert cli.main(finetune(folder, run, source, *PLAIN)) == 0
    want, got = exact(whole), exact(folder / run)
    for later in range(step + 1, 6):
        assert got[later] == want[later]
    searched = [r["step"] for r in read_metrics(folder / run / "metrics.jsonl") if "random" in r]
    assert searched == [3] * (step == 3)


def test_other_settings_of_a_resumed_run_search_at_once(folder: Path, whole: Path) -> None:
    source = f"run.resume={whole}/checkpoints/step_00000004"
    more = ["head.hard_negatives.among=4", *PLAIN]
    assert cli.main(finetune(folder, "other", source, *more)) == 0
    rows = read_metrics(folder / "other/metrics.jsonl")
    assert [r["step"] for r in rows if r.get("event") == "negatives"] == [4]


def test_the_table_is_that_of_the_checkpoints_model(
    whole: Path, folder: Path, synthetic: Path
) -> None:
    """The one of step 3 against sorting the embeddings of the checkpoint of step 3, by groups."""
    predictor = load(whole / "checkpoints/step_00000003")
    manifest = Manifest.open(str(synthetic), ["train"])
    data = SequentialData([("synthetic", manifest)], predictor.specs, batch_size=32)
    encoded = predictor.encode_batches(data, ["image", "text"])
    ids = number_of(manifest)
    number = {m: np.array([ids[i] for i in encoded.row_ids[m]]) for m in ("image", "text")}
    table = NegativeTable(whole / FILE)
    assert table.settings["step"] == 3
    similarity = encoded.embedding["image"].astype(float) @ encoded.embedding["text"].T
    same = encoded.groups["image"][:, None] == encoded.groups["text"][None, :]
    compared = 0
    for row, own in enumerate(number["image"]):
        found = table.candidates(Direction(("image",), ("text",)), int(own))
        if own not in number["text"]:
            assert found == []
            continue
        order = np.argsort(-np.where(same[row], -9, similarity[row]))
        want = similarity[row][order[1:9]]
        place = {n: k for k, n in enumerate(number["text"].tolist())}
        got = similarity[row][[place[n] for n in found]]
        np.testing.assert_allclose(np.sort(got), np.sort(want), atol=3e-5)
        compared += 1
    assert compared > 100


def test_sides_are_encoded_without_dropout(folder: Path, synthetic: Path) -> None:
    run = prepare(str(folder / "recipe.yaml"), [f"run.dir={folder / 'sides'}", *PLAIN])
    modes: list[bool] = []
    run.task.register_forward_pre_hook(lambda task, _: modes.append(task.training))
    sources = [("synthetic", Manifest.open(str(synthetic), ["train"]))]
    sides = encode_sides(run, run.task.head, sources, {})
    assert set(modes) == {False}
    assert run.task.training
    for side in sides.values():
        assert len(side.x) == len(side.group) == len(side.code) == len(side.number)
        assert (np.diff(side.number) > 0).all()


def test_every_set_of_modalities_has_its_code() -> None:
    rows = {"audio": torch.tensor([0, 2]), "image": torch.tensor([1, 2])}
    batch = {"sample_id": ["a", "b", "c", "d"], "rows": rows}
    codes = _codes(batch, Read("clean", ("audio", "image"), fused=True))
    assert codes.tolist() == [1, 2, 3, 0]


def number_of(manifest: Manifest) -> dict[str, int]:
    reader = SampleReader([("synthetic", manifest)])
    numbers = Numbers(reader.sources)
    return {reader.read(*numbers.place(n)).sample_id: n for n in range(len(numbers))}


def test_when_it_searches(folder: Path, whole: Path) -> None:
    task = load(whole).task
    assert [next_mining(task, step) for step in (0, 2, 3, 4)] == [3, 3, 6, 6]
    assert next_mining(torch.nn.Linear(1, 1), 0) is None
