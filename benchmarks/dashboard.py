"""The pages of asv over the kept history: python -m benchmarks.dashboard, or make dashboard.

Publishes asv's static site from the results in `benchmarks/history`, which are committed, and from those that were
measured in this checkout, and serves it. With --commits it first runs the suite over the last commits that build.

asv's pages load scripts from several hosts; here the same scripts come from npm packages (`benchmarks/pages`, pinned)
and are copied next to the pages with their licences, so that these work without a network. A click on a point opens the
page of its commit.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from html import escape
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import zip_longest
from pathlib import Path

HERE = Path(__file__).resolve().parent
PACKAGES = HERE / "pages"
SCRIPTS, COMMITS = "scripts", "commit"
# Folders of results, each as asv writes it, relative to the folder of benchmarks.
HISTORY, SCRATCH, PUBLISHED = "history", ".asv/results", ".asv/published"

# Each file that asv's page loads from another host: its name there, and its path in the npm packages.
LOCAL = {
    "jquery-3.3.1.min.js": "jquery/dist/jquery.min.js",
    "jquery.flot.min.js": "flot/jquery.flot.js",
    "jquery.flot.time.min.js": "flot/jquery.flot.time.js",
    "jquery.flot.selection.min.js": "flot/jquery.flot.selection.js",
    "jquery.flot.categories.min.js": "flot/jquery.flot.categories.js",
    "jquery.flot.orderBars.js": "flot-orderbars/js/jquery.flot.orderBars.js",
    "stupidtable.min.js": "stupid-table-plugin/stupidtable.min.js",
    "md5.min.js": "blueimp-md5/js/md5.min.js",
    "bootstrap.min.js": "bootstrap/dist/js/bootstrap.min.js",
    "bootstrap.min.css": "bootstrap/dist/css/bootstrap.min.css",
}
ALSO_COPIED = ("LICENSE*", "README*", "package.json", "dist/fonts/*")
OTHER_HOST = re.compile(
    r'<(?P<tag>script|link)\b[^>]*?\b(?P<attribute>src|href)="(?:https?:)?//[^"]*/(?P<name>[^"/]+)"[^>]*>'
)

_COMMIT = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark"><title>{short} {subject}</title>
<style>body {{ font: 16px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 60em; padding: 0 1em }}
pre {{ overflow-x: auto; font-size: 13px }}</style>
<h1>{subject}</h1>
<p>Commit <code>{commit}</code>, {date}</p>
<pre>{body}</pre>
<h2>Changes</h2>
<pre>{changes}</pre>
</html>
"""


def git(*arguments: str, repository: Path) -> str:
    done = subprocess.run(["git", *arguments], cwd=repository, check=True, stdout=subprocess.PIPE)
    return done.stdout.decode("utf-8", errors="replace")


def asv(folder: Path, *arguments: str, env: Mapping[str, str] | None = None, **folders: Path) -> int:
    """Run asv on the configuration in a folder, with other folders in it if they are given; its exit status."""
    from asv.util import load_json

    settings = load_json(folder / "asv.conf.json", js_comments=True)
    for name in ("repo", "benchmark_dir", "env_dir", "results_dir", "html_dir"):
        settings[name] = str(folders.get(name, folder / settings[name]))
    config = folder / ".asv" / "asv.conf.json"
    _write(config, settings)
    return subprocess.run([sys.executable, "-m", "asv", *arguments, "--config", config], cwd=folder, env=env).returncode


def register_machine(name: str | None = None) -> str:
    """Tell asv what this machine is, under a name or the host's; return the name.

    asv draws a curve for each machine and each of its properties. So the version of the system is left out, since every
    update changes it, and the memory is rounded.
    """
    from asv.machine import Machine, MachineCollection

    found = Machine.get_defaults()
    name, ram = name or found["machine"], found["ram"] and f"{int(found['ram']) / 2**30:.0f} GB"
    MachineCollection.save(name, {**found, "machine": name, "os": platform.system(), "ram": ram})
    return name


