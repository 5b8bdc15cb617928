#!/usr/bin/env python3
"""Measures tests by planted faults: one-line edits at random places of the sources, each built and tested.

  tools/planted_faults.py --seed=1 --count=20 data/shard.cc train/snapshots.cc=//train:snapshots_test

An edit changes a sign, a bound, a comparison, a connective or a constant, or drops a call. The test that is
named is run, else all tests of the file's own folder that depend on it. Edits that do not build are drawn anew. What survives is printed as a
patch: a hole in the tests, or an edit that changes nothing. The tree is left as it was; files with changes of
their own are refused.
"""
import argparse
import os
import random
import re
import signal
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))

# What is looked for, and what stands there instead.
SWAPS = [
    (r" \+ ", " - "), (r" - ", " + "), (r" \* ", " + "), (r" / ", " * "),
    (r" < ", " <= "), (r" <= ", " < "), (r" > ", " >= "), (r" >= ", " > "),
    (r" == ", " != "), (r" != ", " == "), (r" && ", " || "), (r" \|\| ", " && "),
    (r"\btrue\b", "false"), (r"\bfalse\b", "true"),
    (r"std::min\b", "std::max"), (r"std::max\b", "std::min"),
    (r"(?<![\w.])\d+(?![\w.'])", lambda match: str(int(match.group()) + 1)),
]
CALL = re.compile(r"^\s+[\w.:>-]+\([^;]*\);$")
# Lines that say something to people, or that no test can be meant to notice.
LEFT_ALONE = re.compile(r"^\s*(//|#|using |template|HM_CHECK|HM_DCHECK|static_assert|namespace|\})|reserve\(|fprintf")


def edits_of(line):
    """All edited versions of a line of code."""
    code = line.split("//")[0]
    if LEFT_ALONE.search(line) or not code.strip():
        return []
    edits = []
    in_text = [m.span() for m in re.finditer(r'"(?:[^"\\]|\\.)*"', code)]
    for pattern, other in SWAPS:
        for match in re.finditer(pattern, code):
            if any(begin <= match.start() < end for begin, end in in_text):
                continue
            text = other(match) if callable(other) else other
            edits.append(line[:match.start()] + text + line[match.end():])
    if CALL.match(line.rstrip("\n")):
        edits.append("\n")
    return edits


def bazel(*arguments):
    return subprocess.run([os.path.join(ROOT, "tools/bazel"), *arguments], cwd=ROOT, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def tests_of(path):
    room, name = os.path.split(path)
    query = f"kind(cc_test, rdeps(//{room}:all, //{room}:{name}))"
    result = bazel("query", "--noshow_progress", query)
    tests = [line for line in result.stdout.splitlines() if re.match(r"^//\S+$", line)]
    if not tests:
        sys.exit(f"error: no test of {room} depends on {path}")
    return tests


def try_edit(path, number, edited, tests, flags):
    """'caught', 'survived' or 'does not build'. The file is restored."""
    whole = os.path.join(ROOT, path)
    with open(whole) as file:
        lines = file.readlines()
    try:
        with open(whole, "w") as file:
            file.writelines(lines[:number] + [edited] + lines[number + 1:])
        result = bazel("test", *flags, *tests)
    finally:
        with open(whole, "w") as file:
            file.writelines(lines)
    # Bazel's exit codes: 1 for a failed build, 3 for failed tests.
    return {0: "survived", 1: "does not build", 3: "caught"}.get(result.returncode, "caught")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--flag", action="append", default=[], help="for bazel test, such as --flag=--config=cpu")
    parser.add_argument("sources", nargs="+")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the file is restored
    tests = {}
    for source in options.sources:
        path, _, test = source.partition("=")
        tests[path] = [test] if test else tests_of(path)
    changed = subprocess.run(["git", "diff", "--name-only", "HEAD", "--", *tests], cwd=ROOT, text=True,
                             stdout=subprocess.PIPE, check=True).stdout.split()
    if changed:
        sys.exit(f"error: {changed[0]} has changes that are not committed")
    candidates = []
    for path in tests:
        with open(os.path.join(ROOT, path)) as file:
            for number, line in enumerate(file):
                candidates += [(path, number, line, edited) for edited in edits_of(line)]
    random.Random(options.seed).shuffle(candidates)
    flags = ["--test_output=summary", "--noshow_progress", "--test_timeout=120", *options.flag]
    results = {"caught": 0, "survived": 0, "does not build": 0}
    for path, number, line, edited in candidates:
        if results["caught"] + results["survived"] >= options.count:
            break
        outcome = try_edit(path, number, edited, tests[path], flags)
        results[outcome] += 1
        print(f"{outcome}: {path}:{number + 1}", flush=True)
        if outcome == "survived":
            print(f"-{line.rstrip()}\n+{edited.rstrip()}", flush=True)
    print(f"{results['caught']} of {results['caught'] + results['survived']} planted faults were caught; "
          f"{results['does not build']} did not build")


if __name__ == "__main__":
    main()
