{{- define "kmem-exporter.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- /* 52 characters: the objects' names add up to 11. */}}
{{- define "kmem-exporter.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" }}
{{- else }}
{{- $name := include "kmem-exporter.name" . }}
{{- if contains $name .Release.Name }}
{{- .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" }}
{{- end }}
{{- end }}
{{- end }}

{{- define "kmem-exporter.selectorLabels" -}}
app.kubernetes.io/name: {{ include "kmem-exporter.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "kmem-exporter.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/component: metrics
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{ include "kmem-exporter.selectorLabels" . }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "kmem-exporter.serviceAccountName" -}}
{{- .Values.serviceAccount.name | default (ternary (include "kmem-exporter.fullname" .) "default" .Values.serviceAccount.create) }}
{{- end }}

{{- /* A map with registry, repository, tag and digest. */}}
{{- define "kmem-exporter.image" -}}
{{- $name := ternary (printf "%s/%s" .registry .repository) .repository (ne .registry "") }}
{{- if .digest }}
{{- printf "%s@%s" $name .digest }}
{{- else }}
{{- printf "%s:%s" $name .tag }}
{{- end }}
{{- end }}

{{- define "kmem-exporter.telemetryPath" -}}
{{- dig "telemetry_path" "/metrics" (.Values.config.web | default dict) }}
{{- end }}

{{- /* "true" if the host's tracefs is to be mounted, else nothing. */}}
{{- define "kmem-exporter.mountTracefs" -}}
{{- $mount := .Values.hostTracefs.mount }}
{{- if or (eq $mount "always") (and (eq $mount "auto") (ne .Values.config.engine "bpf")) }}true{{ end }}
{{- end }}

{{- define "kmem-exporter.metricsPort" -}}
{{- ternary "https" "http" .Values.kubeRBACProxy.enabled }}
{{- end }}

{{- /* The request of a probe; a list: the root and the path. By number: a name is looked up in the container's own
       ports, and the proxy's is in another. */}}
{{- define "kmem-exporter.probe" -}}
{{- $root := index . 0 -}}
httpGet:
  path: {{ index . 1 }}
  port: {{ int $root.Values.containerPort }}
  {{- if $root.Values.kubeRBACProxy.enabled }}
  scheme: HTTPS
  {{- end }}
{{- end }}

{{- /* What both kinds of monitor say of an endpoint; a list: the root and the monitor's values. */}}
{{- define "kmem-exporter.endpoint" -}}
{{- $root := index . 0 }}
{{- $monitor := index . 1 -}}
port: {{ include "kmem-exporter.metricsPort" $root }}
path: {{ include "kmem-exporter.telemetryPath" $root }}
{{- if $root.Values.kubeRBACProxy.enabled }}
scheme: https
{{- end }}
{{- if or $monitor.tlsConfig $root.Values.kubeRBACProxy.enabled }}
tlsConfig:
  {{- toYaml ($monitor.tlsConfig | default (dict "insecureSkipVerify" true)) | nindent 2 }}
{{- end }}
{{- with $monitor.interval }}
interval: {{ . }}
{{- end }}
{{- with $monitor.scrapeTimeout }}
scrapeTimeout: {{ . }}
{{- end }}
{{- if or $monitor.nodeAsInstance $monitor.relabelings }}
relabelings:
  {{- if $monitor.nodeAsInstance }}
  # A node's series are the same whichever pod it has: the operator's own label pod goes.
  - sourceLabels: [__meta_kubernetes_pod_node_name]
    targetLabel: instance
  - action: labeldrop
    regex: pod
  {{- end }}
  {{- with $monitor.relabelings }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
{{- with $monitor.metricRelabelings }}
metricRelabelings:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- /* What both kinds of monitor say besides; a list: the root and the monitor's values. */}}
{{- define "kmem-exporter.monitor" -}}
{{- $root := index . 0 }}
{{- $monitor := index . 1 -}}
jobLabel: {{ $monitor.jobLabel }}
selector:
  matchLabels:
    {{- include "kmem-exporter.selectorLabels" $root | nindent 4 }}
namespaceSelector:
  matchNames: [{{ $root.Release.Namespace }}]
{{- with $monitor.podTargetLabels }}
podTargetLabels:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $monitor.sampleLimit }}
sampleLimit: {{ int64 . }}
{{- end }}
{{- end }}

{{- /* What values.schema.json can't say. */}}
{{- define "kmem-exporter.check" -}}
{{- if dig "listen_addresses" nil (.Values.config.web | default dict) }}
{{- fail "config.web.listen_addresses: set containerPort instead, by which the probes, the Service and the monitors go" }}
{{- end }}
{{- if and (eq .Values.config.engine "tracefs") (eq .Values.hostTracefs.mount "never") }}
{{- fail "hostTracefs.mount: \"never\" leaves the engine \"tracefs\" nothing to trace with; set config.engine to bpf, or hostTracefs.mount to auto" }}
{{- end }}
{{- if and .Values.prometheus.monitor.enabled .Values.prometheus.podMonitor.enabled }}
{{- fail "prometheus: monitor and podMonitor are both enabled, and every pod would be scraped twice; enable one" }}
{{- end }}
{{- if and .Values.prometheus.monitor.enabled (not .Values.service.enabled) }}
{{- fail "prometheus.monitor.enabled: a ServiceMonitor needs the Service; set service.enabled, or use prometheus.podMonitor" }}
{{- end }}
{{- if and .Values.kubeRBACProxy.enabled (eq (int .Values.containerPort) (int .Values.kubeRBACProxy.upstreamPort)) }}
{{- fail "kubeRBACProxy.upstreamPort: is the same as containerPort; set another port" }}
{{- end }}
{{- end }}