def result_files(results: Path, machine: str = "*") -> list[Path]:
    """The files in a folder of asv's results that hold figures, one for each commit and environment."""
    return sorted(path for path in results.glob(f"{machine}/*.json") if path.name != "machine.json")


def measured(results: Path, machine: str, commit: str) -> bool:
    """Whether any figure of a commit is stored."""
    stored = [json.loads(path.read_text(encoding="utf-8")) for path in result_files(results, machine)]
    values = (row[0] for one in stored if one["commit_hash"] == commit for row in one["results"].values() if row)
    return any(value is not None for some in values if some for value in some)


def merge(sources: Sequence[Path], target: Path) -> None:
    """Add folders of asv's results to another one. Where two have the same figure of a commit, the last is taken."""
    for path in (path for source in sources for path in (*source.glob("*/machine.json"), *result_files(source))):
        added = json.loads(path.read_text(encoding="utf-8"))
        file = target / path.parent.name / path.name
        if file.exists() and "results" in added:
            kept = json.loads(file.read_text(encoding="utf-8"))
            if kept["result_columns"] == added["result_columns"]:
                both = kept["results"].keys() & added["results"].keys()
                joined = {name: _joined(kept["results"][name], added["results"][name]) for name in both}
                added["results"] = {**kept["results"], **added["results"], **joined}
        _write(file, added)
    # What the benchmarks are: as the suite that ran last says.
    described = [path for folder in (*sources, target) if (path := folder / "benchmarks.json").exists()]
    described.sort(key=lambda path: path.stat().st_mtime_ns)
    names = {k: v for path in described for k, v in json.loads(path.read_text(encoding="utf-8")).items()}
    _write(target / "benchmarks.json", names)


def _joined(kept: list, added: list) -> list:
    """One benchmark's columns in two files: for each combination of parameters those of `added`, if it was measured."""
    if kept[1:3] != added[1:3] or not kept[0] or not added[0]:  # other parameters, another version, no figures
        return added if added[0] else kept
    count = len(added[0])

    def join(old: object, new: object) -> object:
        if not isinstance(new or old, list) or len(new or old) != count:
            return new
        old, new = old or [None] * count, new or [None] * count
        return [o if figure is None else n for o, n, figure in zip(old, new, added[0], strict=True)]

    return [join(old, new) for old, new in zip_longest(kept, added)]


def _write(file: Path, content: dict) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, separators=(",", ":")) + "\n", encoding="utf-8")


def gather(folder: Path, *more: Path) -> Path:
    """A folder with the results of the committed history, of this checkout's own measurements, and of more folders."""
    target = folder / PUBLISHED
    shutil.rmtree(target, ignore_errors=True)
    merge([folder / HISTORY, folder / SCRATCH, *more], target)
    return target


def run(folder: Path, results: Path, machine: str, number: int, options: Sequence[str]) -> list[str]:
    """Run the suite over the last commits, newest first, until so many have built, or four times as many were tried."""
    built: list[str] = []
    for commit in git("rev-list", "--first-parent", f"--max-count={4 * number}", "HEAD", repository=folder).split():
        if len(built) == number:
            break
        chosen = ("--skip-existing-commits", "--machine", machine, *options)
        asv(folder, "run", f"{commit}^!", *chosen, results_dir=results)
        if measured(results, machine, commit):
            built.append(commit)
    return built


