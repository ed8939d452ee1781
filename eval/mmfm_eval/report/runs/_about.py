"""What was trained, in words and numbers: the head of a run's page."""

from __future__ import annotations

from typing import Any

from mmfm_eval.report.run import Run
from mmfm_eval.report.runs._findings import Findings


def subtitle(run: Run) -> str:
    """One sentence: the head, what it learns, and on top of what."""
    recipe = run.recipe
    head = recipe["head"]
    kind = str(head["type"]).rpartition(".")[2].replace("_", " ")
    label = f" for {head['label'].replace('_', ' ')}" if head.get("label") else ""
    init = recipe.get("init")
    encoders = ", ".join(recipe["model"]["encoders"])
    return f"A {kind} head{label} on {init or f'a model of {encoders}'}."


def unfinished(run: Run) -> str:
    """Why the run has not come to its end, "" where it has."""
    last, steps = _last_step(run), run.recipe["train"]["max_steps"]
    if last >= steps or any(event["event"] == "early_stop" for event in run.events):
        return ""
    return f"This run was stopped at step {last:,} of {steps:,}; the same command goes on."


def facts(found: Findings) -> list[tuple[str, str]]:
    """(what, value) of the run, in the order in which they are shown."""
    run = found.run
    recipe, weights = run.recipe, run.environment.get("weights")
    ranks = run.environment.get("device") or "unknown"
    listed = [
        ("starts from", recipe.get("init") or "encoders as their settings say"),
        ("trained", _weights(weights) if weights else ""),
        ("steps", _steps(found)),
        ("samples a step", f"{recipe['data']['global_batch_size']:,}"),
        ("time in steps", _time(run)),
        ("machine", str(ranks)),
        ("seed", str(recipe["run"]["seed"])),
    ]
    return [(what, value) for what, value in listed if value]


def sources(run: Run) -> list[dict[str, Any]]:
    """What was trained on: of each source how many samples were drawn, and how many epochs."""
    last = run.training[max(run.training)] if run.training else {}
    return [
        {
            "name": name,
            "splits": ", ".join(source.get("splits") or ()),
            "path": source["path"],
            "drawn": last.get(f"samples/{name}"),
            "epochs": last.get(f"epochs/{name}"),
        }
        for name, source in run.recipe["data"]["sources"].items()
    ]


def _weights(weights: dict[str, int]) -> str:
    trained, total = weights["trained"], weights["total"]
    share = 100 * trained / max(total, 1)
    return f"{trained:,} of {total:,} weights ({share:.3g} %)"


def _steps(found: Findings) -> str:
    last, best = _last_step(found.run), found.best
    return f"{last:,}" + (f" (best: {best['step']:,})" if best is not None else "")


def _last_step(run: Run) -> int:
    return max(run.training, default=0)


def _time(run: Run) -> str:
    """Neither the start nor the evaluations are in it."""
    seconds, before = 0.0, 0
    for row in run.training.values():
        if row.get("samples_per_s"):
            seconds += (row["samples_seen"] - before) / row["samples_per_s"]
        before = row["samples_seen"]
    if not seconds:
        return ""
    return f"{seconds / 60:.1f} min" if seconds >= 90 else f"{seconds:.0f} s"
