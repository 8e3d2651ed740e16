"""What the Prometheus operator makes of a monitor: a job of Prometheus. Its own relabelings come before the
monitor's, as in pkg/prometheus/promcfg.go of the release whose schemas the chart is tested with (functions
generateServiceMonitorConfig and generatePodMonitorConfig)."""
import re


def sanitized(name):
    return re.sub(r"[^A-Za-z0-9_]", "_", name)


def snake(name):
    return re.sub("[A-Z]", lambda found: "_" + found[0].lower(), name)


def keep(of, selector):
    """The targets whose labels a selector matches."""
    for name, value in sorted(selector["matchLabels"].items()):
        label = f"__meta_kubernetes_{of}_label"
        yield {"source_labels": [f"{label}_{sanitized(name)}", f"{label}present_{sanitized(name)}"],
               "action": "keep", "regex": f"({value});true"}


def to_label(target, *sources, **options):
    return {"source_labels": list(sources), "target_label": target, **options}


def from_label(of, name, target=None):
    return to_label(target or sanitized(name), f"__meta_kubernetes_{of}_label_{sanitized(name)}", regex="(.+)")


def of_service_monitor():
    target = ("__meta_kubernetes_endpointslice_address_target_kind",
              "__meta_kubernetes_endpointslice_address_target_name")
    yield to_label("node", *target, regex="Node;(.*)")
    yield to_label("pod", *target, regex="Pod;(.*)")
    yield to_label("namespace", "__meta_kubernetes_namespace")
    yield to_label("service", "__meta_kubernetes_service_name")
    yield to_label("pod", "__meta_kubernetes_pod_name")
    yield to_label("container", "__meta_kubernetes_pod_container_name")


def of_pod_monitor():
    yield to_label("namespace", "__meta_kubernetes_namespace")
    yield to_label("container", "__meta_kubernetes_pod_container_name")
    yield to_label("pod", "__meta_kubernetes_pod_name")


def job(monitor):
    """A scrape job, but for where the targets come from."""
    spec = monitor["spec"]
    service = monitor["kind"] == "ServiceMonitor"
    endpoint, = spec["endpoints"] if service else spec["podMetricsEndpoints"]
    of, port = ("service", "endpointslice_port_name") if service else ("pod", "pod_container_port_name")
    return {"job_name": monitor["kind"], "metrics_path": endpoint["path"],
            "scheme": endpoint.get("scheme", "http"),
            "relabel_configs": [
                to_label("__tmp_prometheus_job_name", "job"),
                *keep(of, spec["selector"]),
                {"source_labels": [f"__meta_kubernetes_{port}"], "action": "keep", "regex": endpoint["port"]},
                *(of_service_monitor() if service else of_pod_monitor()),
                {"source_labels": ["__meta_kubernetes_pod_phase"], "action": "drop",
                 "regex": "(Failed|Succeeded)"},
                *(from_label("pod", name) for name in spec.get("podTargetLabels", [])),
                to_label("job", "__meta_kubernetes_service_name") if service else
                {"target_label": "job", "replacement": f"{monitor['metadata']['namespace']}/"
                                                       f"{monitor['metadata']['name']}"},
                from_label(of, spec["jobLabel"], "job"),
                {"target_label": "endpoint", "replacement": endpoint["port"]},
                *({snake(key): value for key, value in rule.items()} for rule in endpoint.get("relabelings", []))]}
