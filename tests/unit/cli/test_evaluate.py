"""``openjepa evaluate``: arguments reach the verb, the table says what it should, nothing heavy is imported."""

import subprocess
import sys
import types

import pytest

import openjepa
from openjepa.cli import main


@pytest.fixture
def calls(monkeypatch):
    from openjepa.evaluation import Score

    seen = []

    def evaluate(what, **options):
        seen.append((what, options))
        protocol = {"metric": "cosine", "k": options.get("k")}
        return [Score(what, 0.394, 10_000, 2_000, "run", protocol, ("a", "b"), {"a": 0.4}, (0.373, 0.416))]

    api = types.ModuleType("openjepa.api")
    api.evaluate = evaluate
    monkeypatch.setitem(sys.modules, "openjepa.api", api)
    monkeypatch.setattr(openjepa, "api", api, raising=False)
    return seen


def test_knn_table_and_json(calls, capsys, tmp_path):
    out = tmp_path / "scores.json"
    words = ["evaluate", "knn", "--model", "runs/x", "--train", "a b", "--val", "v", "--k", "7", "--json", str(out)]
    assert main([*words, "--no-baselines", "--cache", str(tmp_path)]) == 0
    what, options = calls[0]
    assert what == "knn"
    assert (options["model"], options["train"], options["val"], options["k"]) == ("runs/x", "a b", "v", (7,))
    assert options["baselines"] is False
    text = capsys.readouterr().out
    assert "39.4 %" in text
    assert "37.3–41.6" in text
    assert "metric=cosine, k=(7,)" in text
    from openjepa.evaluation import read_scores

    assert read_scores(out)[0].value == 0.394


def test_linear_has_no_k(calls, capsys):
    assert main(["evaluate", "linear", "--model", "m", "--train", "t", "--val", "v", "--layers", "last4"]) == 0
    assert "k" not in calls[0][1]
    assert calls[0][1]["layers"] == "last4"
    assert main(["evaluate", "linear", "--model", "m", "--train", "t", "--val", "v", "--layers", "last5"]) == 2
    assert "last5" in capsys.readouterr().err


def test_help_imports_no_torch():
    code = (
        "import sys; from openjepa.cli import main; code = main(['evaluate', 'knn', '--help']);"
        "sys.exit(code or ('torch' in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "--baselines" in done.stdout


@pytest.mark.parametrize(
    ("device", "words"),
    [
        ("gpu", "'gpu' is none of auto, cpu, cuda, cuda:N, mps"),
        ("cuda:99", "'cuda:99' is not there"),
        ("cpu:x", "none"),
    ],
)
def test_a_device_that_is_not_there_is_one_line(device, words):
    from openjepa.errors import ConfigError
    from openjepa.judging import choose_device

    assert choose_device("cpu") == "cpu"
    with pytest.raises(ConfigError, match=words):
        choose_device(device)