def packages(folder: Path) -> Path:
    """The npm packages, installed into a folder; npm holds each against its checksum in the lock file."""
    if shutil.which("npm") is None:
        sys.exit("npm is needed to fetch the scripts of the pages: install Node.js")
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copy(PACKAGES / name, folder)
    quiet = ("--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
    subprocess.run(["npm", "ci", *quiet], cwd=folder, check=True)
    return folder / "node_modules"


def make_local(html: Path, node_modules: Path) -> None:
    """Copy the scripts that the pages load from other hosts next to the pages, with their licences.

    Raises
    ------
    ValueError
        If a page loads a file that LOCAL does not know, as after an update of asv.
    """
    for file in LOCAL.values():
        package, _, within = file.partition("/")
        for path in {found for pattern in (within, *ALSO_COPIED) for found in (node_modules / package).glob(pattern)}:
            target = html / SCRIPTS / path.relative_to(node_modules)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)

    def tag(found: re.Match[str]) -> str:
        if found["name"] not in LOCAL:
            raise ValueError(
                f"asv's page loads {found[0]}, which benchmarks/dashboard.py has no copy of: add it to LOCAL"
            )
        local = f'{found["attribute"]}="{SCRIPTS}/{LOCAL[found["name"]]}"'
        return (
            f'<link rel="stylesheet" {local}>'
            if found["tag"] == "link"
            else f'<script {local} onerror="js_load_failure()">'
        )

    index = html / "index.html"
    index.write_text(OTHER_HOST.sub(tag, index.read_text(encoding="utf-8")), encoding="utf-8")


def write_commits(html: Path, repository: Path) -> None:
    """Write a page for each commit of the graphs, at the address that a click on its point opens."""
    index = json.loads((html / "index.json").read_text(encoding="utf-8"))
    for commit in index["revision_to_hash"].values():
        subject, date, body = git("show", "-s", "--format=%s%x00%cs%x00%b", commit, repository=repository).split("\0")
        short = commit[: index["hash_length"]]
        page = html / COMMITS / short / "index.html"
        page.parent.mkdir(parents=True, exist_ok=True)
        shown = {
            "commit": commit,
            "short": short,
            "subject": subject,
            "date": date,
            "body": body.strip(),
            "changes": git("show", "--format=", "--stat", "--patch", commit, repository=repository),
        }
        page.write_text(_COMMIT.format_map({k: escape(v) for k, v in shown.items()}), encoding="utf-8")


def publish(folder: Path, *more: Path) -> Path:
    """Make asv's site from the results that `gather` finds, so that it works offline; return its folder."""
    if asv(folder, "publish", "HEAD", "--no-pull", results_dir=gather(folder, *more)):
        sys.exit("asv publish failed")
    html = folder / ".asv" / "html"
    make_local(html, packages(folder / ".asv" / "npm"))
    write_commits(html, folder)
    return html


def serve(html: Path, port: int) -> ThreadingHTTPServer:
    """A server of the pages, reachable only from this machine."""
    return ThreadingHTTPServer(("127.0.0.1", port), partial(SimpleHTTPRequestHandler, directory=html))


def main(argv: Sequence[str] | None = None) -> int:
    """Measure if asked, publish and serve."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dashboard", description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--commits", type=int, default=0, metavar="N", help="first measure the last N commits that build")
    add("--bench", action="append", default=[], metavar="REGEX", help="only these benchmarks; may be repeated")
    add("--machine", metavar="NAME", help="store the figures under this name instead of the host's")
    text = "store the figures in this folder, which is shown too (default benchmarks/history, to be committed)"
    add("--keep", nargs="?", type=Path, const=HERE / HISTORY, metavar="FOLDER", help=text)
    add("--no-serve", action="store_true", help="exit when the pages are made")
    add("--port", type=int, default=8080, help="port (default 8080; 0 takes a free one)")
    args = parser.parse_args(argv)
    kept = args.keep.absolute() if args.keep else None
    if args.commits:
        options = [word for regex in args.bench for word in ("--bench", regex)]
        built = run(HERE, kept or HERE / SCRATCH, register_machine(args.machine), args.commits, options)
        if not built:
            sys.exit("no commit could be built and measured; see asv's output above")
        print(f"measured: {', '.join(commit[:8] for commit in built)}")
    html = publish(HERE, *([kept] if kept else []))
    print(f"the pages are in {html}")
    if not args.no_serve:
        with serve(html, args.port) as server:
            print(f"http://127.0.0.1:{server.server_port}/ until Ctrl-C")
            try:
                server.serve_forever()
            except KeyboardInterrupt:
                print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
