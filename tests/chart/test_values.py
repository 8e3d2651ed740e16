"""Which values the chart takes and which it refuses. Started by `run`."""
import json
import re

import yaml

from chart import CHART, HELM, REPOSITORY, ChartTest, helm_template, run

SCHEMA = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
# What Kubernetes or its operators define: their objects change with their versions.
THEIRS = {"global", "podSecurityContext", "securityContext", "affinity", "tolerations[]", "env[]", "extraVolumes[]",
          "extraVolumeMounts[]", "extraManifests[]", "networkPolicy.from[]",
          *(f"{of}resources.{key}" for of in ("", "kubeRBACProxy.") for key in ("requests", "limits", "claims[]")),
          *(f"prometheus.{monitor}.{key}" for monitor in ("monitor", "podMonitor")
            for key in ("relabelings[]", "metricRelabelings[]", "tlsConfig", "authorization")),
          "kubeRBACProxy.securityContext", "verticalPodAutoscaler.recommenders[]",
          *(f"verticalPodAutoscaler.{key}" for key in ("minAllowed", "maxAllowed", "updatePolicy"))}
# Texts that the program takes, and such as it refuses.
TEXTS = {
    "extra_events": (["rss_stat", "a" * 64], ["", "Rss", "a b", "a" * 65]),
    "web.telemetry_path": (["/a", "/kmem/metrics.txt", "/" + "a" * 255],
                           ["", "/", "a", "/a/", "//a", "/a//b", "/./a", "/a/../b", "/..", "/a b", "/-/healthy",
                            "/-/ready", "/" + "a" * 256]),
    "paths.procfs": (["/proc", "/a b", "/sys", "/" + "a" * 4094], ["", "proc", '/"', "/\\", "/a\nb", "/" + "a" * 4095]),
    "paths.tracefs": (["/tracing", "/system"], ["", "tracing", "/sys", "/sys/kernel/tracing", '/"']),
    "tracefs.instance": (["a", "A-b_9", "a" * 64], ["", "a/b", "a.b", "a" * 65]),
    "collectors.slab.live.exclude_call_sites": (["a", "__alloc_skb.isra.0", "a" * 512], ["", "a b", "a" * 513]),
}


def nodes(schema, path=""):
    """Every value that the schema describes: its path and what is said of it."""
    yield path, schema
    for name, value in schema.get("properties", {}).items():
        yield from nodes(value, f"{path}.{name}".lstrip("."))
    if "items" in schema:
        yield from nodes(schema["items"], path + "[]")
    if isinstance(schema.get("additionalProperties"), dict):
        yield from nodes(schema["additionalProperties"], path + ".*")


