#!/usr/bin/env python3
"""Sums up JUnit files: skips with their reasons, failures, and one last line of counts.  An
argument failed:NAME is a failure that no file tells of; bad:FILE, a run that ended badly, as
it does when a program dies after its last test: one failure at least."""
import sys
import xml.etree.ElementTree as ET


def reason(case):
    said = case.findtext("system-out") or case.find("skipped").get("message")
    return (said or "no reason given").strip()


def main(paths):
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    for path in paths:
        if path.startswith("failed:"):
            counts["failed"] += 1
            print(f"FAILED {path.removeprefix('failed:')}")
            continue
        bad, path = path.startswith("bad:"), path.removeprefix("bad:")
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
            counts["failed"] += 1
            print(f"FAILED {path}: a program ended badly after its tests; see its log above")
    print(", ".join(f"{number} {word}" for word, number in counts.items()))
    return 1 if counts["failed"] or not counts["passed"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
