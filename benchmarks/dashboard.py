"""The pages of asv over the last commits: python -m benchmarks.dashboard, or make dashboard.

Runs the suite over the last commits that build, publishes asv's static site, and serves it. asv's pages load scripts
from several hosts; here the same scripts come from npm packages (`benchmarks/pages`, pinned) and are copied next to
the pages with their licences, so that these work without a network. A click on a point opens the page of its commit.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from html import escape
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

HERE = Path(__file__).resolve().parent
PACKAGES = HERE / "pages"
SCRIPTS, COMMITS = "scripts", "commit"

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


def _git(*arguments: str, repository: Path) -> str:
    done = subprocess.run(["git", *arguments], cwd=repository, check=True, stdout=subprocess.PIPE)
    return done.stdout.decode("utf-8", errors="replace")


def _asv(folder: Path, *arguments: str) -> int:
    """Run asv on the configuration in a folder; its exit status."""
    return subprocess.run([sys.executable, "-m", "asv", *arguments], cwd=folder).returncode


def _results(folder: Path) -> Iterator[tuple[str, dict]]:
    """asv's stored results: the hash of a commit, and its results by benchmark."""
    for path in (folder / ".asv" / "results").glob("*/*.json"):
        if path.name != "machine.json":
            stored = json.loads(path.read_text(encoding="utf-8"))
            yield stored["commit_hash"], stored["results"]


def measured(folder: Path, commit: str) -> bool:
    """Whether any figure of a commit is stored."""
    values = (one[0] for stored, found in _results(folder) if stored == commit for one in found.values() if one)
    return any(value is not None for some in values if some for value in some)


def run(folder: Path, number: int, options: Sequence[str]) -> list[str]:
    """Run the suite over the last commits, newest first, until so many have built, or four times as many were tried."""
    built: list[str] = []
    for commit in _git("rev-list", "--first-parent", f"--max-count={4 * number}", "HEAD", repository=folder).split():
        if len(built) == number:
            break
        _asv(folder, "run", f"{commit}^!", "--skip-existing-commits", *options)
        if measured(folder, commit):
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
        subject, date, body = _git("show", "-s", "--format=%s%x00%cs%x00%b", commit, repository=repository).split("\0")
        short = commit[: index["hash_length"]]
        page = html / COMMITS / short / "index.html"
        page.parent.mkdir(parents=True, exist_ok=True)
        shown = {
            "commit": commit,
            "short": short,
            "subject": subject,
            "date": date,
            "body": body.strip(),
            "changes": _git("show", "--format=", "--stat", "--patch", commit, repository=repository),
        }
        page.write_text(_COMMIT.format_map({k: escape(v) for k, v in shown.items()}), encoding="utf-8")


def publish(folder: Path) -> Path:
    """Make asv's site from the stored results, so that it works offline; return its folder."""
    if _asv(folder, "publish", "HEAD", "--no-pull"):
        sys.exit("asv publish failed")
    html = folder / ".asv" / "html"
    make_local(html, packages(folder / ".asv" / "npm"))
    write_commits(html, folder)
    return html


def serve(html: Path, port: int) -> ThreadingHTTPServer:
    """A server of the pages, reachable only from this machine."""
    return ThreadingHTTPServer(("127.0.0.1", port), partial(SimpleHTTPRequestHandler, directory=html))


def main(argv: Sequence[str] | None = None) -> int:
    """Run, publish and serve, or the steps that the options leave."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dashboard", description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--commits", type=int, default=5, metavar="N", help="how many commits that build (default 5)")
    add("--bench", action="append", default=[], metavar="REGEX", help="only these benchmarks; may be repeated")
    add("--machine", metavar="NAME", help="store the figures under this name instead of the host's")
    add("--publish-only", action="store_true", help="make the pages from stored results, and exit")
    add("--no-serve", action="store_true", help="exit when the pages are made")
    add("--port", type=int, default=8080, help="port (default 8080; 0 takes a free one)")
    args = parser.parse_args(argv)
    if not args.publish_only:
        named = ["--machine", args.machine] if args.machine else []
        _asv(HERE, "machine", "--yes", *named)
        built = run(HERE, args.commits, [*named, *(word for regex in args.bench for word in ("--bench", regex))])
        if not built:
            sys.exit("no commit could be built and measured; see asv's output above")
        print(f"measured: {', '.join(commit[:8] for commit in built)}")
    html = publish(HERE)
    print(f"the pages are in {html}")
    if not args.no_serve and not args.publish_only:
        with serve(html, args.port) as server:
            print(f"http://127.0.0.1:{server.server_port}/ until Ctrl-C")
            try:
                server.serve_forever()
            except KeyboardInterrupt:
                print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
