{{/* Shorten a name to (dict "text" <name> "length" <n>). A shortened name ends with a hash, so that it stays unique. */}}
{{- define "enrollgate.shorten" -}}
{{- if gt (len .text) (int .length) -}}
{{- printf "%s-%s" (.text | trunc (int (sub .length 7)) | trimSuffix "-") (.text | sha256sum | trunc 6) -}}
{{- else -}}
{{- .text -}}
{{- end -}}
{{- end -}}

{{/* The name of the release's objects, and the first part of the names of the others. */}}
{{- define "enrollgate.fullname" -}}
{{- $release := .Release.Name | replace "." "-" -}}
{{- $name := contains "enrollgate" $release | ternary $release (printf "%s-enrollgate" $release) -}}
{{- include "enrollgate.shorten" (dict "text" (.Values.fullnameOverride | default $name) "length" 48) -}}
{{- end -}}

{{- define "enrollgate.installation" -}}
{{- $shortened := include "enrollgate.shorten" (dict "text" (include "enrollgate.fullname" .) "length" 32) -}}
{{- .Values.installation | default $shortened -}}
{{- end -}}

{{- define "enrollgate.image" -}}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}

{{/* Write a value as a setting. Helm reads numbers as floats and would write a million as 1e+06. */}}
{{- define "enrollgate.toSetting" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) -}}{{ int64 . }}{{- else -}}{{ . }}{{- end -}}
{{- end -}}