class Schema(ChartTest):

    def test_every_object_of_ours_is_closed(self):
        open_ones = {path for path, node in nodes(SCHEMA) if "object" in node.get("type", "")
                     and "additionalProperties" not in node}
        self.assertEqual(open_ones - THEIRS, set(), "a slip in a key would not be refused")

    def test_every_value_has_a_type(self):
        self.assertEqual([path for path, node in nodes(SCHEMA) if not node.keys() & {"type", "enum", "anyOf"}], [])

    def test_it_has_the_keys_of_the_values_and_no_others(self):
        described = dict(nodes(SCHEMA))

        def compare(values, path):
            node = described[path]
            if "properties" not in node or path in THEIRS:
                return
            if not path.endswith("Probe"):  # of those Kubernetes has more keys
                self.assertEqual(set(values), set(node["properties"]) - {"global", "claims"}, path)
            for name, value in values.items():
                if isinstance(value, dict) and (inner := f"{path}.{name}".lstrip(".")) != "config":
                    compare(value, inner)
        compare(yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8")), "")

    def test_it_allows_of_the_configuration_what_the_program_does(self):
        """docs/configuration.md says what that is; a test of the program compares them."""
        described = dict(nodes(SCHEMA["properties"]["config"]))
        rows = re.findall(r"^\| `([a-z_.]+)` \| .*? \| (.*?) \| .* \|$",
                          (REPOSITORY / "docs/configuration.md").read_text(encoding="utf-8"), re.MULTILINE)
        self.assertEqual({key for key, _ in rows}, {path for path, node in described.items()
                                                    if "object" not in node.get("type", "")
                                                    and not path.endswith("[]")})
        for key, allowed in rows:
            if key != "web.listen_addresses":  # which the chart itself says
                with self.subTest(key=key):
                    self.assert_allows(key, described[key], allowed)

    def assert_allows(self, key, node, words):
        if numbers := re.match(r"a (whole )?number from (\d+) to (\d+)(, a power of two)?$", words):
            whole, least, most, powers = numbers[1], int(numbers[2]), int(numbers[3]), numbers[4]
            self.assertEqual(node, {"enum": [1 << bit for bit in range(32) if least <= 1 << bit <= most]} if powers
                             else {"type": "integer" if whole else "number", "minimum": least, "maximum": most})
        elif words == "true or false":
            self.assertEqual(node, {"type": "boolean"})
        elif most := re.match(r"a list of 0 to (\d+) different ", words):
            self.assertEqual({key: node[key] for key in ("type", "maxItems", "uniqueItems")},
                             {"type": "array", "maxItems": int(most[1]), "uniqueItems": True})
            self.assert_texts(key, node["items"])
        elif node.get("type") == "string":
            self.assert_texts(key, node)
        else:
            self.assertEqual(set(node["enum"]), set(words.split(" or ")))

    def assert_texts(self, key, node):
        taken, refused = TEXTS[key]
        for text in [*taken, *refused]:
            fits = (re.search(node["pattern"], text) and len(text) <= node.get("maxLength", len(text))
                    and not ("not" in node and re.search(node["not"]["pattern"], text)))
            self.assertEqual(bool(fits), text in taken, text[:80])


class EmptyMaps(ChartTest):

    def test_leave_the_defaults(self):
        for path, node in nodes(SCHEMA["properties"]["config"]):
            if path and node.get("type") == ["object", "null"]:
                with self.subTest(path=path):
                    outer = "".join(f'{{"{name}":' for name in path.split("."))
                    rendered = self.render("--set-json", f"config={outer}null" + "}" * outer.count("{"))
                    self.assertEqual(rendered.pod["containers"][0]["ports"][0]["containerPort"], 15636)


class WrongValues(ChartTest):

    def test_are_refused_with_a_line_that_says_what_and_where(self):
        for settings, expected in (
                ("confg.engine=bpf", "additional properties 'confg' not allowed"),
                ("config.engin=bpf", "at '/config': additional properties 'engin' not allowed"),
                ("config.engine=ebpf", "at '/config/engine': value must be one of 'auto', 'tracefs', 'bpf'"),
                ("config.engine=null", "at '/config': missing property 'engine'"),
                ("config.web.max_requests=0", "at '/config/web/max_requests': minimum: got 0, want 1"),
                ("config.web.max_request=1", "at '/config/web': additional properties 'max_request' not allowed"),
                ("config.log.level=loud", "at '/config/log/level': value must be one of"),
                ("config.tracefs.buffer_size_kb=1MB", "at '/config/tracefs/buffer_size_kb': got string, want integer"),
                ("config.tracefs.subbuffer_size_kb=65", "at '/config/tracefs/subbuffer_size_kb': value must be one of"),
                ("config.collectors.slabs.enabled=false",
                 "at '/config/collectors': additional properties 'slabs' not allowed"),
                ("config.collectors.slab.enabled=yes",
                 "at '/config/collectors/slab/enabled': got string, want boolean"),
                ("config.collectors.slab.caches.max_series=0",
                 "at '/config/collectors/slab/caches/max_series': minimum: got 0, want 1"),
                ("config.paths.tracefs=/sys/kernel/tracing", "at '/config/paths/tracefs'"),
                ('config.paths.tracefs=/tracing"', "at '/config/paths/tracefs': '/tracing\"' does not match pattern"),
                ("config.web.telemetry_path=/-/ready", "at '/config/web/telemetry_path': 'not' failed"),
                *((f"config.collectors.{name}.enabeld=true",
                   f"at '/config/collectors/{name}': additional properties 'enabeld' not allowed")
                  for name in ("slab", "page", "pcp", "extfrag", "fragmentation", "compaction")),
                ("config.web.listen_addresses={:80}",
                 "config.web.listen_addresses: set containerPort instead, by which the probes"),
                ("config.engine=tracefs,hostTracefs.mount=never",
                 "hostTracefs.mount: \"never\" leaves the engine \"tracefs\" nothing to trace with"),
                ("containerPort=http", "at '/containerPort': got string, want integer"),
                ("containerPort=65536", "at '/containerPort': maximum: got 65,536, want 65,535"),
                ("hostTracefs.mount=yes", "at '/hostTracefs/mount': value must be one of"),
                ("image.digest=latest", "at '/image/digest': 'latest' does not match pattern"),
                ("image.pullPolicy=Sometimes", "at '/image/pullPolicy': value must be one of"),
                ("tolerations=all", "at '/tolerations': got string, want array"),
                ("securityContext.capabilities.add={CAP_SYS_ADMIN}", "at '/securityContext/capabilities/add/0'"),
                ("updateStrategy.rollingUpdate.maxSurge=1",
                 "at '/updateStrategy/rollingUpdate': additional properties 'maxSurge' not allowed"),
                ("updateStrategy.rollingUpdate.maxUnavailable=0", "at '/updateStrategy/rollingUpdate/maxUnavailable'"),
                ("prometheus.monitor.interval=30", "at '/prometheus/monitor/interval': got number, want string"),
                ("prometheus.monitor.enabled=true,prometheus.podMonitor.enabled=true",
                 "prometheus: monitor and podMonitor are both enabled"),
                ("prometheus.monitor.enabled=true,service.enabled=false",
                 "prometheus.monitor.enabled: a ServiceMonitor needs the Service"),
                ("prometheusRules.enabled=true,prometheusRules.rules.KmemNothing.enabled=false",
                 "prometheusRules.rules.KmemNothing: there is no such alert; there are "),
                ("kubeRBACProxy.enabled=true,kubeRBACProxy.upstreamPort=15636",
                 "kubeRBACProxy.upstreamPort: is the same as containerPort"),
        ):
            with self.subTest(values=settings):
                done = helm_template("--set", settings)
                self.assertNotEqual(done.returncode, 0)
                self.assertEqual(done.stdout, "")
                self.assertIn(expected, done.stderr)

    def test_an_older_kubernetes_is_refused(self):
        done = run(HELM, "template", CHART, "--kube-version", "1.24.0")
        self.assertIn("requires kubeVersion: >=1.25.0-0", done.stderr)
