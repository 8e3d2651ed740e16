"""What is deployed, looked at without deploying it: the version, the compose file, the workflows, and
that the metrics and every error of the program are explained."""
import glob
import os
import re
import subprocess
import sys
import unittest

import messages
import yaml

REPOSITORY = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
DEPLOY = f"{REPOSITORY}/deploy"
ACTIONLINT = os.environ["KMEM_TEST_ACTIONLINT"]
PROMTOOL = os.environ["KMEM_TEST_PROMTOOL"]


def read(path):
    with open(f"{REPOSITORY}/{path}", encoding="utf-8") as file:
        return file.read()


VERSION = read("VERSION").strip()


class Checks(unittest.TestCase):
    def run_check(self, *command):
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, check=False,
                              encoding="utf-8")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def check_schema(self, schema, *paths):
        self.assertTrue(paths)
        self.run_check(sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, *paths)


class Version(unittest.TestCase):
    def test_it_is_one_of_three_numbers(self):
        self.assertRegex(VERSION, r"\A\d+\.\d+\.\d+\Z")

    def test_cmake_reads_it(self):
        self.assertIn("file(STRINGS VERSION ", read("CMakeLists.txt"))
        self.assertIn("project(kmem_exporter VERSION ${KMEM_VERSION} ", read("CMakeLists.txt"))

    def test_the_chart_installs_it(self):
        chart = yaml.safe_load(read("helm/kmem-exporter/Chart.yaml"))
        self.assertEqual(chart["appVersion"], VERSION)

    def test_compose_runs_it(self):
        image = yaml.safe_load(read("deploy/compose.yaml"))["services"]["kmem_exporter"]["image"]
        self.assertTrue(image.endswith(f":{VERSION}"), image)

    def test_the_documentation_runs_it(self):
        tags = re.findall(r"kmem_exporter:(\d\S*)", read("docs/install.md"))
        self.assertEqual(set(tags), {VERSION})

    def test_the_changelog_has_no_later_one(self):
        releases = re.findall(r"^## (\d+)\.(\d+)\.(\d+)", read("CHANGELOG.md"), re.MULTILINE)
        for release in releases[:1]:
            self.assertEqual(".".join(release), VERSION)


class Compose(Checks):
    def setUp(self):
        self.compose = yaml.safe_load(read("deploy/compose.yaml"))
        self.services = self.compose["services"]

    def test_it_is_a_compose_file(self):
        self.check_schema("vendor.compose-spec", "deploy/compose.yaml")

    def test_what_it_names_is_there(self):
        for name, service in self.services.items():
            self.assertLessEqual(set(service.get("depends_on", [])), set(self.services), name)
            for volume in service.get("volumes", []):
                source = volume["source"] if isinstance(volume, dict) else volume.split(":")[0]
                if source.startswith("./"):
                    self.assertTrue(os.path.exists(f"{DEPLOY}/{source}"), source)
                elif not source.startswith("/"):
                    self.assertIn(source, self.compose["volumes"], name)

    def test_the_exporter_has_what_it_needs_and_no_more(self):
        exporter = self.services["kmem_exporter"]
        self.assertEqual(exporter["cap_drop"], ["ALL"])
        self.assertEqual(exporter["cap_add"], ["BPF", "PERFMON", "SYSLOG"])
        self.assertTrue(exporter["read_only"])
        self.assertEqual(exporter["security_opt"], ["no-new-privileges:true"])
        self.assertNotIn("privileged", exporter)
        self.assertNotIn("ports", exporter)
        sources = [volume["source"] for volume in exporter["volumes"]]
        self.assertEqual(sources, ["/sys/kernel/tracing"])

    def test_only_this_machine_is_served(self):
        for name, service in self.services.items():
            for port in service.get("ports", []):
                self.assertTrue(port.startswith("127.0.0.1:"), f"{name}: {port}")

    def test_prometheus_takes_its_configuration(self):
        self.run_check(PROMTOOL, "check", "config", "--syntax-only",
                       "deploy/compose/prometheus.yaml")

    def test_grafana_finds_prometheus_and_the_dashboards(self):
        source = yaml.safe_load(read("deploy/compose/grafana-datasource.yaml"))["datasources"][0]
        self.assertEqual(source["url"], "http://prometheus:9090")
        provider = yaml.safe_load(read("deploy/compose/grafana-dashboards.yaml"))["providers"][0]
        mounted = [volume.split(":") for volume in self.services["grafana"]["volumes"]]
        self.assertIn(["./grafana", provider["options"]["path"], "ro"], mounted)
        # Grafana reads every file in these.
        provisioned = {source: os.path.dirname(target) for source, target, *_ in mounted}
        for name, directory in (("datasource", "datasources"), ("dashboards", "dashboards")):
            self.assertEqual(provisioned[f"./compose/grafana-{name}.yaml"], f"/etc/grafana/provisioning/{directory}")
        home = self.services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
        self.assertTrue(os.path.exists(f"{DEPLOY}/grafana/{os.path.basename(home)}"), home)


class GitHub(Checks):
    def test_the_workflows_are_valid(self):
        workflows = glob.glob(f"{REPOSITORY}/.github/workflows/*.yaml")
        self.assertEqual(len(workflows), 2)
        self.run_check(ACTIONLINT, *workflows)

    def test_the_issue_forms_are_valid(self):
        forms = glob.glob(f"{REPOSITORY}/.github/ISSUE_TEMPLATE/*.yaml")
        self.check_schema("vendor.github-issue-forms", *forms)
        self.check_schema("vendor.github-issue-config", ".github/ISSUE_TEMPLATE/config.yml")
        self.check_schema("vendor.dependabot", ".github/dependabot.yml")


class Troubleshooting(unittest.TestCase):
    DOCUMENT = read("docs/troubleshooting.md")

    def test_every_error_and_warning_is_explained(self):
        text = messages.plain(self.DOCUMENT)
        missing = [f"{path}: {piece}" for piece, path in messages.all_pieces(REPOSITORY).items()
                   if piece not in text]
        self.assertEqual(missing, [], "not in docs/troubleshooting.md")

    def test_nothing_is_explained_that_the_program_does_not_say(self):
        said = messages.all_texts(REPOSITORY)
        said += "".join(os.strerror(number) for number in range(1, 134))
        unknown = [piece for piece in messages.explained(self.DOCUMENT) if not all(
            part in said for part in re.split("(?:, |^)allowed is ", piece))]
        self.assertEqual(unknown, [], "not in exporter/*.cc")


class Documents(Checks):
    def test_the_tables_of_the_metrics_are_what_the_program_exposes(self):
        self.run_check("docs/generate", "--check")

    def test_their_links_to_files_lead_somewhere(self):
        listed = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard",
                                 "*.md"], cwd=REPOSITORY, capture_output=True, check=True,
                                encoding="utf-8").stdout.split()
        for path in listed:
            for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", read(path)):
                if not re.match(r"[a-z]+:", target):
                    where = os.path.join(REPOSITORY, os.path.dirname(path), target)
                    self.assertTrue(os.path.exists(where), f"{path}: {target}")


if __name__ == "__main__":
    unittest.main(verbosity=2)
