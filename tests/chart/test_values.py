"""Which values the chart takes and which it refuses. Started by `run`."""
from chart import CHART, HELM, ChartTest, helm_template, run


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
