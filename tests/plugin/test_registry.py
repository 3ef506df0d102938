"""Finding rewards, checking their keywords, and saying what is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cib_rl.plugin import PluginError, describe_rewards

SHORT = '''
@reward("short_answer", kind="shaping")
def short(trajectories, *, limit: int = 20, context=None):
    """1 if it is short.

    More about it.
    """
    return [float(limit)] * len(trajectories)
'''


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Installs a small distribution with the given modules and entry points on the import path."""

    def install(points: dict[str, str], **modules: str) -> None:
        site = tmp_path / "site"
        for name, source in modules.items():
            site.mkdir(exist_ok=True)
            (site / f"{name}.py").write_text("from cib_rl.plugin import reward\n" + source)
            monkeypatch.delitem(sys.modules, name, raising=False)
        info = site / "other_rewards-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other-rewards\nVersion: 1.0\n")
        lines = "\n".join(f"{name} = {value}" for name, value in points.items())
        (info / "entry_points.txt").write_text(f"[cib_rl.rewards]\n{lines}\n")
        monkeypatch.syspath_prepend(str(site))

    return install


def test_a_built_in_is_found_by_name(suite):
    assert suite({"name": "math_correct"}).names == ["math_correct"]


def test_a_path_is_relative_to_the_recipe_and_names_attribute_or_reward(suite, plugin, trajectory):
    plugin(SHORT)
    for name in ("mine.py:short", "mine.py:short_answer", "./mine.py:short", "mine.py"):
        one = suite({"name": name, "limit": 3})
        assert one.names == ["short_answer"]
        assert one.score([trajectory()]).values["short_answer"].tolist() == [3.0]


def test_a_changed_plugin_file_is_read_again(suite, plugin, trajectory):
    plugin(SHORT)
    suite({"name": "mine.py:short"})
    plugin(SHORT.replace("float(limit)", "7.0"))
    assert suite({"name": "mine.py:short"}).score([trajectory()]).total.tolist() == [7.0]


def test_a_module_path_is_found(suite, package, trajectory):
    package({}, far_away=SHORT)
    assert suite({"name": "far_away:short"}).score([trajectory()]).total.tolist() == [20.0]


def test_an_entry_point_is_found_and_described_without_importing_it(suite, package, trajectory):
    package({"other": "heavy_module:short"}, heavy_module="import sys\n" + SHORT)
    described = {d.name: d for d in describe_rewards()}["other"]
    assert (described.kind, described.summary) == ("shaping", "1 if it is short.")
    assert described.signature == "short(limit: int = 20)"
    assert "heavy_module" not in sys.modules
    assert suite({"name": "other"}).score([trajectory()]).total.tolist() == [20.0]


def test_an_entry_point_that_does_not_import_is_named(suite, package):
    package({"broken": "broken_module:short"}, broken_module="import not_installed_anywhere\n")
    with pytest.raises(PluginError, match=r"entry point broken = broken_module:short of other-rewards.*not_installed"):
        suite({"name": "broken"})


def test_a_name_used_twice_is_refused(suite, package):
    package({"math_correct": "far_off:short"}, far_off=SHORT)
    with pytest.raises(PluginError, match="several rewards are named 'math_correct'"):
        suite({"name": "math_correct"})


def test_an_unknown_name_gets_the_nearest(suite):
    with pytest.raises(PluginError, match=r"no reward is named 'math_corect' \(did you mean 'math_correct'\?\)"):
        suite({"name": "math_corect"})


@pytest.mark.parametrize(
    "name, message",
    [
        ("absent.py:short", "no plugin file .*absent.py"),
        ("mine.py:shrt", r"no reward 'shrt' \(did you mean 'short'\?\)"),
        ("no_such_module_here:short", "no_such_module_here cannot be imported: ModuleNotFoundError"),
        ("mine.py:NUMBER", "is a int, not a function or class"),
    ],
)
def test_a_plugin_that_is_not_there_is_an_error(suite, plugin, name, message):
    plugin(SHORT + "\nNUMBER = 3\n")
    with pytest.raises(PluginError, match=message):
        suite({"name": name})


def test_a_syntax_error_names_file_and_line(suite, plugin):
    plugin("def broken(:\n    pass\n")
    with pytest.raises(PluginError, match=r"mine\.py:2: syntax error"):
        suite({"name": "mine.py:broken"})


def test_an_exception_at_import_names_file_and_line(suite, plugin):
    plugin("x = 1\ny = x / 0\n")
    with pytest.raises(PluginError, match=r"ZeroDivisionError.*mine\.py:3"):
        suite({"name": "mine.py:y"})


@pytest.mark.parametrize(
    "keywords, message",
    [
        (
            {"limt": 3},
            r"no keyword 'limt' \(did you mean 'limit'\?\); its signature is short_answer\(limit: int = 20\)",
        ),
        ({"limit": "many"}, r"limit: 'many': .*valid integer.*short_answer\(limit: int = 20\)"),
        ({"context": 3}, "no keyword 'context'"),
    ],
)
def test_a_wrong_keyword_shows_the_signature(suite, plugin, keywords, message):
    plugin(SHORT)
    with pytest.raises(PluginError, match=message):
        suite({"name": "mine.py:short"} | keywords)


def test_a_missing_keyword_of_a_class_shows_the_signature(suite, plugin):
    plugin(
        '@reward("c", kind="outcome")\nclass C:\n    def __init__(self, *, size: int): ...\n'
        "    def __call__(self, ts): return [0.0] * len(ts)\n"
    )
    with pytest.raises(PluginError, match=r"needs the keyword 'size'; its signature is c\(size: int\)"):
        suite({"name": "mine.py:C"})


