{{/* A name that fits: cut names keep a hash, so that two long ones stay two. (dict "text" <name> "length" <n>). */}}
{{- define "enrollgate.short" -}}
{{- if gt (len .text) (int .length) -}}
{{- printf "%s-%s" (.text | trunc (int (sub .length 7)) | trimSuffix "-") (.text | sha256sum | trunc 6) -}}
{{- else -}}
{{- .text -}}
{{- end -}}
{{- end -}}

{{- define "enrollgate.fullname" -}}
{{- $release := .Release.Name | replace "." "-" -}}
{{- $name := contains "enrollgate" $release | ternary $release (printf "%s-enrollgate" $release) -}}
{{- include "enrollgate.short" (dict "text" (.Values.fullnameOverride | default $name) "length" 48) -}}
{{- end -}}

{{- define "enrollgate.installation" -}}
{{- .Values.installation | default (include "enrollgate.short" (dict "text" (include "enrollgate.fullname" .) "length" 32)) -}}
{{- end -}}

{{- define "enrollgate.image" -}}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}

{{/* A value as a setting takes it: Helm reads numbers as floats, and would write a million as 1e+06. */}}
{{- define "enrollgate.text" -}}
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

{{/* Of a pod or a hook, the user's and ours, which win: (dict "root" $ "component" <name> "more" <labels>). */}}
{{- define "enrollgate.componentLabels" -}}
{{- $ours := merge (dict "app.kubernetes.io/component" .component) (include "enrollgate.labels" .root | fromYaml) -}}
{{- toYaml (merge $ours (.more | default dict)) -}}
{{- end -}}

{{/* The Secret with the database's address: the user's, or ours. */}}
{{- define "enrollgate.databaseSecret" -}}
{{- .Values.database.existingSecret | default (printf "%s-database" (include "enrollgate.fullname" .)) -}}
{{- end -}}

{{/* The Secrets that workers mount: the user's, or ours; empty if there is none. */}}
{{- define "enrollgate.cookiesSecret" -}}
{{- .Values.cookies.existingSecret | default (.Values.cookies.files | empty | ternary "" (printf "%s-cookies" (include "enrollgate.fullname" .))) -}}
{{- end -}}

{{- define "enrollgate.driveSecret" -}}
{{- .Values.drive.existingSecret | default (.Values.drive.credentials | empty | ternary "" (printf "%s-drive" (include "enrollgate.fullname" .))) -}}
{{- end -}}

