"""Checkpoints are whole or not there; what is broken or foreign is refused with a message."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from mmfm import checkpoint, distributed
from mmfm import files as disk
from mmfm.checkpoint import Checkpoint, CheckpointError, latest, prune, share_of_rank, writing

WEIGHTS = {"a.weight": torch.arange(6.0).view(2, 3), "b": torch.tensor([1, 2]), "s": torch.ones(())}
STATE = {"a.weight/exp_avg": torch.full((2, 3), 0.5)}


def files(folder: Path) -> None:
    (folder / "config.yaml").write_text("model: {embed_dim: 3}\n")
    (folder / "preprocessing.json").write_text('{"specs": {}, "label": null}')
    (folder / "assets" / "text").mkdir(parents=True)
    (folder / "assets" / "text" / "tokenizer.json").write_text("{}")


def write(folder: Path, step: int, write_files=files, weights=WEIGHTS) -> Path:
    tensors = {"model": weights.items(), "optimizer": STATE.items()}
    return checkpoint.write(folder, step, step * 32, tensors, write_files, {"fingerprint": "f"})


def test_what_was_written_is_read(tmp_path: Path) -> None:
    folder = write(tmp_path, 12)
    assert folder == tmp_path / "step_00000012"
    for path in (folder, tmp_path, tmp_path / "latest"):
        assert Checkpoint.open(path).path == folder.resolve()
    found = Checkpoint.open(folder)
    assert (found.step, found.samples_seen, found.manifest["fingerprint"]) == (12, 384, "f")
    assert found.config == {"model": {"embed_dim": 3}}
    assert found.preprocessing == {"specs": {}, "label": None}
    weights = found.tensors("model")
    assert set(weights) == set(WEIGHTS)
    for name, tensor in WEIGHTS.items():
        assert torch.equal(weights[name], tensor)
        assert weights[name].dtype == tensor.dtype
    assert list(found.tensors("model", "a.")) == ["a.weight"]
    assert list(found.tensors("optimizer")) == ["a.weight/exp_avg"]
    assert (found.assets / "text" / "tokenizer.json").is_file()
    names = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert names - {"manifest.json"} == set(found.manifest["files"])


def test_ema_behind_a_path_means_the_averages(tmp_path: Path) -> None:
    """What has none is its own average; a folder that is called so is what it is."""
    averages = {"a.weight": torch.full((2, 3), 7.0)}
    tensors = {"model": WEIGHTS.items(), "optimizer": STATE.items(), "ema": averages.items()}
    folder = checkpoint.write(tmp_path / "ema", 3, 96, tensors, files, {"fingerprint": "f"})
    for path in (folder, tmp_path / "ema"):
        assert Checkpoint.open(path).weights == "model"
        assert torch.equal(Checkpoint.open(path).model_tensors()["a.weight"], WEIGHTS["a.weight"])
        found = Checkpoint.open(path / "ema")
        assert (found.path, found.weights) == (folder.resolve(), "ema")
        assert Checkpoint.open(found.named) == found
        model = found.model_tensors()
        assert set(model) == set(WEIGHTS)
        assert torch.equal(model["a.weight"], averages["a.weight"])
        assert torch.equal(model["b"], WEIGHTS["b"])
        assert list(found.model_tensors("a.")) == ["a.weight"]
    (folder / "ema").mkdir()  # without a checkpoint it hides nothing
    assert Checkpoint.open(folder / "ema").weights == "ema"
    without = write(tmp_path / "run", 1)
    with pytest.raises(CheckpointError, match="has no averages of its weights"):
        Checkpoint.open(without / "ema")


def test_a_runs_folder_names_its_latest_checkpoint(tmp_path: Path) -> None:
    write(tmp_path / "checkpoints", 1)
    second = write(tmp_path / "checkpoints", 2)
    assert Checkpoint.open(tmp_path).path == second.resolve()


def test_views_and_transposed_tensors_are_stored_as_they_look(tmp_path: Path) -> None:
    base = torch.arange(6.0).view(2, 3)
    folder = write(tmp_path, 1, weights={"t": base.T, "row": base[1]})
    weights = Checkpoint.open(folder).tensors("model")
    assert torch.equal(weights["t"], base.T)
    assert torch.equal(weights["row"], base[1])


def broken(folder: Path) -> None:
    files(folder)
    raise OSError("disk full")


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_a_failure_while_writing_changes_nothing(tmp_path: Path) -> None:
    first = write(tmp_path, 1)
    before = (first / "manifest.json").read_text()
    for step in (2, 1):  # a new step, and one that is already there
        with pytest.raises(CheckpointError, match=r"can't be written .*\(rank 0: disk full\)"):
            write(tmp_path, step, broken)
        assert names(tmp_path) == ["latest", "step_00000001"]
        assert latest(tmp_path) == first
        assert (first / "manifest.json").read_text() == before
        assert Checkpoint.open(tmp_path).step == 1
    assert Checkpoint.open(write(tmp_path, 2)).step == 2
    assert names(tmp_path) == ["latest", "step_00000001", "step_00000002"]


@pytest.mark.parametrize("at", ["save_file", "sha256", "write_json", "sync"])
@pytest.mark.parametrize("error", [OSError, SafetensorError])
def test_a_failure_at_any_point_leaves_the_first_try(
    tmp_path: Path, monkeypatch, at: str, error: type[Exception]
) -> None:
    write(tmp_path, 1)

    def fail(*_: object, **__: object) -> None:
        raise error("gone")

    monkeypatch.setattr(writing, at, fail)
    with pytest.raises(CheckpointError, match=r"older ones are untouched"):
        write(tmp_path, 2)
    monkeypatch.undo()
    assert names(tmp_path) == ["latest", "step_00000001"]
    assert Checkpoint.open(tmp_path).step == 1


def test_a_failure_at_the_last_point_leaves_both_whole(tmp_path: Path, monkeypatch) -> None:
    write(tmp_path, 1)
    monkeypatch.setattr(writing, "write_text", lambda *_: (_ for _ in ()).throw(OSError("gone")))
    with pytest.raises(CheckpointError, match="gone"):
        write(tmp_path, 2)
    monkeypatch.undo()
    assert names(tmp_path) == ["latest", "step_00000001", "step_00000002"]
    assert Checkpoint.open(tmp_path).step == 1
    assert Checkpoint.open(tmp_path / "step_00000002").step == 2


def test_every_file_is_on_the_disk_before_the_folder_is_renamed(
    tmp_path: Path, monkeypatch
) -> None:
    synced: list[Path] = []
    plain = disk.sync

    def sync(path: Path) -> None:
        synced.append(path)
        plain(path)

    monkeypatch.setattr(disk, "sync", sync)
    monkeypatch.setattr(writing, "sync", sync)
    folder = write(tmp_path, 1)
    hidden = tmp_path / ".step_00000001.partial"
    order = [path for path in synced if path != hidden]
    before = {p.relative_to(hidden) for p in order[: order.index(tmp_path)]}
    there = {p.relative_to(folder) for p in folder.rglob("*") if p.is_file()}
    assert there - {Path("manifest.json")} <= before  # which is synced under its hidden name
    assert Path(".manifest.json.partial") in before


def test_each_tensor_and_file_is_progress_to_the_watchdog(tmp_path: Path) -> None:
    before = distributed.place.work
    folder = write(tmp_path, 1)
    stored = [p for p in folder.rglob("*") if p.is_file() and p.name != "manifest.json"]
    assert distributed.place.work - before == len(WEIGHTS) + len(STATE) + 2 * len(stored)


def test_the_same_step_again_replaces_it(tmp_path: Path) -> None:
    write(tmp_path, 3)
    folder = write(tmp_path, 3, weights={"other": torch.zeros(2)})
    assert list(Checkpoint.open(folder).tensors("model")) == ["other"]


def a_file_of(folder: Path, start: str) -> Path:
    return next(p for p in folder.iterdir() if p.name.startswith(start))


def test_changed_truncated_and_missing_files(tmp_path: Path) -> None:
    folder = write(tmp_path, 1)
    weights = a_file_of(folder, "model-")
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(CheckpointError, match=rf"{weights.name} has changed .*sha256"):
        Checkpoint.open(folder)
    assert Checkpoint.open(folder, verify=False).step == 1
    weights.write_bytes(whole[:-1])
    for verify in (True, False):
        with pytest.raises(CheckpointError, match=rf"{weights.name} is missing or cut short"):
            Checkpoint.open(folder, verify=verify)
    weights.unlink()
    with pytest.raises(CheckpointError, match="missing or cut short; use another checkpoint"):
        Checkpoint.open(folder)
    weights.write_bytes(whole)
    (folder / "assets" / "text" / "tokenizer.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json has changed"):
        Checkpoint.open(folder)


def test_foreign_formats_and_unreadable_manifests(tmp_path: Path) -> None:
    folder = write(tmp_path, 1)
    manifest = folder / "manifest.json"
    about = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**about, "format": 1}))
    with pytest.raises(CheckpointError, match="has format 1; this version reads 2"):
        Checkpoint.open(folder)
    del about["format"]
    manifest.write_text(json.dumps(about))
    with pytest.raises(CheckpointError, match="has format None"):
        Checkpoint.open(folder)
    manifest.write_text("{")
    with pytest.raises(CheckpointError, match=r"no readable manifest\.json"):
        Checkpoint.open(folder)


def test_paths_without_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "step_00000001").mkdir(parents=True)  # not whole: no manifest
    for path in (tmp_path, tmp_path / "nowhere", tmp_path / "checkpoints"):
        with pytest.raises(CheckpointError, match=f"no checkpoint in {path}: name a run's folder"):
            Checkpoint.open(path)
    assert latest(tmp_path / "checkpoints") is None


def test_latest_falls_back_to_the_newest_whole_one(tmp_path: Path) -> None:
    for step in (1, 2, 10):
        write(tmp_path, step)
    assert latest(tmp_path).name == "step_00000010"
    shutil.rmtree(tmp_path / "step_00000010")
    assert latest(tmp_path).name == "step_00000002"
    (tmp_path / "latest").unlink()
    assert latest(tmp_path).name == "step_00000002"
    (tmp_path / "step_00000002" / "manifest.json").unlink()
    assert latest(tmp_path).name == "step_00000001"


def test_latest_follows_the_run_and_not_the_highest_number(tmp_path: Path) -> None:
    for step in (5, 9, 6):  # went back to step 5 and on from there
        write(tmp_path, step)
    assert latest(tmp_path).name == "step_00000006"


def test_prune_keeps_the_newest(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        write(tmp_path, step)
    prune(tmp_path, 2)
    assert sorted(p.name for p in tmp_path.glob("step_*")) == ["step_00000003", "step_00000004"]
    prune(tmp_path, 5)
    assert len(list(tmp_path.glob("step_*"))) == 2
    assert Checkpoint.open(tmp_path).step == 4


def test_what_killed_runs_left_is_cleared_away(tmp_path: Path) -> None:
    for name in (".step_00000437.partial", ".step_00000400.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model-00001-of-00001.safetensors").write_bytes(b"half of it")
    write(tmp_path, 500)
    assert names(tmp_path) == ["latest", "step_00000500"]


def test_a_checkpoint_that_can_t_be_deleted_whole_is_out_of_the_way(
    tmp_path: Path, monkeypatch
) -> None:
    """A process that is killed at it, or a network file system that holds a file back."""
    write(tmp_path, 1)
    write(tmp_path, 2)

    def half(path: Path, ignore_errors: bool = False) -> None:
        next(path.glob("*.safetensors")).unlink()
        if not ignore_errors:
            raise OSError("Directory not empty")

    monkeypatch.setattr(checkpoint.folder.shutil, "rmtree", half)
    prune(tmp_path, 1)
    assert names(tmp_path) == [".step_00000001.old", "latest", "step_00000002"]


def test_prune_never_takes_what_was_written_last(tmp_path: Path) -> None:
    for step in (5, 9, 6):
        write(tmp_path, step)
    prune(tmp_path, 1)
    assert Checkpoint.open(tmp_path).step == 6


def test_the_best_stays_and_is_found_by_its_name(tmp_path: Path) -> None:
    assert checkpoint.best(tmp_path) is None
    for step in (1, 2, 3):
        write(tmp_path, step)
    checkpoint.mark_best(tmp_path, 1, {"value": 0.5})
    prune(tmp_path, 1)
    assert names(tmp_path) == ["best", "latest", "step_00000001", "step_00000003"]
    assert Checkpoint.open(tmp_path / "best").step == 1
    assert Checkpoint.open(tmp_path).step == 3
    assert checkpoint.best(tmp_path) == {"checkpoint": "step_00000001", "value": 0.5}
    shutil.rmtree(tmp_path / "step_00000001")
    assert checkpoint.best(tmp_path) is None
    with pytest.raises(CheckpointError, match="no checkpoint in"):
        Checkpoint.open(tmp_path / "best")


def test_a_folder_that_can_t_be_written_to(tmp_path: Path) -> None:
    checkpoint.check_writable(tmp_path / "new" / "run")
    assert not names(tmp_path)
    with pytest.raises(CheckpointError, match=r"nothing can be written to /proc/mmfm/run: "):
        checkpoint.check_writable(Path("/proc/mmfm/run"))
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    with pytest.raises(CheckpointError, match="No such file or directory"):
        checkpoint.check_writable(tmp_path / "link")
    (tmp_path / "link").unlink()
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="Not a directory"):
        checkpoint.check_writable(tmp_path / "file")


@pytest.fixture
def small_disk(tmp_path: Path):
    """A file system of 200 kB."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_is_really_full(small_disk: Path) -> None:
    large = {"w": torch.ones(35_000)}  # 140 kB
    first = write(small_disk, 1, weights=large)
    with pytest.raises(CheckpointError, match=r"rank 0: .*No space left on device"):
        write(small_disk, 2, weights=large)
    assert names(small_disk) == ["latest", "step_00000001"]
    assert Checkpoint.open(small_disk).path == first.resolve()
    shutil.rmtree(first)
    assert Checkpoint.open(write(small_disk, 2, weights=large)).step == 2


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
def test_every_tensor_is_written_by_one_rank(ranks: int) -> None:
    sizes = {f"p{i}": (i * 37) % 11 + 1 for i in range(20)} | {"huge": 40}
    parts = [list(share_of_rank(sizes, r, ranks)) for r in range(ranks)]
    assert sorted(n for part in parts for n in part) == sorted(sizes)
    loads = [sum(sizes[n] for n in part) for part in parts]
    assert max(loads) <= max(40, sum(sizes.values()) / ranks + 11)
