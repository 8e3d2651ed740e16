"""No part of a rule's condition can be left out without a unit test of promtool that fails: each is taken
out in turn, and the tests of that rule are run on what is left."""
import concurrent.futures
import os
import pathlib
import re
import subprocess
import tempfile
import unittest

import yaml

import families

PROMTOOL = os.environ["KMEM_TEST_PROMTOOL"]
RULES = families.REPOSITORY / "deploy/prometheus"
TESTS = families.REPOSITORY / "tests/rules"
SET_OPERATOR = r"(?:and|or|unless)\b"
COMPARISON = r"(?:==|!=|>=|<=|>|<)"


def end_of_operand(expression, at, last):
    """Where the right operand that begins there ends: before `last` or a bracket that closes around it."""
    depth = 0
    for token in re.finditer(rf'"[^"]*"|[(){{}}\[\]]|{last}', expression[at:]):
        if token[0] in "({[":
            depth += 1
        elif token[0] in ")}]" and depth == 0 or depth == 0 and re.match(last, token[0]):
            return at + token.start()
        elif token[0] in ")}]":
            depth -= 1
    return len(expression)


def without_operands(expression):
    """The expression less one of `and ...`, `unless ...`, `or ...`, `> ...` and the like, each in turn."""
    outside_braces = re.sub(r"{[^}]*}", lambda braces: "{" + "_" * (len(braces[0]) - 2) + "}", expression)
    for operator, last in ((rf"\b{SET_OPERATOR}(?: on \([^)]*\))?", rf"\b{SET_OPERATOR}"),
                           (COMPARISON, rf"\b{SET_OPERATOR}|{COMPARISON}")):
        for found in re.finditer(operator, outside_braces):
            end = end_of_operand(outside_braces, found.end(), last)
            yield expression[:found.start()] + expression[end:], expression[found.start():end]


def without_matchers(expression):
    """The expression less one of the matchers, wherever it has it."""
    for matcher in sorted(set(re.findall(r'\w+(?:=~|!~|!=|=)"[^"]*"', expression))):
        yield re.sub(rf"{re.escape(matcher)}(?:,\s*)?|,\s*{re.escape(matcher)}(?=\s*}})", "", expression), matcher


def without_labels_of_joins(expression):
    """The expression less one of the labels of an `on (...)`."""
    for join in re.finditer(r" on \(([^)]*)\)", expression):
        labels = join[1].split(", ")
        for label in labels:
            left = ", ".join(each for each in labels if each != label)
            yield f"{expression[:join.start(1)]}{left}{expression[join.end(1):]}", f"{label} of the join"


def weakened(rule):
    """(rule, what it lacks): a rule less one part of its condition, each in turn."""
    for weaken in (without_operands, without_matchers, without_labels_of_joins):
        for expression, part in weaken(rule["expr"]):
            yield {**rule, "expr": expression}, " ".join(part.split())
    if "for" in rule:
        yield {key: value for key, value in rule.items() if key != "for"}, f"for: {rule['for']}"


def load(path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def run_promtool(*arguments):
    return subprocess.run([PROMTOOL, *arguments], capture_output=True, check=False, encoding="utf-8", timeout=60)


class ConditionsTest(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory(prefix="kmem_rules_")
        self.addCleanup(directory.cleanup)
        self.directory = pathlib.Path(directory.name)

    def write(self, name, content):
        path = self.directory / name
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        return path

    def passes(self, name, rules, tests, others):
        """Whether the tests pass with these rules, and those of other files."""
        groups = [{"name": "changed", "rules": rules}]
        self.write(f"{name}.rules.yaml", {"groups": groups})
        test = self.write(f"{name}.test.yaml", {
            "rule_files": [f"{name}.rules.yaml", *others], "evaluation_interval": "1m", "tests": tests})
        return run_promtool("test", "rules", test).returncode == 0

    def assert_each_part_is_needed(self, cases, others):
        """cases: the rules among which one has a changing condition, that one, and its tests."""
        changed = [(part, rule, [weak if each is rule else each for each in rules], tests)
                   for rules, rule, tests in cases for weak, part in weakened(rule)]
        jobs = [("whole", rule, rules, tests) for rules, rule, tests in cases] + changed
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            passed = list(pool.map(lambda number: self.passes(str(number), *jobs[number][2:], others),
                                   range(len(jobs))))
        checked = run_promtool("check", "rules", *sorted(self.directory.glob("*.rules.yaml")))
        self.assertEqual(checked.returncode, 0, checked.stderr)  # no wonder if a test fails with such a one
        noticed = len(changed) - sum(passed[len(cases):])
        print(f"\n  {len(changed)} parts of the conditions of {len(cases)} rules left out, {noticed} noticed",
              flush=True)
        self.assertEqual([f"{rule.get('alert') or rule['record']}: {part}"
                          for (part, rule, *_), good in zip(jobs, passed) if good != (part == "whole")], [])

    def test_of_alerts(self):
        tests = {test["name"]: test for test in load(TESTS / "alerts_test.yaml")["tests"]}
        alerts = [rule for group in load(RULES / "kmem-alerts.yaml")["groups"] for rule in group["rules"]]
        self.assert_each_part_is_needed([([alert], alert, [tests[alert["alert"]]]) for alert in alerts],
                                        [str(RULES / "kmem-rules.yaml")])

    def test_of_recording_rules(self):
        tests = load(TESTS / "recording_test.yaml")["tests"]
        rules = [rule for group in load(RULES / "kmem-rules.yaml")["groups"] for rule in group["rules"]]
        self.assert_each_part_is_needed([
            (rules, rule, [test for test in tests if any(rule["record"] in each["expr"]
                                                         for each in test["promql_expr_test"])])
            for rule in rules], [])


if __name__ == "__main__":
    unittest.main()