@pytest.mark.parametrize(
    "body",
    [
        "def __call__(self, ts): return [1.0] * len(ts)",
        "def __call__(self, *args, **kw): return [1.0] * len(args[0])",
        "def __call__(self, ts, scale=1.0): return [scale] * len(ts)",
        "@staticmethod\n    def __call__(ts): return [1.0] * len(ts)",
        "@classmethod\n    def __call__(cls, ts): return [1.0] * len(ts)",
        "__call__ = functools.partialmethod(lambda self, x, ts: [x] * len(ts), 1.0)",
    ],
)
def test_a_class_that_can_be_called_with_trajectories_is_taken(suite, plugin, trajectory, body):
    plugin(f"import functools\nclass C:\n    {body}\n")
    assert suite({"name": "mine.py:C", "kind": "outcome"}).score([trajectory()]).total.tolist() == [1.0]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("pass", r"reward 'C': the class C has no __call__\(self, trajectories\)"),
        ("def __call__(self): ...", r"'C' is called as \(trajectories\), which C.__call__\(\) does not take"),
        ("def __call__(self, ts, golds): ...", r"which C.__call__\(ts, golds\) does not take"),
    ],
)
def test_a_class_that_cannot_be_called_with_trajectories_is_not_built(suite, plugin, body, message):
    plugin(f"class C:\n    def __init__(self): raise AssertionError('built')\n    {body}\n")
    with pytest.raises(PluginError, match=message):
        suite({"name": "mine.py:C", "kind": "outcome"})


def test_numbers_that_yaml_reads_as_text_are_converted(suite, plugin, trajectory):
    plugin('@reward("f", kind="shaping")\ndef f(ts, *, scale: float): return [scale] * len(ts)\n')
    assert suite({"name": "mine.py:f", "scale": "1e-4"}).score([trajectory()]).total.tolist() == [1e-4]


def test_the_context_is_given_to_functions_and_classes_that_ask(suite, plugin, trajectory):
    plugin(
        '@reward("f", kind="shaping")\ndef f(ts, *, context): return [float(context.seed)] * len(ts)\n'
        '@reward("c", kind="shaping")\nclass C:\n    def __init__(self, context): self.seed = context.seed\n'
        "    def __call__(self, ts): return [2.0 * self.seed] * len(ts)\n"
    )
    scores = suite({"name": "mine.py:f"}, {"name": "mine.py:c"}, seed=11).score([trajectory()])
    assert scores.values["f"].tolist() == [11.0] and scores.values["c"].tolist() == [22.0]


def test_an_undeclared_function_needs_a_kind(suite, plugin, trajectory):
    plugin("def bare(trajectories): return [1.0] * len(trajectories)\n")
    with pytest.raises(PluginError, match="kind: outcome"):
        suite({"name": "mine.py:bare"})
    assert suite({"name": "mine.py:bare", "kind": "outcome"}).score([trajectory()]).correct.tolist() == [True]


def test_a_keyword_that_the_recipe_keeps_for_itself_is_refused(suite, plugin):
    plugin('@reward("f", kind="shaping")\ndef f(ts, *, weight: float = 1.0): return [weight] * len(ts)\n')
    with pytest.raises(PluginError, match="keyword 'weight', which the recipe keeps"):
        suite({"name": "mine.py:f"})


def test_limits_in_annotations_are_checked_when_the_suite_is_built(suite, plugin):
    plugin(
        "from pydantic import PositiveInt\n"
        '@reward("f", kind="shaping")\ndef f(ts, *, limit: PositiveInt = 1): return [0.0] * len(ts)\n'
    )
    with pytest.raises(PluginError, match=r"'f': limit: 0: .*greater than 0; its signature is f\(limit: "):
        suite({"name": "mine.py:f", "limit": 0})
    suite({"name": "mine.py:f", "limit": 3})


def test_listing_rewards_imports_no_heavy_module():
    code = (
        "import sys, json; from cib_rl.plugin import describe_rewards; found = describe_rewards(); "
        "print(json.dumps([[d.name, d.kind, d.summary, d.signature] for d in found])); "
        "assert not {'torch', 'transformers', 'trl', 'math_verify', 'sympy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    found = {name: (kind, summary, signature) for name, kind, summary, signature in json.loads(done.stdout)}
    assert found["math_correct"][0] == "outcome"
    assert "timeout: float" in found["math_correct"][2]
    assert all(summary for _, summary, _ in found.values()), "every built-in reward has a docstring"


@pytest.mark.parametrize(
    ("source", "reason"),
    [("def f(:\n", "syntax error"), ("x = '\0'\n", "null bytes")],
)
def test_an_entry_point_that_cannot_be_read_is_listed_with_the_reason(package, source, reason):
    package({"other": "fine_module:short", "broken": "bad_module:f"}, fine_module=SHORT, bad_module=source)
    described = {d.name: d for d in describe_rewards()}
    assert described["other"].kind == "shaping" and described["math_correct"].kind == "outcome"
    summary = described["broken"].summary
    assert "unreadable: entry point broken = bad_module:f of other-rewards" in summary and reason in summary


def test_an_entry_point_in_a_package_that_does_not_import_says_so(package):
    package({"broken": "bad_package.part:f"}, bad_package="raise RuntimeError('no GPU here')\n")
    (found,) = [d for d in describe_rewards() if d.name == "broken"]
    assert "unreadable" in found.summary and "RuntimeError: no GPU here" in found.summary


def test_an_unknown_prior_gets_the_nearest(suite):
    with pytest.raises(PluginError, match=r"no prior is named 'laplas' \(did you mean 'laplace'\?\); known: language_"):
        suite({"name": "surprisal", "prior": {"name": "laplas"}})
