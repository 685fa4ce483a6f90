"""Counts of instructions, by programs in the place of perf and valgrind."""

import json
import sys

import pytest

from benchmarks import instructions

# Does what the named program does with the options that the module gives, at 1000 instructions a call.
FAKE = """#!{python}
import re, subprocess, sys

words = sys.argv[1:]
if {broken!r}:
    sys.exit("cannot count: no such event")
file = next(word for word in words if word.startswith(("--output=", "--log-file="))).partition("=")[2]
begin = words.index({python!r})
done = subprocess.run(words[begin:])
calls = int(words[-1]) if words[-1].isdigit() else 0
with open(file, "w") as text:
    text.write({text!r}.format(123456789 + 1000 * calls))
sys.exit(done.returncode)
"""
PERF = "# started on Saturday\n\n{};;instructions:u;500;100.00;;\n"
VALGRIND = "==7== Cachegrind\n==7== I   refs:      {:,}\n"


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Installs a program of a name that writes a count as a text."""
    monkeypatch.setenv("PATH", str(tmp_path))

    def put(name, text, broken=""):
        program = tmp_path / name
        program.write_text(FAKE.format(python=sys.executable, text=text, broken=broken), encoding="utf-8")
        program.chmod(0o755)

    return put


def test_perf_counts_where_it_can(install):
    install("perf", PERF)
    install("valgrind", VALGRIND)
    assert instructions.counter().name == "perf"


def test_valgrind_counts_where_perf_cannot(install):
    install("perf", "<not supported>;;instructions:u;0;0.00;;\n")
    install("valgrind", VALGRIND)
    assert instructions.counter().name == "valgrind"


def test_without_a_program_that_counts_the_error_says_why(install):
    install("perf", "", broken="yes")
    with pytest.raises(RuntimeError, match=r"perf counted nothing: cannot count.*valgrind is not installed"):
        instructions.counter()


@pytest.mark.parametrize(("name", "text"), [("perf", PERF), ("valgrind", VALGRIND)])
def test_the_import_is_not_counted(install, name, text, tmp_path, monkeypatch, capsys):
    install(name, text)
    monkeypatch.setattr(instructions, "CALLS", {"small": 3})
    kept = tmp_path / "counts.json"
    options = ["--size", "small", "--backend", "numpy", "--json", str(kept)]
    assert instructions.main(["^max_pool2d 2x2 s2$", *options]) == 0
    assert json.loads(kept.read_text(encoding="utf-8"))["instructions"] == {"max_pool2d 2x2 s2": 1000.0}
    assert "1,000 instructions" in capsys.readouterr().out


def test_an_unknown_case_is_reported(capsys):
    with pytest.raises(SystemExit):
        instructions.main(["no such case"])
    assert "no case has 'no such case' in its name" in capsys.readouterr().err
