"""The command line: every verb answers, mistakes are one message with exit code 2, Ctrl-C is 130."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import cib_rl
from cib_rl.cli import app, main
from cib_rl.errors import UserError
from tests.samples.files import word_rows, write_lines

VERBS = [
    [], ["quickstart"], ["train"], ["sweep"], ["sft"], ["eval"], ["rewards"], ["rewards", "show"], ["rewards", "try"],
    ["audit"], ["doctor"], ["retriever"], ["retriever", "build"], ["retriever", "query"], ["retriever", "serve"],
    ["recipes"], ["recipes", "list"], ["recipes", "show"], ["recipes", "diff"],
    ["recipes", "copy"],
]  # fmt: skip

HEAVY = {"torch", "transformers", "trl", "vllm", "datasets", "numpy", "matplotlib", "bm25s", "httpx", "fastapi"}


def run(*arguments: str):
    return CliRunner().invoke(app, list(arguments))


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_help_needs_nothing_heavy(verb):
    """What would make `--help` slow is an import; times depend on the machine, imports do not."""
    code = (
        "import sys\nfrom cib_rl.cli import app\n"
        f"try:\n    app({[*verb, '--help']!r})\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        f"heavy = sorted({HEAVY!r} & set(sys.modules))\nassert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Usage:" in done.stdout


def test_importing_the_package_needs_nothing_heavy():
    code = f"import sys, cib_rl; cib_rl.__version__; assert not {HEAVY!r} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_public_names_exist():
    assert all(getattr(cib_rl, name) is not None for name in cib_rl.__all__)
    assert cib_rl.Recipe.__name__ == "Recipe" and callable(cib_rl.reward("name", kind="shaping"))
    with pytest.raises(AttributeError):
        _ = cib_rl.nothing_of_this_name


def test_version():
    assert run("--version").output.strip() == f"cib-rl {cib_rl.__version__}"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "quickstrt"], "Did you mean 'quickstart'?"),
        (["train"], "needs a RECIPE"),
        (["train", "quickstart", "--set", "trainer.stps=3"], "did you mean `steps`?"),
        (["train", "quickstart", "--set", "trainer.steps"], "KEY=VALUE"),
        (["train", "--resume", "/nowhere"], "not a run folder"),
        (["train", "launch/zero2.yaml"], "configuration of accelerate"),
        (["recipes", "show", "nope"], "no recipe 'nope'"),
        (["rewards", "countdown_corect"], "did you mean 'countdown_correct'?"),
        (["rewards", "laplas"], "did you mean 'laplace'?"),
        (["sweep", "quickstart", "--grid", "seed"], "KEY=VALUE"),
        (["doctor", "--require", "nope"], "unknown"),
        (["train", "warmstart"], "cib-rl sft warmstart"),
        (["sft", "warmstart", "--set", "models.policy.stps=3"], "did you mean `steps`?"),
        (["sft", "warmstart", "--set", "models.policy.shape.layers=x"], "`models.policy.shape.layers` must be a whole"),
        (["sft", "warmstart", "--set", "models.policy.countdown.nubmers=4"], "did you mean `numbers`?"),
        (["sft", "quickstart"], "cib-rl train quickstart"),
        (["recipes", "copy", "launch/zero2"], "launch/zero2.json, launch/zero2.yaml"),
        (["eval", "/nowhere", "--benchmark", "countdown", "--environment", "suffix"], "--environment suffix: expected"),
        (["eval", "/nowhere", "--benchmark", "countdown", "--engine-option", "a: b"], "--engine-option a: b: expected"),
        (["eval", "/nowhere", "--benchmark", "countdown", "--compare", "/nowhere"], "no evaluation result"),
        (["audit", "/nowhere", "--columns", "completion"], "--columns completion: expected KEY=VALUE, for example"),
        (["eval", "/nowhere", "--benchmark", "countdwn"], "Did you mean 'countdown'?"),
        (["eval", "/nowhere", "--benchmark", "countdown"], "/nowhere"),
    ],
)
def test_a_mistake_is_one_message_without_a_traceback(arguments, words):
    done = run(*arguments)
    assert done.exit_code == 2
    assert done.stderr.startswith("error: ") and words in done.stderr
    assert "Traceback" not in done.stderr and done.stdout == ""


def test_an_unknown_option_or_verb_is_an_error():
    assert run("train", "--nope").exit_code == 2
    assert run("nope").exit_code == 2


def test_overrides_without_their_option_are_told_of_it():
    done = run("train", "quickstart", "trainer.steps=3")
    assert done.exit_code == 2 and "(trainer.steps=3); a key of a recipe is set with --set KEY=VALUE" in done.stderr
    assert "--set" not in run("train", "quickstart", "more").stderr


def test_a_bug_is_not_dressed_up_as_a_users_mistake(monkeypatch):
    monkeypatch.setattr("cib_rl.recipe_io.list_recipes", lambda: 1 / 0)
    assert isinstance(run("recipes", "list").exception, ZeroDivisionError)


def test_interrupting_exits_with_130(monkeypatch):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr("cib_rl.recipe_io.list_recipes", interrupted)
    assert run("recipes", "list").exit_code == 130


def test_errors_deep_inside_a_command_are_shown_too(monkeypatch):
    def wrong():
        raise UserError("the disk is full")

    monkeypatch.setattr("cib_rl.recipe_io.list_recipes", wrong)
    done = run("recipes", "list")
    assert (done.exit_code, done.stderr) == (2, "error: the disk is full\n")


def test_recipes_can_be_listed_shown_and_copied(tmp_path):
    listed = run("recipes", "list").output
    assert all(name in listed for name in ("quickstart", "math/cib_grpo_gsm8k", "math/cib_grpo_deepscaler"))
    assert "# paper" in run("recipes", "show", "math/cib_grpo_deepscaler").output
    target = tmp_path / "mine.yaml"
    assert run("recipes", "copy", "quickstart", str(target)).exit_code == 0
    before = target.read_text()
    again = run("recipes", "copy", "quickstart", str(target))
    assert again.exit_code == 2 and "exists already" in again.stderr and target.read_text() == before


def test_launch_configurations_are_listed_with_the_recipes():
    listed = run("recipes").output
    assert listed == run("recipes", "list").output
    assert "launch/zero2.json" in listed and "launch/ddp.yaml" in listed


def test_no_option_and_no_summary_of_a_command_is_cut_off_in_80_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert "--max-completion-length" in run("rewards", "try", "--help").output
    for group in ([], ["rewards"], ["recipes"]):
        assert "..." not in run(*group, "--help").output.partition("Commands:")[2]


def test_the_help_of_eval_states_the_benchmarks_own_defaults():
    from cib_rl.evals.benchmarks import get_benchmark

    words = " ".join(run("eval", "--help").output.split())
    countdown, gsm8k, math500 = shipped = [get_benchmark(name) for name in ("countdown", "gsm8k", "math500")]
    assert ", ".join(f"{b.name} {b.environment['max_completion_length']:,}" for b in shipped) in words
    for key in ("temperature", "top_p"):
        assert getattr(gsm8k, key) == getattr(math500, key)
        assert (
            f"Default: {getattr(countdown, key):g} for countdown, the recipe's, else {getattr(gsm8k, key):g}." in words
        )


def test_eval_takes_keys_below_a_key_of_the_environment(monkeypatch):
    seen = {}
    monkeypatch.setattr("cib_rl.eval_command.run_evaluation", lambda *_, **options: seen.update(options))
    from cib_rl.evals.benchmarks import get_benchmark

    done = run("eval", "m", "--benchmark", "gsm8k", "--environment", "chat_template_kwargs.enable_thinking=false")
    section = get_benchmark("gsm8k").environment_section(seen["environment"])
    assert done.exit_code == 0 and section.chat_template_kwargs == {"enable_thinking": False}


def test_eval_changes_a_key_of_the_retriever_and_leaves_its_others(monkeypatch):
    seen = {}
    monkeypatch.setattr("cib_rl.eval_command.run_evaluation", lambda *_, **options: seen.update(options))
    from cib_rl.evals.recipe_benchmark import from_recipe
    from cib_rl.recipe_io import load_recipe

    name = "search/searchr1_ppo_qwen2.5-3b"
    run("eval", "m", "--benchmark", name, "--environment", "retriever.url=http://there", "--environment", "k=5")
    section = from_recipe(load_recipe(name), name).environment_section(seen["environment"])
    assert section.kwargs["retriever"] == {"name": "remote", "url": "http://there"} and section.kwargs["k"] == 5
    run("eval", "m", "--benchmark", name, "--environment", "retriever={name: bm25, path: index}")
    section = from_recipe(load_recipe(name), name).environment_section(seen["environment"])
    assert section.kwargs["retriever"] == {"name": "bm25", "path": "index"}


def test_rewards_are_listed_with_their_first_line_and_shown_in_full():
    assert "countdown_correct" in run("rewards").output
    assert run("rewards", "list").output == run("rewards").output
    shown = run("rewards", "math_correct").output
    assert shown == run("rewards", "show", "math_correct").output
    assert shown.startswith("math_correct (outcome, from cib_rl.rewards.math_correct)")


def test_the_catalogue_of_the_page_is_printed():
    page = (Path(__file__).parents[1] / "docs" / "rewards.md").read_text(encoding="utf-8")
    catalogue = page.partition("make_rewards.py -->\n\n")[2].partition("\n<!-- end")[0]
    assert run("rewards", "--full").output == catalogue and "### laplace (prior of surprisal)" in catalogue


def test_the_priors_of_the_surprisal_reward_are_shown_with_their_keys():
    shown = run("rewards", "language_model").output
    assert "prior of surprisal" in run("rewards").output
    assert shown.startswith(
        "language_model (prior of surprisal, from cib_rl.priors.language_model)\nlanguage_model(model: "
    )
    assert "first_token: what the first token is scored after" in shown and "context: RewardContext" not in shown
    assert "laplace(target: float | str)" in run("rewards", "laplace").output


def test_train_takes_a_resumed_runs_own_recipe(monkeypatch, tmp_path):
    seen = {}
    monkeypatch.setattr("cib_rl.trainers.run.train", lambda recipe, resume: seen.update(recipe=recipe, resume=resume))
    run_folder = tmp_path / "run"
    run_folder.mkdir()
    cib_rl.recipe_io.copy_recipe("quickstart", run_folder / "recipe.yaml")
    done = run("train", "--resume", str(run_folder), "--set", "trainer.steps=77")
    assert done.exit_code == 0, done.output
    assert seen["resume"] == run_folder and seen["recipe"].trainer.steps == 77
    checkpoint = run_folder / "checkpoints" / "step-000002"
    checkpoint.mkdir(parents=True)
    assert run("train", "--resume", str(checkpoint), "--set", "trainer.steps=78").exit_code == 0
    assert seen["resume"] == checkpoint and seen["recipe"].trainer.steps == 78


def test_plot_draws_a_run_and_names_the_pictures(tmp_path):
    (tmp_path / "recipe.yaml").write_text("model: m\n")
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "accuracy": 0.5}\n{"step": 2, "accuracy": 0.75}\n')
    picture = tmp_path / "plots" / "training.png"
    assert run("plot", str(tmp_path)).output.split() == [str(picture)]
    assert picture.stat().st_size > 1000
    assert "not a run folder" in run("plot", str(tmp_path / "none")).output


def test_python_use_is_as_short(monkeypatch):
    seen = {}
    monkeypatch.setattr("cib_rl.trainers.run.train", lambda recipe, resume: seen.update(recipe=recipe, resume=resume))
    cib_rl.train("quickstart", seed=3, trainer={"steps": 20}, sets={"rewards.surprisal.weight": 0.5})
    recipe = seen["recipe"]
    assert (recipe.seed, recipe.trainer.steps, recipe.rewards[1].weight) == (3, 20, 0.5)
    cib_rl.train(recipe, sets=["trainer.steps=21"], resume="somewhere")
    assert (seen["recipe"].trainer.steps, seen["recipe"].seed, str(seen["resume"])) == (21, 3, "somewhere")


@pytest.mark.parametrize(
    "arguments",
    [
        ["rewards"],
        ["rewards", "surprisal"],
        ["rewards", "--full"],
        ["rewards", "try", "kimi_length", "--on", "FILE", "--against", "none", "--allow", "answer_only"],
        ["audit", "FILE", "--prior", "uniform"],
        ["recipes", "show", "quickstart"],
        ["audit", "no\u2009file"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_a_terminal_that_cannot_print_every_character_is_no_reason_to_stop(arguments, monkeypatch, tmp_path):
    """Not even where a completion holds half a character, which no encoding can print."""
    rows = [row | {"completion": row["completion"].replace("First", "Erst \ud83d \u2192")} for row in word_rows(3)]
    file = write_lines(tmp_path / "rows.jsonl", rows)
    said, failed = (io.TextIOWrapper(io.BytesIO(), encoding="ascii") for _ in range(2))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdout", said)
    monkeypatch.setattr(sys, "stderr", failed)
    monkeypatch.setattr(sys, "argv", ["cib-rl", *(a.replace("FILE", str(file)) for a in arguments)])
    with pytest.raises(SystemExit) as end:
        main()
    for stream in (said, failed):
        stream.flush()
    shown, error = (stream.buffer.getvalue().decode("ascii") for stream in (said, failed))
    if arguments[-1].startswith("no"):
        assert end.value.code == 2 and error == "error: no file or folder no?file\n"
    else:
        assert not end.value.code, error
        assert len(shown) > 200
