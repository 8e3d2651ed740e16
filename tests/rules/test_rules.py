"""The recording rules and alerts against their conventions, the metrics that exist, their unit tests
and their runbooks. What the rules compute is tested by alerts_test.yaml and recording_test.yaml."""
import re
import unittest

import yaml

import families

RULES = families.REPOSITORY / "deploy/prometheus"
RUNBOOKS = families.REPOSITORY / "docs/runbooks"
HOME = "https://github.com/kmem-exporter/kmem_exporter/blob/main/"
SECTIONS = ["Meaning", "Confirm it", "What to do", "Threshold"]


def load(path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def rules(file):
    return [rule for group in load(RULES / file)["groups"] for rule in group["rules"]]


def alerts():
    return {rule["alert"]: rule for rule in rules("kmem-alerts.yaml")}


def recorded():
    return {rule["record"]: rule["expr"] for rule in rules("kmem-rules.yaml")}


def heading_anchors(markdown):
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
            for title in re.findall(r"^#+ (.+)$", markdown, re.MULTILINE)}


class RulesTest(unittest.TestCase):
    def test_recording_rules_are_named_level_metric_operations(self):
        for name in recorded():
            self.assertRegex(name, r"^instance(_order)?:kmem_[a-z_]+:(max|(ratio_)?rate\d+m)$")

    def test_every_recording_rule_is_tested(self):
        tested = {found for group in load(families.REPOSITORY / "tests/rules/recording_test.yaml")["tests"]
                  for test in group["promql_expr_test"]
                  for found in families.recordings_used_by(test["expr"])}
        self.assertEqual(tested, set(recorded()))

    def test_every_metric_and_recording_used_exists(self):
        known = families.existing() | families.OF_PROMETHEUS
        expressions = [*recorded().values(), *(alert["expr"] for alert in alerts().values())]
        for expression in expressions:
            self.assertLessEqual(families.used_by(expression), known, expression)
            self.assertLessEqual(families.recordings_used_by(expression), set(recorded()), expression)


class AlertsTest(unittest.TestCase):
    def test_names(self):
        for name, alert in alerts().items():
            with self.subTest(name):
                self.assertRegex(name, r"^Kmem([A-Z][a-z]+)+$")
                self.assertLessEqual(len(name), 40)

    def test_labels_and_annotations(self):
        for name, alert in alerts().items():
            with self.subTest(name):
                self.assertEqual(list(alert["labels"]), ["severity"])
                self.assertIn(alert["labels"]["severity"], ("critical", "warning", "info"))
                annotations = alert["annotations"]
                self.assertEqual(list(annotations), ["summary", "description", "runbook_url"])
                self.assertRegex(annotations["summary"], r"^[^{]+\.$")
                if not alert["expr"].startswith("absent("):  # no instance to speak of
                    self.assertIn("{{ $labels.instance }}", annotations["description"])

    def test_each_is_tested_when_it_fires_and_when_it_does_not(self):
        fires, silent = set(), set()
        for group in load(families.REPOSITORY / "tests/rules/alerts_test.yaml")["tests"]:
            for test in group["alert_rule_test"]:
                (fires if test["exp_alerts"] else silent).add(test["alertname"])
        self.assertEqual(fires, set(alerts()))
        self.assertEqual(silent, set(alerts()))

    def test_each_leads_to_its_runbook(self):
        for name, alert in alerts().items():
            with self.subTest(name):
                self.assertEqual(alert["annotations"]["runbook_url"], f"{HOME}docs/runbooks/{name}.md")
                page = (RUNBOOKS / f"{name}.md").read_text(encoding="utf-8")
                self.assertEqual(re.findall(r"^# (.*)", page, re.MULTILINE)[:1], [name])
                self.assertEqual(re.findall(r"^## (.*)", page, re.MULTILINE), SECTIONS)

    def test_the_list_of_runbooks_is_that_of_the_alerts(self):
        listed = re.findall(r"^\| \[(\w+)\]\((\w+)\.md\) \| (\w+) \|$",
                            (RUNBOOKS / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
        self.assertEqual(listed, [(name, name, alert["labels"]["severity"])
                                  for name, alert in alerts().items()])
        self.assertEqual({path.stem for path in RUNBOOKS.glob("*.md")}, {"README", *alerts()})


class RunbooksTest(unittest.TestCase):
    def test_links_lead_somewhere(self):
        for page in RUNBOOKS.glob("*.md"):
            for target in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
                if target.startswith("http"):
                    continue
                path, _, anchor = target.partition("#")
                linked = (page.parent / path).resolve()
                self.assertTrue(linked.is_file(), f"{page.name}: {target}")
                if anchor:
                    self.assertIn(anchor, heading_anchors(linked.read_text(encoding="utf-8")),
                                  f"{page.name}: {target}")


if __name__ == "__main__":
    unittest.main()