{{/* A mistake that the schema cannot see gets its sentence here. */}}
{{- define "enrollgate.check" -}}
{{- $database := .Values.database -}}
{{- $ways := 0 -}}
{{- range list $database.existingSecret $database.url $database.host }}{{ if . }}{{ $ways = add1 $ways }}{{ end }}{{ end -}}
{{- if eq (int $ways) 0 }}{{ fail "No database: set database.existingSecret (a Secret with the key `url`), or database.url for a try-out." }}{{ end -}}
{{- if gt (int $ways) 1 }}{{ fail "database.existingSecret, database.url and database.host exclude each other: keep one of them." }}{{ end -}}
{{- if and $database.url (eq $database.form "parts") }}{{ fail "database.form says what database.existingSecret holds, and database.url is no Secret: remove one of them." }}{{ end -}}
{{- if not (regexMatch "^[a-z]([a-z0-9-]{0,30}[a-z0-9])?$" (include "enrollgate.installation" .)) }}{{ fail (printf "The installation's name would be %q, which must begin with a letter: set installation." (include "enrollgate.installation" .)) }}{{ end -}}
{{- if and $database.host (not (and $database.user $database.name)) }}{{ fail "database.host needs database.user and database.name, too." }}{{ end -}}
{{- if and (not $database.host) (or $database.user $database.password $database.name) }}{{ fail "database.user, database.password and database.name go with database.host, which is not set: remove them." }}{{ end -}}
{{- if not .Values.destination }}{{ fail "No destination: set destination to drive:<folder id>, or to directory:/path together with destinationVolume." }}{{ end -}}
{{- $directory := hasPrefix "directory:" .Values.destination -}}
{{- $volume := or .Values.destinationVolume.existingClaim .Values.destinationVolume.create -}}
{{- if and $directory (not $volume) (not .Values.worker.jobTemplate) }}{{ fail "destination is a directory, which a worker's pod loses with it: set destinationVolume.existingClaim or destinationVolume.create." }}{{ end -}}
{{- if and $volume (not $directory) }}{{ fail "destinationVolume is set, but destination is no directory: remove one of them." }}{{ end -}}
{{- if and .Values.destinationVolume.existingClaim .Values.destinationVolume.create }}{{ fail "destinationVolume.existingClaim and destinationVolume.create exclude each other: keep one of them." }}{{ end -}}
{{- if and .Values.cookies.existingSecret .Values.cookies.files }}{{ fail "cookies.existingSecret and cookies.files exclude each other: keep one of them." }}{{ end -}}
{{- if and .Values.drive.existingSecret .Values.drive.credentials }}{{ fail "drive.existingSecret and drive.credentials exclude each other: keep one of them." }}{{ end -}}
{{- if and $directory (or .Values.drive.existingSecret .Values.drive.credentials .Values.drive.subject) }}{{ fail "drive is set, but destination is no Drive folder: remove one of them." }}{{ end -}}
{{- if and .Values.worker.automountServiceAccountToken (not .Values.worker.serviceAccountName) }}{{ fail "worker.automountServiceAccountToken needs worker.serviceAccountName: name the account whose token workers get." }}{{ end -}}
{{- if not (or .Values.serviceAccount.create .Values.serviceAccount.name) }}{{ fail "serviceAccount.create: false needs serviceAccount.name, the account that the operator runs as." }}{{ end -}}
{{- $overlay := .Values.worker.jobTemplate -}}
{{- if dig "metadata" "namespace" "" $overlay }}{{ fail "worker.jobTemplate sets metadata.namespace: leave it out, Jobs are where the operator looks for them." }}{{ end -}}
{{- range $value, $labels := dict "worker.labels" .Values.worker.labels "worker.jobTemplate" (dig "metadata" "labels" dict $overlay) "worker.jobTemplate's pod" (dig "spec" "template" "metadata" "labels" dict $overlay) -}}
{{- range $label, $_ := $labels }}{{ if hasPrefix "enrollgate.io/" $label }}{{ fail (printf "%s sets the label %s: leave enrollgate.io/ out, Jobs are known by it." $value $label) }}{{ end }}{{ end -}}
{{- end -}}
{{- if dig "metadata" "name" "" $overlay }}{{ fail "worker.jobTemplate names its Job: leave metadata.name out, each run has its own." }}{{ end -}}
{{- if and (eq .Values.downloader "command") (not .Values.downloadCommand) }}{{ fail "downloader: command needs downloadCommand." }}{{ end -}}
{{- if and .Values.downloadCommand (ne .Values.downloader "command") }}{{ fail "downloadCommand is set but unused: set downloader: command, too." }}{{ end -}}
{{- end -}}

{{- define "enrollgate.claim" -}}
{{- if .Values.destinationVolume.existingClaim -}}
{{- .Values.destinationVolume.existingClaim -}}
{{- else if .Values.destinationVolume.create -}}
{{- printf "%s-courses" (include "enrollgate.fullname" .) -}}
{{- end -}}
{{- end -}}

