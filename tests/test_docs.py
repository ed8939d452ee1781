"""The documentation is true where a machine can tell: links, files, quoted messages, recipes."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import yaml

from mmfm.config import Component, component, from_dict
from mmfm.lora import LoraConfig
from mmfm.model import ModelConfig
from mmfm.train.optim import OptimConfig
from mmfm.train.recipe import EvalConfig, EvalSource, FinetuneConfig, PretrainConfig, merge
from mmfm.train.trainer import TrainConfig
from mmfm.tune.space import read_search
from mmfm_eval.suite import SuiteConfig
from tests import tiny_heads

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def names(paths: list[Path]) -> list[str]:
    return [str(p.relative_to(ROOT)) for p in paths]


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(#[^)]*)?\)", page.read_text()):
        file = (page.parent / target) if target else page
        assert file.exists(), f"{page.name} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text(), re.M)
            slugs = {re.sub(r"[^\w -]", "", h).strip().lower().replace(" ", "-") for h in headings}
            assert anchor[1:] in slugs, f"{page.name} links to {target}{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_files_that_are_named_exist(page: Path) -> None:
    folders = "configs|scripts|docs|benchmarks|tests|eval/mmfm_eval|mmfm|data_prep"
    text = re.sub(r"^```python\n.*?^```$", "", page.read_text(), flags=re.M | re.S)
    for name in re.findall(rf"(?<![\w/])(?:{folders})/[\w./-]*\w", text):
        assert (ROOT / name).exists(), f"{page.name} names {name}"


def messages() -> list[str]:
    """Every string of the code, and the scripts; what an f-string fills in is one \\0."""
    found = [path.read_text() for path in (ROOT / "scripts").iterdir()]
    for package in ("mmfm", "eval", "data_prep"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(node.value)
                elif isinstance(node, ast.JoinedStr):
                    parts = [
                        str(v.value) if isinstance(v, ast.Constant) else "\0" for v in node.values
                    ]
                    found.append("".join(parts))
    return found


def quoted() -> list[str]:
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    return [m for row in rows for m in re.findall(r"`([^`]+)`", row) if " " in m or "…" in m]


@pytest.fixture(scope="module")
def code() -> list[str]:
    return messages()


@pytest.mark.parametrize("message", [m for m in quoted() if m != "data wait"])
def test_a_quoted_message_is_one_of_the_code(message: str, code: list[str]) -> None:
    pieces = [re.escape(piece.strip()) for piece in message.split("…") if piece.strip()]
    pattern = re.compile(r"[\s\S]*?".join(pieces))
    assert any(pattern.search(text) for text in code)


def recipes(page: str) -> list[dict[str, object]]:
    text = (ROOT / "docs" / page).read_text()
    return [yaml.safe_load(b) for b in re.findall(r"^```yaml\n(.*?)^```$", text, re.M | re.S)]


def test_the_recipe_for_own_data_is_valid() -> None:
    pretrain, finetune = recipes("own-data.md")
    config = from_dict(PretrainConfig, pretrain)
    assert list(config.model.encoders) == ["image", "text"]
    assert set(finetune) <= {"run", "init", "head", "data", "train", "eval"}
    from_dict(PretrainConfig, {**pretrain, **{k: finetune[k] for k in ("data", "eval")}})


def test_the_settings_of_the_training_page_are_valid() -> None:
    objectives, *optims = recipes("training.md")
    lora = next(recipe for recipe in optims if "lora" in recipe)
    optims.remove(lora)
    from_dict(LoraConfig, lora["lora"])
    component(objectives["objectives"]["masked_image"], Component("mmfm.objectives"))
    norms = next(recipe for recipe in optims if "model" in recipe)
    optims.remove(norms)
    from_dict(ModelConfig, norms["model"])
    assert len(optims) == 3
    for optim in optims:
        from_dict(OptimConfig, optim["optim"])


def test_the_settings_of_the_tuning_page_are_valid(tmp_path: Path) -> None:
    train, sources, test, search = recipes("tuning.md")
    from_dict(TrainConfig, train["train"])
    assert len({str(from_dict(EvalSource, source)) for source in sources.values()}) == 4
    assert from_dict(EvalConfig, test["test"]).tasks
    evaluated = {"tasks": {"shape": tiny_heads.COLOUR}}
    path = tiny_heads.recipe(tmp_path, tmp_path, eval=evaluated, **search)
    assert len(read_search(path).space) == 4


def test_the_recipes_of_the_refit_page_are_valid() -> None:
    whole = {"encoders": {"text": {"type": "hf_model", "name": "x"}}}
    for recipe in recipes("refit-and-distil.md"):
        model = merge(whole, recipe.pop("model", {}))
        from_dict(FinetuneConfig, {**recipe, "model": model})


def test_the_suite_of_the_evaluation_page_is_valid() -> None:
    suite = from_dict(SuiteConfig, recipes("evaluation.md")[0])
    assert set(suite.tasks) == {"picture_and_name", "species"}


def test_the_entries_of_the_objectives_page_are_valid() -> None:
    pretrain, _ = recipes("own-data.md")
    for entry in recipes("objectives.md"):
        config = from_dict(PretrainConfig, {**pretrain, **entry})
        assert set(config.objectives) == set(entry["objectives"])
