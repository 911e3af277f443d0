{{- define "shmroute.image" -}}
{{ .Values.image.repository }}{{ with (.Values.image.tag | default .Chart.AppVersion) }}:{{ . }}{{ end }}
{{- end }}

{{- define "shmroute.hardened" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/*
The watcher as a native sidecar, for a chart that depends on this one: put
  include "shmroute.sidecar" .Subcharts.shmroute
under a pod's initContainers, and "shmroute.volume" likewise under its volumes; mount the volume "shm" at /dev/shm in
every container that resolves models. With .Subcharts.shmroute it goes by this chart's values and version, not by yours.
*/}}
{{- define "shmroute.sidecar" -}}
- name: shmroute
  image: {{ include "shmroute.image" . }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  args:
    - watch
    - --listen=:{{ .Values.sidecar.port }}
    - --log-format=json
    {{- range .Values.sidecar.args }}
    - {{ . | quote }}
    {{- end }}
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
{{- end }}

{{- define "shmroute.volume" -}}
- name: shm
  emptyDir:
    medium: Memory
    sizeLimit: {{ .Values.sidecar.sizeLimit }}
{{- end }}