{{/* The settings, one line each: name and value, as far as they are set. `$$` is a `$` that Kubernetes leaves alone. */}}
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
  "MAX_CONCURRENT_RUNS" $v.maxConcurrentRuns
  "MAX_ATTEMPTS" $v.maxAttempts
  "MAX_LOST_RUNS" $v.maxLostRuns
  "RUN_TIMEOUT" $v.runTimeout
  "STOP_GRACE" $v.stopGrace
  "RUN_TTL" $v.runTTL
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
  "LOG_FORMAT" $v.logFormat
  "LOG_LEVEL" $v.logLevel
  "LAUNCHER" "kubernetes"
  "KUBERNETES__IMAGE" (include "enrollgate.image" .)
  "KUBERNETES__IMAGE_PULL_POLICY" $v.image.pullPolicy
  "KUBERNETES__JOB_TEMPLATE" "/etc/enrollgate/job-template/job.yaml"
  "KUBERNETES__COOKIES_SECRET" (include "enrollgate.cookiesSecret" .)
  "KUBERNETES__DRIVE_SECRET" (include "enrollgate.driveSecret" .)
  "KUBERNETES__DESTINATION_CLAIM" (include "enrollgate.claim" .)
  "KUBERNETES__SERVICE_ACCOUNT" $v.worker.serviceAccountName
  "KUBERNETES__SCRATCH_VOLUME" $v.worker.scratchVolume
  "KUBERNETES__START_TIMEOUT" $v.startTimeout
  "KUBERNETES__CREATE_CONCURRENCY" $v.createConcurrency
  "KUBERNETES__LEADER_ELECTION" (gt (int $v.replicas) 1)
  "KUBERNETES__LEASE_NAME" (include "enrollgate.fullname" .)
  "KUBERNETES__LEASE_DURATION" $v.leaseDuration
-}}
{{- range $name, $value := $settings }}
{{- if ne (toString $value) "" }}
- name: ENROLLGATE_{{ $name }}
  value: {{ include "enrollgate.text" $value | replace "$" "$$" | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{/* What the Secret holds: `url` or `parts`. */}}
{{- define "enrollgate.databaseForm" -}}
{{- if .Values.database.existingSecret }}{{ .Values.database.form }}{{ else }}{{ ternary "url" "parts" (not .Values.database.host) }}{{ end -}}
{{- end -}}

{{/* The database's address, as variables that refer to a Secret: (dict "root" $ "secret" <name>). A key that is not there keeps the
     pod from starting: without an address, it would have to guess. */}}
{{- define "enrollgate.databaseEnv" -}}
{{- $secret := .secret }}
{{- with .root }}
{{- $parts := dict "DATABASE__HOST" "host" "DATABASE__PORT" "port" "DATABASE__USER" "user" "DATABASE__PASSWORD" "password" "DATABASE__NAME" "name" }}
{{- range $variable, $key := ternary (dict "DATABASE_URL" "url") $parts (eq (include "enrollgate.databaseForm" .) "url") }}
- name: ENROLLGATE_{{ $variable }}
  valueFrom:
    secretKeyRef: {name: {{ $secret | quote }}, key: {{ $.root.Values.database.existingSecret | empty | ternary $key (get $.root.Values.database.keys $key) | quote }}{{ if eq $key "port" }}, optional: true{{ end }}}
{{- end }}
{{- if .Values.database.tlsCASecret }}
- name: ENROLLGATE_DATABASE__TLS_CA
  value: /etc/enrollgate/database-ca/ca.crt
- name: ENROLLGATE_DATABASE__TLS_VERIFY_HOSTNAME
  value: {{ .Values.database.tlsVerifyHostname | quote }}
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

{{/* What all Jobs have beyond what the operator builds. */}}
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
{{- $jobLabels := $w.kueueQueue | empty | ternary $labels (merge (dict "kueue.x-k8s.io/queue-name" $w.kueueQueue) $labels) -}}
{{- $template := dict "metadata" (dict "labels" $labels "annotations" $w.annotations) "spec" $pod -}}
{{- $job := dict "metadata" (dict "labels" $jobLabels "annotations" $w.annotations) "spec" (dict "template" $template) -}}
{{- $overlay := deepCopy $w.jobTemplate -}}
{{- $containers := dig "spec" "template" "spec" "containers" list $overlay -}}
{{- if $containers -}}
{{- /* Containers merge by name, as the operator merges them: a list of the overlay's own would lose our resources. */ -}}
{{- $worker := dict "name" "worker" "resources" $w.resources -}}
{{- $others := list -}}
{{- range $containers -}}
{{- if eq .name "worker" }}{{ $worker = mergeOverwrite $worker . }}{{ else }}{{ $others = append $others . }}{{ end -}}
{{- end -}}
{{- $_ := set $overlay.spec.template.spec "containers" (prepend $others $worker) -}}
{{- end -}}
{{- toYaml (mergeOverwrite $job $overlay) -}}
{{- end -}}
