"""The history of the milestones, of a repository whose package is one number."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import dashboard, milestones

ROOT = Path(__file__).resolve().parent.parent
SUITE = """
import fastpool

version = "1"


def track_number():
    return fastpool.NUMBER
"""


def git(*arguments, cwd=ROOT):
    who = ("-c", "user.name=someone", "-c", "user.email=someone@example.org")
    done = subprocess.run(["git", *who, *arguments], cwd=cwd, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a checkout")
def test_milestones_are_commits_of_the_history_in_its_order():
    if git("rev-parse", "--is-shallow-repository") == "true":
        pytest.skip("the checkout has not the whole history")
    commits = git("rev-list", "--first-parent", "--reverse", "HEAD").split()
    places = [[each[:7] for each in commits].index(milestone) for milestone in milestones.MILESTONES]
    assert places == sorted(places)
    assert len(places) >= 24


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """Of three commits, the second of which cannot be imported."""
    pytest.importorskip("asv")
    pytest.importorskip("numba")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    folder = tmp_path / "repository" / "benchmarks"
    folder.mkdir(parents=True)
    package = folder.parent / "fastpool"
    package.mkdir()
    git("init", "--quiet", cwd=folder.parent)
    commits = []
    for text in ("NUMBER = 1", "import fastpool.missing", "NUMBER = 3"):
        (package / "__init__.py").write_text(text, encoding="utf-8")
        git("add", "fastpool", cwd=folder.parent)
        git("commit", "--quiet", "--message", text, cwd=folder)
        commits.append(git("rev-parse", "HEAD", cwd=folder))
    shutil.copy(ROOT / "benchmarks" / "asv.conf.json", folder)
    (folder / "suite.py").write_text(SUITE, encoding="utf-8")
    monkeypatch.setattr(dashboard, "HERE", folder)
    monkeypatch.setattr(milestones, "MILESTONES", dict.fromkeys(commits, "a reason"))
    return folder, commits


@pytest.mark.slow
def test_figures_are_kept_under_commit_machine_and_environment(repository, capfd):
    folder, commits = repository
    assert milestones.main(["--machine", "vm", "--bench", "track"]) == 1
    printed = capfd.readouterr()
    assert f"{commits[1]} does not build or import" in printed.err
    assert "No module named 'fastpool.missing'" in printed.err
    stored = {}
    for path in dashboard.result_files(folder / dashboard.HISTORY, "vm"):
        found = json.loads(path.read_text(encoding="utf-8"))
        stored[found["commit_hash"]] = found["results"]["suite.track_number"][0]
        assert path.name == f"{found['commit_hash'][:8]}-{found['env_name']}.json"
        assert found["env_name"].startswith("existing-py3.")
        assert os.sep not in found["env_name"]
        assert found["params"]["machine"] == "vm"
        assert found["params"]["python"] == found["python"] == f"3.{sys.version_info.minor}"
        assert found["params"]["numba"] == found["requirements"]["numba"] == ""
    assert stored == {commits[0]: [1], commits[2]: [3]}
    assert git("worktree", "list", cwd=folder).count("\n") == 0

    assert milestones.main(["--machine", "vm", "--bench", "track"]) == 1
    assert commits[0] not in capfd.readouterr().out  # it has figures


def test_a_check_measures_nothing(repository, capfd):
    folder, commits = repository
    assert milestones.main(["--check", commits[0]]) == 0
    assert milestones.main(["--check"]) == 1
    assert f"not measured: {commits[1]}" in capfd.readouterr().err
    assert not (folder / dashboard.HISTORY).exists()
