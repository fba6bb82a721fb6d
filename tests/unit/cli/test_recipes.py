"""``openjepa recipes``: list, show, diff, keys."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from openjepa.cli.recipes import app
from openjepa.config import describe_schema, list_recipes, load_recipe
from openjepa.errors import ConfigError

run = CliRunner()


def output(*words: str) -> str:
    result = run.invoke(app, list(words), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_list_names_every_recipe() -> None:
    text = output("list")
    assert all(info.name in text for info in list_recipes())


def test_show_prints_a_recipe_file_with_its_header_and_overrides(tmp_path: Path) -> None:
    text = output("show", "ijepa-tiny", "optim.lr=0.125", "--seed=7", "mask.kind=random")
    assert text.startswith("# I-JEPA")
    path = tmp_path / "copy.yaml"
    path.write_text(text)
    assert load_recipe(path) == load_recipe("ijepa-tiny", ["optim.lr=0.125", "seed=7", "mask.kind=random"])


def test_show_of_a_file_prints_no_foreign_header(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("extends: ijepa-tiny\n")
    assert output("show", str(path)).startswith("name: mine\n")


def test_diff_shows_both_values_of_what_differs_only() -> None:
    lines = output("diff", "ijepa-vith14-in1k-paper", "ijepa-vith14-in1k-release").splitlines()
    row = next(line for line in lines if line.startswith("objective.kind"))
    assert row.split() == ["objective.kind", "l2", "smooth_l1"]
    assert not any(line.startswith("optim.lr") for line in lines)
    assert "no difference" in output("diff", "ijepa-tiny", "ijepa-tiny")


def test_keys_are_all_there_and_can_be_searched() -> None:
    text = output("keys")
    assert all(info.key in text for info in describe_schema())
    assert "optim.lr" not in output("keys", "mask")
    assert "mask.targets" in output("keys", "mask.*")
    assert "data.augment.flip" in output("keys", "horizontal flip")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["show", "ijepa-tinny"], "did you mean 'ijepa-tiny'"),
        (["show", "ijepa-tiny", "optim.lrr=1"], "did you mean 'optim.lr'"),
        (["diff", "ijepa-tiny", "nothing-like-it"], "no recipe is called"),
        (["keys", "wieght_decay"], "no recipe key matches"),
    ],
)
def test_mistakes_are_config_errors_for_the_command_line_to_print(words: list[str], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        run.invoke(app, words, catch_exceptions=False)
