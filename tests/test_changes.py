"""Changes in the history: planted slow-downs are found, noise is not."""

import json
import random
import subprocess

import pytest

pytest.importorskip("asv")

from benchmarks import changes, dashboard

COMMITS = 30


def measured(seed, noise, since=COMMITS, factor=1.0):
    """The times of a benchmark over many commits; from one on it takes `factor` times as long."""
    rng = random.Random(seed)
    return [1e-4 * rng.lognormvariate(0, noise) * (factor if at >= since else 1) for at in range(COMMITS)]


@pytest.mark.parametrize("noise", [0.01, 0.02, 0.03])
@pytest.mark.parametrize("newer", [2, 3, 12])
def test_every_planted_slow_down_is_found(noise, newer):
    for seed in range(20):
        since = COMMITS - newer
        found = [at for at, factor in changes.steps(measured(seed, noise, since, 1.2)) if factor > 1]
        assert any(abs(at - since) <= 1 for at in found), seed


@pytest.mark.parametrize("run", range(10))
def test_a_quiet_run_raises_no_alarm(run):
    for series in range(10):
        assert changes.steps(measured(100 * run + series, 0.03)) == []


def test_steps_up_and_down_have_their_factors():
    assert changes.steps([5, 5, 5, 1, 1, 1, 1.2, 1.2]) == [(3, 0.2), (6, 1.2)]


def test_one_outlier_is_no_step():
    assert changes.steps([1, 1, 1, 1.5, 1, 1, 1]) == []


def test_a_short_or_constant_series_has_no_steps():
    assert changes.steps([]) == changes.steps([1, 2, 3]) == changes.steps([1.0] * 9) == []


@pytest.fixture
def history(tmp_path):
    """A repository of eight commits and asv's results of seven, in which one row became slower at the sixth."""

    def git(*arguments):
        who = ("-c", "user.name=someone", "-c", "user.email=someone@example.org")
        done = subprocess.run(["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    git("init", "--quiet")
    results = tmp_path / dashboard.HISTORY
    (results / "vm").mkdir(parents=True)
    params = [["'numba'"], ["'2x2'", "'3x3'"]]
    described = {
        "suite.pool.time_call": {"name": "suite.pool.time_call", "params": params, "version": "1"},
        "version": 2,
    }
    (results / "benchmarks.json").write_text(json.dumps(described), encoding="utf-8")
    (results / "vm" / "machine.json").write_text(json.dumps({"machine": "vm", "version": 1}), encoding="utf-8")
    commits = []
    for at in range(8):
        git("commit", "--quiet", "--allow-empty", "--message", f"change {at} | of a kernel")
        commits.append(git("rev-parse", "HEAD"))
        if at == 4:
            continue
        stored = {
            "commit_hash": commits[-1],
            "env_name": "env",
            "date": 0,
            "params": {"machine": "vm", "python": "3.12"},
            "python": "3.12",
            "requirements": {},
            "env_vars": {},
            "result_columns": ["result", "params", "version"],
            "results": {"suite.pool.time_call": [[1e-3, 2e-3 if at < 5 else 3e-3], params, "1"]},
            "durations": {},
            "version": 2,
        }
        (results / "vm" / f"{commits[-1][:8]}-env.json").write_text(json.dumps(stored), encoding="utf-8")
    return tmp_path, commits


def test_a_step_names_its_commit_and_those_that_were_not_measured(history):
    folder, commits = history
    (step,) = changes.found_steps(folder / dashboard.HISTORY, folder)
    assert step.commit == commits[5]
    assert step.between == 1
    assert step.factor == 1.5
    assert step.age == 2
    assert step.benchmark == "suite.pool.time_call('numba', '3x3')"


def test_the_exit_status_tells_of_the_newest_commits(history, monkeypatch, capsys):
    folder, commits = history
    monkeypatch.setattr(dashboard, "HERE", folder)
    assert changes.main(["--newest", "2"]) == 0
    assert "1.50x" in capsys.readouterr().out
    assert changes.main(["--newest", "2", "--slower"]) == 0
    assert capsys.readouterr().out == ""
    assert changes.main(["--slower", "--markdown"]) == 1
    first, line, row = capsys.readouterr().out.strip().split("\n")
    assert first.count("|") == line.count("|")
    assert row.startswith(f"| {commits[5][:8]} or one of 1 before | change 5 \\| of a kernel | `suite.pool.time_call(")
    assert row.endswith("| vm | 1.50x |")


def test_a_slow_down_that_was_repaired_is_no_alarm(history, monkeypatch, capsys):
    folder, _ = history
    monkeypatch.setattr(dashboard, "HERE", folder)
    for path in dashboard.result_files(folder / dashboard.HISTORY):
        stored = json.loads(path.read_text(encoding="utf-8"))
        stored["results"]["suite.pool.time_call"][0][1] = 2e-3
        path.write_text(json.dumps(stored), encoding="utf-8")
    assert changes.main([]) == 0
    assert capsys.readouterr().out == ""
