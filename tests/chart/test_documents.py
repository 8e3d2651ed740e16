"""What is written of the chart, and made from it. Started by `run`."""
import json
import pathlib
import re
import shutil
import tempfile

import yaml

from chart import (CHART, HELM, HELM_DOCS, KUBERNETES, REPOSITORY, VALUE_SETS, ChartTest, Rendered, run,
                   values_of)


def reasons():
    """Why tracing is impossible, as the program names it."""
    found = re.findall(r'return "(\w+)";', (REPOSITORY / "exporter/tracing_error.h").read_text(encoding="utf-8"))
    if len(found) < 6:
        raise AssertionError(f"not the reasons of the program: {found}")
    return found


class Documents(ChartTest):

    def test_every_reason_why_tracing_is_impossible_has_its_remedy(self):
        for path, row in (("docs/kubernetes.md", r'\| [^|]*reason="{}"[^|]*'),
                          ("docs/runbooks/KmemTracingDown.md", r"\| `{}` ")):
            text = (REPOSITORY / path).read_text(encoding="utf-8")
            for reason in reasons():
                with self.subTest(path=path, reason=reason):
                    self.assertRegex(text, re.compile("^" + row.format(reason) + r"\|.{15}", re.MULTILINE))
        for reason in reasons():
            self.assertIn(f"`{reason}`", (REPOSITORY / "docs/troubleshooting.md").read_text(encoding="utf-8"))

    def test_the_chart_s_readme_is_current(self):
        with tempfile.TemporaryDirectory() as directory:
            done = run(HELM_DOCS, "--chart-search-root", CHART, "--dry-run", "--log-level", "warning",
                       cwd=directory)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertEqual(done.stdout.strip(), (CHART / "README.md").read_text().strip(),
                             "run deploy/render")

    def test_every_value_is_described_and_in_the_schema(self):
        readme = (CHART / "README.md").read_text()
        self.assertEqual(re.findall(r"^\| (\S+) \|.*\|  \|$", readme, re.MULTILINE), [])
        for words in ("amd64 and arm64", "on arm64 Linux 5.18", "pages of 64 KiB", "nodes that have no such path"):
            self.assertIn(words, readme)
        schema = json.loads((CHART / "values.schema.json").read_text())
        values = yaml.safe_load((CHART / "values.yaml").read_text())
        self.assertEqual(set(schema["properties"]) - {"global"}, set(values))

    def test_the_plain_manifests_are_current(self):
        for name in ("kmem-exporter.yaml", "monitoring.yaml"):
            done = run(REPOSITORY / "deploy/render", "--print", name)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertEqual(done.stdout, (REPOSITORY / "deploy/kubernetes" / name).read_text(),
                             "run deploy/render")

    def test_the_notes_name_the_fixes(self):
        with tempfile.TemporaryDirectory() as directory:  # helm shows notes only of what it installs
            chart = pathlib.Path(shutil.copytree(CHART, pathlib.Path(directory, "chart")))
            (chart / "templates/NOTES.txt").rename(chart / "notes")
            (chart / "templates/notes.yaml").write_text(
                'kind: Notes\nmetadata: {}\ntext: {{ tpl (.Files.Get "notes") . | toJson }}\n')

            def notes(*values):
                done = run(HELM, "template", "kmem", chart, "--namespace", "kernel", "--kube-version",
                           KUBERNETES[-1], *values)
                self.assertEqual(done.returncode, 0, done.stderr)
                return Rendered(done.stdout).one("Notes")["text"]
            for name in VALUE_SETS:
                with self.subTest(values=name):
                    self.assert_notes(name, notes(*values_of(name)))
            for rules in ("true", "false"):
                self.assertEqual("dashboards show what recording rules make" in notes(
                    "--set", f"dashboards.enabled=true,prometheusRules.enabled={rules}"), rules == "false")

    def assert_notes(self, name, notes):
        self.assertIn("pod-security.kubernetes.io/enforce=privileged", notes)
        self.assertIn("mount tracefs on the node (/sys/kernel/", notes)
        for words in (*(f"\n   {reason}: " for reason in reasons()), "hostTracefs.mount=never",
                      "hostTracefs.mountPropagation=None", "arm64: the engine bpf needs Linux 5.18", "pages of 64 KiB"):
            self.assertIn(words, notes)
        anchors = [re.sub(r"[^a-z ]", "", title.lower()).replace(" ", "-") for title in re.findall(
            r"^## (.+)$", (REPOSITORY / "docs/troubleshooting.md").read_text(encoding="utf-8"), re.MULTILINE)]
        self.assertIn(re.search(r"/docs/troubleshooting\.md#(\S+)", notes)[1], anchors)
        self.assertEqual("WARNING: there is a CPU limit" in notes, name == "everything")
        self.assertEqual("WARNING: with config.on_tracing_failure" in notes, name == "everything")
        self.assertEqual("Nothing tells Prometheus of these pods yet" in notes,
                         name in ("defaults", "tracefs", "bpf", "bpf-with-tracefs", "everything"))