{{- define "enrollgate.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "enrollgate.fullname" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{- define "enrollgate.selectorLabels" -}}
app.kubernetes.io/name: enrollgate
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "enrollgate.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{ include "enrollgate.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: enrollgate
{{- end -}}

{{/* Labels of a pod or a hook: (dict "root" $ "component" <name> "more" <the user's labels>). Ours win. */}}
{{- define "enrollgate.componentLabels" -}}
{{- $ours := merge (dict "app.kubernetes.io/component" .component) (include "enrollgate.labels" .root | fromYaml) -}}
{{- toYaml (merge $ours (.more | default dict)) -}}
{{- end -}}

{{/* The name of the Secret with the database's address: the user's, or the release's. */}}
{{- define "enrollgate.databaseSecret" -}}
{{- .Values.database.existingSecret | default (printf "%s-database" (include "enrollgate.fullname" .)) -}}
{{- end -}}

{{/* The Secrets that workers mount: the user's, or the release's. Empty if there is none. */}}
{{- define "enrollgate.cookiesSecret" -}}
{{- $created := printf "%s-cookies" (include "enrollgate.fullname" .) -}}
{{- .Values.cookies.existingSecret | default (empty .Values.cookies.files | ternary "" $created) -}}
{{- end -}}

{{- define "enrollgate.driveSecret" -}}
{{- $created := printf "%s-drive" (include "enrollgate.fullname" .) -}}
{{- .Values.drive.existingSecret | default (empty .Values.drive.credentials | ternary "" $created) -}}
{{- end -}}

{{/* The PersistentVolumeClaim of a `directory:` destination; empty if there is none. */}}
{{- define "enrollgate.destinationClaim" -}}
{{- if .Values.destinationVolume.existingClaim -}}
{{- .Values.destinationVolume.existingClaim -}}
{{- else if .Values.destinationVolume.create -}}
{{- printf "%s-courses" (include "enrollgate.fullname" .) -}}
{{- end -}}
{{- end -}}

{{/* The settings that have a value, as environment variables. Kubernetes reads `$$` as a literal `$`. */}}
{{- define "enrollgate.settings" -}}
{{- $v := .Values -}}
{{- $settings := dict
  "INSTALLATION" (include "enrollgate.installation" .)
  "DESTINATION" $v.destination
  "DOWNLOADER" $v.downloader
  "DOWNLOAD_COMMAND" ($v.downloadCommand | empty | ternary "" (toJson $v.downloadCommand))
  "ALLOWED_HOSTS" (join "," $v.allowedHosts)
  "ENROLLMENT_TIMEOUT" $v.enrollmentTimeout
  "CHECK_INTERVAL" $v.checkInterval
  "GATE_INTERVAL" $v.gateInterval
  "GATE_DATABASE_SHARE" $v.gateDatabaseShare
  "MAX_CONCURRENT_RUNS" $v.maxConcurrentRuns
  "MAX_ATTEMPTS" $v.maxAttempts
  "MAX_LOST_RUNS" $v.maxLostRuns
  "LAUNCH_TIMEOUT" $v.launchTimeout
  "RUN_TIMEOUT" $v.runTimeout
  "STOP_GRACE" $v.stopGrace
  "RUN_TTL" $v.runTTL
  "HISTORY" $v.history
  "SCRATCH_LIMIT" $v.worker.scratchLimit
  "TASK_TABLE" $v.tasks.table
  "ID_COLUMN" $v.tasks.idColumn
  "STATUS_COLUMN" $v.tasks.statusColumn
  "EMAIL_COLUMN" $v.tasks.emailColumn
  "COURSE_URL_COLUMN" $v.tasks.courseUrlColumn
  "STATUS_WAITING" $v.tasks.statusWaiting
  "STATUS_ENROLLED" $v.tasks.statusEnrolled
  "STATUS_COMPLETED" $v.tasks.statusCompleted
  "STATUS_FAILED" $v.tasks.statusFailed
  "DRIVE_SUBJECT" $v.drive.subject
  "DRIVE_CHUNK_SIZE" $v.drive.chunkSize
  "DRIVE_ENDPOINT" $v.drive.endpoint
  "DOWNLOADS" $v.worker.downloads
  "UPLOADS" $v.worker.uploads
  "DOWNLOAD_RATE" $v.worker.downloadRate
  "UPLOAD_RATE" $v.worker.uploadRate
  "QUALITY" $v.worker.quality
  "SUBTITLES" (join "," $v.worker.subtitles)
  "AUTOMATIC_SUBTITLES" $v.worker.automaticSubtitles
  "ATTACHMENTS" $v.worker.attachments
  "THUMBNAILS" $v.worker.thumbnails
  "COURSE_INDEX" $v.worker.courseIndex
  "INCOMPLETE" $v.worker.incomplete
  "INCOMPLETE_REASONS" (join "," $v.worker.incompleteReasons)
  "MIN_DOWNLOAD_RATE" $v.worker.minDownloadRate
  "MAX_RETRY_AFTER" $v.worker.maxRetryAfter
  "LOG_FORMAT" $v.logFormat
  "LOG_LEVEL" $v.logLevel
  "LAUNCHER" "kubernetes"
  "KUBERNETES__IMAGE" (include "enrollgate.image" .)
  "KUBERNETES__IMAGE_PULL_POLICY" $v.image.pullPolicy
  "KUBERNETES__JOB_TEMPLATE" "/etc/enrollgate/job-template/job.yaml"
  "KUBERNETES__COOKIES_SECRET" (include "enrollgate.cookiesSecret" .)
  "KUBERNETES__DRIVE_SECRET" (include "enrollgate.driveSecret" .)
  "KUBERNETES__DESTINATION_CLAIM" (include "enrollgate.destinationClaim" .)
  "KUBERNETES__SERVICE_ACCOUNT" $v.worker.serviceAccountName
  "KUBERNETES__SCRATCH_VOLUME" $v.worker.scratchVolume
  "KUBERNETES__START_TIMEOUT" $v.startTimeout
  "KUBERNETES__CREATE_CONCURRENCY" $v.createConcurrency
  "KUBERNETES__PROGRESS_RATE" $v.progressRate
  "KUBERNETES__LEADER_ELECTION" (gt (int $v.replicas) 1)
  "KUBERNETES__LEASE_NAME" (include "enrollgate.fullname" .)
  "KUBERNETES__LEASE_DURATION" $v.leaseDuration
-}}
{{- range $name, $value := $settings }}
{{- if ne (toString $value) "" }}
- name: ENROLLGATE_{{ $name }}
  value: {{ include "enrollgate.toSetting" $value | replace "$" "$$" | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{/* What the database's Secret holds: `url` or `parts`. */}}
{{- define "enrollgate.databaseForm" -}}
{{- if .Values.database.existingSecret -}}
{{- .Values.database.form -}}
{{- else -}}
{{- ternary "parts" "url" (not (empty .Values.database.host)) -}}
{{- end -}}
{{- end -}}

{{/* Variables with the database's address, from a Secret: (dict "root" $ "secret" <name>).
     A missing key keeps the pod from starting. Without an address, the program would use a database of its own. */}}
{{- define "enrollgate.databaseEnv" -}}
{{- $secret := .secret }}
{{- with .root }}
{{- $database := .Values.database }}
{{- $variables := dict "DATABASE_URL" "url" }}
{{- if eq (include "enrollgate.databaseForm" .) "parts" }}
{{- $variables = dict
  "DATABASE__HOST" "host"
  "DATABASE__PORT" "port"
  "DATABASE__USER" "user"
  "DATABASE__PASSWORD" "password"
  "DATABASE__NAME" "name"
}}
{{- end }}
{{- range $variable, $part := $variables }}
{{- $key := $part }}
{{- if $database.existingSecret }}{{ $key = get $database.keys $part }}{{ end }}
- name: ENROLLGATE_{{ $variable }}
  valueFrom:
    secretKeyRef:
      name: {{ $secret | quote }}
      key: {{ $key | quote }}
      {{- if eq $part "port" }}
      optional: true
      {{- end }}
{{- end }}
{{- if $database.tlsCASecret }}
- name: ENROLLGATE_DATABASE__TLS_CA
  value: /etc/enrollgate/database-ca/ca.crt
- name: ENROLLGATE_DATABASE__TLS_VERIFY_HOSTNAME
  value: {{ $database.tlsVerifyHostname | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "enrollgate.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "enrollgate.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- define "enrollgate.volumes" -}}
- name: tmp
  emptyDir: {sizeLimit: 64Mi}
- name: job-template
  configMap: {name: {{ include "enrollgate.fullname" . }}-job-template}
{{- if .Values.database.tlsCASecret }}
- name: database-ca
  secret: {secretName: {{ .Values.database.tlsCASecret | quote }}, defaultMode: 0440}
{{- end }}
{{- with .Values.operator.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "enrollgate.volumeMounts" -}}
- {name: tmp, mountPath: /tmp}
- {name: job-template, mountPath: /etc/enrollgate/job-template, readOnly: true}
{{- if .Values.database.tlsCASecret }}
- {name: database-ca, mountPath: /etc/enrollgate/database-ca, readOnly: true}
{{- end }}
{{- with .Values.operator.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* The partial Job that the operator merges over each Job it builds: the values of `worker`, then worker.jobTemplate. */}}
{{- define "enrollgate.jobTemplate" -}}
{{- $w := .Values.worker -}}
{{- $pod := dict "containers" (list (dict "name" "worker" "resources" $w.resources)) -}}
{{- with .Values.imagePullSecrets }}{{ $_ := set $pod "imagePullSecrets" . }}{{ end -}}
{{- with $w.nodeSelector }}{{ $_ := set $pod "nodeSelector" . }}{{ end -}}
{{- with $w.tolerations }}{{ $_ := set $pod "tolerations" . }}{{ end -}}
{{- with $w.affinity }}{{ $_ := set $pod "affinity" . }}{{ end -}}
{{- with $w.priorityClassName }}{{ $_ := set $pod "priorityClassName" . }}{{ end -}}
{{- if $w.automountServiceAccountToken }}{{ $_ := set $pod "automountServiceAccountToken" true }}{{ end -}}
{{- $labels := merge (dict "app.kubernetes.io/instance" .Release.Name) ($w.labels | default dict) -}}
{{- $jobLabels := $labels -}}
{{- with $w.kueueQueue }}{{ $jobLabels = merge (dict "kueue.x-k8s.io/queue-name" .) $labels }}{{ end -}}
{{- $template := dict "metadata" (dict "labels" $labels "annotations" $w.annotations) "spec" $pod -}}
{{- $job := dict
  "metadata" (dict "labels" $jobLabels "annotations" $w.annotations)
  "spec" (dict "template" $template)
-}}
{{- $overlay := deepCopy $w.jobTemplate -}}
{{- $containers := dig "spec" "template" "spec" "containers" list $overlay -}}
{{- if $containers -}}
{{- /* Merge containers by name, as the operator does. Otherwise the overlay's list would replace the worker's resources. */ -}}
{{- $worker := dict "name" "worker" "resources" $w.resources -}}
{{- $others := list -}}
{{- range $containers -}}
{{- if eq .name "worker" }}{{ $worker = mergeOverwrite $worker . }}{{ else }}{{ $others = append $others . }}{{ end -}}
{{- end -}}
{{- $_ := set $overlay.spec.template.spec "containers" (prepend $others $worker) -}}
{{- end -}}
{{- toYaml (mergeOverwrite $job $overlay) -}}
{{- end -}}
