"""``mmfm finetune`` with a recommendation head: any ranks and ZeRO stage, resume, use, errors."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

import mmfm
from mmfm import cli
from mmfm.checkpoint import Checkpoint
from mmfm.heads.recommendation import RecommendationHead
from mmfm.train.log import read_metrics
from tests import launch
from tests.tiny_histories import ITEMS, make_data, write_recipe
from tests.tiny_runs import IN_PARTS, exact, training


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("recommendation")
    make_data(folder / "data")
    write_recipe(folder, folder / "data")
    return folder


def finetune(folder: Path, run: str, *more: str) -> list[str]:
    return ["finetune", str(folder / "recipe.yaml"), f"run.dir={folder / run}", *more]


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    assert cli.main(finetune(folder, "one")) == 0
    return folder / "one"


def test_two_ranks_and_every_zero_stage_learn_the_same(folder: Path, run: Path) -> None:
    """Without dropout, which each rank draws for itself."""
    plain = ["head.dropout=0", "eval.tasks={}"]
    assert cli.main(finetune(folder, "plain", *plain)) == 0
    stages = [finetune(folder, f"stage{s}", *plain, f"train.zero_stage={s}") for s in range(4)]
    stages[3].append(IN_PARTS)
    (folder / "commands.json").write_text(json.dumps(stages))
    launch.on_ranks(2, "tests.train.run_worker", str(folder / "commands.json"))
    want = training(folder / "plain")
    for stage in range(4):
        got = training(folder / f"stage{stage}")
        for step in range(1, 7):
            assert got[step]["batch_hash"] == want[step]["batch_hash"]
            assert got[step]["loss"] == pytest.approx(want[step]["loss"], rel=2e-6), (stage, step)


def test_resumed_run_equals_the_uninterrupted_one(folder: Path, run: Path) -> None:
    again = Path(shutil.copytree(run, folder / "again"))
    shutil.rmtree(again / "checkpoints/step_00000006")
    lines = (again / "metrics.jsonl").read_text().splitlines(keepends=True)
    (again / "metrics.jsonl").write_text("".join(lines[:6]))
    assert cli.main(finetune(folder, "again")) == 0
    assert exact(again) == exact(run)
    before, after = (Checkpoint.open(path).tensors("model") for path in (run, again))
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_the_checkpoint_is_all_that_is_needed(folder: Path, run: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(run, tmp_path / "moved")
    predictor = mmfm.load(moved)
    head = predictor.head
    assert isinstance(head, RecommendationHead)
    assert head.item_ids == ITEMS
    assert head.item_text.norm(dim=1).tolist() == pytest.approx([4.0] * 12, rel=1e-5)  # 16 ** 0.5
    found = predictor.recommend(["item/3", "item/4"], k=4)
    assert len({item for item, _ in found} - {"item/3", "item/4"}) == 4
    assert [p for _, p in found] == sorted((p for _, p in found), reverse=True)
    wanted = predictor.encode(text=["a red dot"])["text"]  # the encoder is there as before
    assert wanted.shape == (1, 16)
    for bad in (["item/99"], [], "item/3"):
        with pytest.raises(ValueError, match="item"):
            predictor.recommend(bad)


def test_it_learns_what_follows(folder: Path) -> None:
    more = ["train.max_steps=60", "train.save_every=60", "train.eval_every=60"]
    assert cli.main(finetune(folder, "long", *more)) == 0
    rows = [r for r in read_metrics(folder / "long/metrics.jsonl") if "metric" in r]
    recall = {r["step"]: r for r in rows if r["metric"] == "Recall@3"}
    assert recall[0]["n"] == 35  # 5 of the 40 have a history of one item
    assert recall[60]["value"] > 0.9
    assert recall[60]["value"] > recall[0]["value"] + 0.3


def test_samples_without_a_history_are_passed_over(folder: Path, run: Path) -> None:
    """With the items among the users some steps hold no history at all."""
    every = ["data.sources.users.splits=null", "eval.sources.users.splits=null"]
    more = ["data.allow_rare_strata=true", "train.micro_batch_size=4", "data.streams=16"]
    assert cli.main(finetune(folder, "mixed", *every, *more)) == 0
    scores = [r for r in read_metrics(folder / "mixed/metrics.jsonl") if "metric" in r]
    assert {r["n"] for r in scores} == {35}
    losses = [row["loss"] for row in training(folder / "mixed").values()]
    assert 0 < losses.count(0) < len(losses)


def test_an_item_without_a_text_has_its_id_only(folder: Path) -> None:
    data = make_data(folder / "textless", texts={4: None})
    paths = [f"head.items.path={data}", f"data.sources.users.path={data}", "eval.tasks={}"]
    assert cli.main(finetune(folder, "textless_run", *paths)) == 0
    head = mmfm.load(folder / "textless_run").head
    assert sorted(head.item_ids) == sorted(ITEMS)
    assert [head.item_ids[row] for row, v in enumerate(head.item_text) if not v.any()] == ["item/4"]


def test_an_item_that_cannot_be_read_is_an_error(folder: Path, capfd) -> None:
    data = make_data(folder / "broken", texts={4: {"en": ["a red dot", 5]}})
    paths = [f"head.items.path={data}", f"data.sources.users.path={data}", "eval.tasks={}"]
    assert cli.main(finetune(folder, "broken_run", *paths)) == 2
    assert (
        "head.items: there are items that can't be read: text not a string"
        in capfd.readouterr().err
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("head.items.path=nowhere", "head.items: "),
        ("head.items.splits=[films]", "head.items: "),
        ("freeze=none model.encoders.text.frozen=false", "encoder of 'text' trains"),
        ("head.held_out=1 eval.tasks.next.target=val", "target: val was trained on"),
        ("data.sources.users.splits=[items] head.modalities=[]", "no sample has a 'history'"),
        ("head.items.splits=[users]", "no sample in"),
    ],
)
def test_errors_say_what_is_wrong(folder: Path, capfd, change: str, message: str) -> None:
    assert cli.main(finetune(folder, "bad", *change.split(" "))) == 2
    assert message in capfd.readouterr().err
