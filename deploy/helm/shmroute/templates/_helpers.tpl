{{/*
Names. In its namespace everything is called RELEASE-shmroute: the chart of an app that depends on this one is likely to call
its own ServiceAccount and Role as the release. In the whole cluster the namespace comes before the release: no other release
has that name, since a namespace has neither dot nor colon in it.
*/}}
{{- define "shmroute.name" -}}
{{ .Release.Name }}-shmroute
{{- end }}

{{- define "shmroute.clusterName" -}}
shmroute-watcher:{{ .Release.Namespace }}:{{ .Release.Name }}
{{- end }}

{{- define "shmroute.serviceAccountName" -}}
{{ .Values.serviceAccount.name | default (ternary (include "shmroute.name" .) "default" .Values.serviceAccount.create) }}
{{- end }}

{{- define "shmroute.tablesName" -}}
{{ .Release.Name }}-shmroute-tables
{{- end }}

{{- define "shmroute.image" -}}
{{ .Values.image.repository }}{{ with .Values.image.digest }}@{{ . }}{{ else }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end }}
{{- end }}

{{- define "shmroute.labels" -}}
app.kubernetes.io/name: shmroute
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "shmroute.hardened" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* The options that a sidecar and a node's watcher have in common. */}}
{{- define "shmroute.args" -}}
- --log-format=json
{{- if .Values.checkpoint.enabled }}
- --checkpoint=/var/lib/shmroute/checkpoint
{{- end }}
{{- if .Values.tables }}
- --tables=/etc/shmroute/tables/tables.yaml
{{- end }}
{{- range .Values.args }}
- {{ . | quote }}
{{- end }}
{{- end }}

{{- define "shmroute.envFrom" -}}
{{- with .Values.envFrom }}
envFrom:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "shmroute.extraVolumeMounts" -}}
{{- if .Values.checkpoint.enabled }}
- name: checkpoint
  mountPath: /var/lib/shmroute
{{- end }}
{{- if .Values.tables }}
- name: tables
  mountPath: /etc/shmroute/tables
  readOnly: true
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "shmroute.extraVolumes" -}}
{{- if .Values.checkpoint.enabled }}
- name: checkpoint
  {{- toYaml (.Values.checkpoint.volume | default (dict "emptyDir" dict)) | nindent 2 }}
{{- end }}
{{- if .Values.tables }}
- name: tables
  configMap:
    name: {{ include "shmroute.tablesName" . }}
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/*
The watcher as a native sidecar, for a chart that depends on this one. Put
  include "shmroute.sidecar" .Subcharts.shmroute
under a pod's initContainers and "shmroute.volumes" likewise under its volumes. Mount the volume "shm" at /dev/shm in every
container that resolves models, and run them all as one user. With .Subcharts.shmroute it goes by this chart's values and
version, not by yours.
*/}}
{{- define "shmroute.sidecar" -}}
- name: shmroute
  image: {{ include "shmroute.image" . }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  args:
    - watch
    - --listen=:{{ .Values.sidecar.port }}
    {{- include "shmroute.args" . | nindent 4 }}
  {{- with .Values.env }}
  env:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- include "shmroute.envFrom" . | nindent 2 }}
  restartPolicy: Always
  startupProbe:
    exec:
      command: [shmroute, wait, --timeout=1]
    periodSeconds: 1
    timeoutSeconds: 5
    failureThreshold: 60
  livenessProbe:
    httpGet:
      path: /healthz
      port: health
    periodSeconds: 10
  ports:
    - name: health
      containerPort: {{ .Values.sidecar.port }}
  resources:
    {{- toYaml .Values.sidecar.resources | nindent 4 }}
  securityContext:
    {{- include "shmroute.hardened" . | nindent 4 }}
  volumeMounts:
    - name: shm
      mountPath: /dev/shm
    {{- include "shmroute.extraVolumeMounts" . | nindent 4 }}
{{- end }}

{{- define "shmroute.volumes" -}}
- name: shm
  emptyDir:
    medium: Memory
    sizeLimit: {{ .Values.sidecar.sizeLimit }}
{{- include "shmroute.extraVolumes" . }}
{{- end }}
