#!/usr/bin/env python3
"""Sums up JUnit files: skips with their reasons, failures, and one last line of counts.  An
argument failed:NAME is a failure that no file tells of; bad:FILE, a run that ended badly, as
it does when a program dies in or after its last test: one failure at least.  Beside such a
file lies meson's own record (.json), which names the programs."""
import json
import os
import sys
import xml.etree.ElementTree as ET


def reason(case):
    said = case.findtext("system-out") or case.find("skipped").get("message")
    return (said or "no reason given").strip()


def ended_badly(path):
    """The programs that did, each with how."""
    record = path.removesuffix(".junit.xml") + ".json"
    with open(record, encoding="utf-8") as lines:
        tests = [json.loads(line) for line in lines]
    return [f"{test['name']} ({test['result']}, status {test['returncode']})"
            for test in tests
            if test["result"] not in ("OK", "SKIP", "EXPECTEDFAIL")] or [path]


def main(paths):
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    for path in paths:
        if path.startswith("failed:"):
            counts["failed"] += 1
            print(f"FAILED {path.removeprefix('failed:')}")
            continue
        bad, path = path.startswith("bad:"), path.removeprefix("bad:")
        if not os.path.exists(path):
            counts["failed"] += 1
            print(f"FAILED {path}: the run ended before it was written")
            continue
        failed_before = counts["failed"]
        for suite in ET.parse(path).getroot().iter("testsuite"):
            for case in suite.iter("testcase"):
                name = f"{suite.get('name')}: {case.get('name')}"
                if case.find("failure") is not None or case.find("error") is not None:
                    counts["failed"] += 1
                    print(f"FAILED {name}")
                elif case.find("skipped") is not None:
                    counts["skipped"] += 1
                    print(f"skipped {name}: {reason(case)}")
                else:
                    counts["passed"] += 1
        if bad and counts["failed"] == failed_before:
            for program in ended_badly(path):
                counts["failed"] += 1
                print(f"FAILED {program}: it ended badly with no test to blame; see its log")
    print(", ".join(f"{number} {word}" for word, number in counts.items()))
    return 1 if counts["failed"] or not counts["passed"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
