{{/* Shorten a name to (dict "text" <name> "length" <n>). A shortened name ends with a hash, so that it stays unique. */}}
{{- define "enrollgate.shorten" -}}
{{- if gt (len .text) (int .length) -}}
{{- printf "%s-%s" (.text | trunc (int (sub .length 7)) | trimSuffix "-") (.text | sha256sum | trunc 6) -}}
{{- else -}}
{{- .text -}}
{{- end -}}
{{- end -}}

{{- define "enrollgate.name" -}}
{{- .Values.nameOverride | default "enrollgate" -}}
{{- end -}}

{{/* The name of the release's objects, and the first part of the names of the others. */}}
{{- define "enrollgate.fullname" -}}
{{- $release := .Release.Name | replace "." "-" -}}
{{- $chart := include "enrollgate.name" . -}}
{{- $name := contains $chart $release | ternary $release (printf "%s-%s" $release $chart) -}}
{{- include "enrollgate.shorten" (dict "text" (.Values.fullnameOverride | default $name) "length" 48) -}}
{{- end -}}

{{- define "enrollgate.installation" -}}
{{- $shortened := include "enrollgate.shorten" (dict "text" (include "enrollgate.fullname" .) "length" 32) -}}
{{- .Values.installation | default $shortened -}}
{{- end -}}

{{- define "enrollgate.image" -}}
{{- $image := .Values.image -}}
{{- $version := printf ":%s" ($image.tag | default .Chart.AppVersion) -}}
{{- with $image.digest }}{{ $version = printf "@%s" . }}{{ end -}}
{{- list $image.registry $image.repository | compact | join "/" }}{{ $version -}}
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
app.kubernetes.io/name: {{ include "enrollgate.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "enrollgate.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{ include "enrollgate.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{/* Name, labels and annotations of an object or a pod:
     (dict "root" $ "name" <name> "component" <name> "labels" <more> "annotations" <more>).
     All but `root` may be left out. The chart's labels win, then the more special ones. */}}
{{- define "enrollgate.metadata" -}}
{{- $values := .root.Values -}}
{{- $labels := include "enrollgate.labels" .root | fromYaml -}}
{{- with .component }}{{ $_ := set $labels "app.kubernetes.io/component" . }}{{ end -}}
{{- $partOf := dict "app.kubernetes.io/part-of" "enrollgate" -}}
{{- $labels = merge $labels (.labels | default dict) ($values.commonLabels | default dict) $partOf -}}
{{- $annotations := merge dict (.annotations | default dict) ($values.commonAnnotations | default dict) -}}
{{- $metadata := dict "labels" $labels -}}
{{- with .name }}{{ $_ := set $metadata "name" . }}{{ end -}}
{{- with $annotations }}{{ $_ := set $metadata "annotations" . }}{{ end -}}
{{- toYaml $metadata -}}
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
  "MAX_RUNS_PER_ACCOUNT" $v.maxRunsPerAccount
  "MAX_RUNS_PER_HOST" $v.maxRunsPerHost
  "MAX_ATTEMPTS" $v.maxAttempts
  "MAX_LOST_RUNS" $v.maxLostRuns
  "LAUNCH_TIMEOUT" $v.launchTimeout
  "RUN_TIMEOUT" $v.runTimeout
  "STOP_GRACE" $v.stopGrace
  "HOLDS" $v.holds.enabled
  "HOLD_THRESHOLD" $v.holds.threshold
  "HOLD_FAILED" $v.holds.failed
  "HOLD_PAUSE" $v.holds.pause
  "HOLD_LONGEST_PAUSE" $v.holds.longestPause
  "HOLD_LIMIT" $v.holds.limit
  "RUN_TTL" $v.runTTL
  "HISTORY" $v.history
  "SCRATCH_LIMIT" $v.worker.scratchLimit
  "TASK_TABLE" $v.tasks.table
  "ID_COLUMN" $v.tasks.idColumn
  "STATUS_COLUMN" $v.tasks.statusColumn
  "EMAIL_COLUMN" $v.tasks.emailColumn
  "COURSE_URL_COLUMN" $v.tasks.courseUrlColumn
  "PRIORITY_COLUMN" $v.tasks.priorityColumn
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
  "COOKIES_DIR" $v.cookies.dir
  "DRIVE_CREDENTIALS" $v.drive.credentialsFile
  "KUBERNETES__DESTINATION_CLAIM" (include "enrollgate.destinationClaim" .)
  "KUBERNETES__SERVICE_ACCOUNT" $v.worker.serviceAccountName
  "KUBERNETES__SCRATCH_VOLUME" $v.worker.scratchVolume
  "KUBERNETES__START_TIMEOUT" $v.startTimeout
  "KUBERNETES__CREATE_CONCURRENCY" $v.createConcurrency
  "KUBERNETES__PROGRESS_RATE" $v.progressRate
  "KUBERNETES__LEADER_ELECTION" (gt (int $v.replicas) 1)
  "KUBERNETES__LEASE_NAME" (include "enrollgate.fullname" .)
  "KUBERNETES__DEPLOYMENT" (include "enrollgate.fullname" .)
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

{{/* Variables with the database's address: (dict "root" $ "secret" <name> "secretsDir" <folder>), one of both.
     A missing key keeps the pod from starting. Without an address, the program would use a database of its own. */}}
{{- define "enrollgate.databaseEnv" -}}
{{- $secret := .secret }}
{{- $folder := .secretsDir }}
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
{{- if $folder }}
{{- $variables = dict }}
- name: ENROLLGATE_SECRETS_DIR
  value: {{ $folder | quote }}
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

{{/* What all pods have in common, and where this one runs: (dict "root" $ "pod" <operator, or web>). */}}
{{- define "enrollgate.pod" -}}
{{- $pod := dict "enableServiceLinks" false -}}
{{- range $key := list "imagePullSecrets" "dnsPolicy" "dnsConfig" "hostAliases" -}}
{{- with get $.root.Values $key }}{{ $_ := set $pod $key . }}{{ end -}}
{{- end -}}
{{- with .root.Values.podSecurityContext }}{{ $_ := set $pod "securityContext" . }}{{ end -}}
{{- range $key := list "priorityClassName" "nodeSelector" "tolerations" "affinity" "topologySpreadConstraints" -}}
{{- with get $.pod $key }}{{ $_ := set $pod $key . }}{{ end -}}
{{- end -}}
{{- toYaml $pod -}}
{{- end -}}

{{/* Variables of a container: (dict "ours" <YAML list> "more" <the user's list>). The user's replace ours. */}}
{{- define "enrollgate.env" -}}
{{- $more := .more | default list -}}
{{- $names := list -}}
{{- range $more }}{{ $names = append $names .name }}{{ end -}}
{{- $variables := list -}}
{{- range fromYamlArray .ours }}{{ if not (has .name $names) }}{{ $variables = append $variables . }}{{ end }}{{ end -}}
{{- toYaml (concat $variables $more) -}}
{{- end -}}

{{/* A probe: (dict "path" <path> "probe" <the user's entries>). A handler of the user's replaces ours. */}}
{{- define "enrollgate.probe" -}}
{{- $ours := dict "httpGet" (dict "path" .path "port" "http") -}}
{{- if or .probe.exec .probe.tcpSocket .probe.grpc }}{{ $ours = dict }}{{ end -}}
{{- toYaml (mergeOverwrite $ours (deepCopy .probe)) -}}
{{- end -}}

{{/* Volumes and mounts of each container of ours; the user's own are added to them. */}}
{{- define "enrollgate.volumes" -}}
- name: tmp
  emptyDir: {sizeLimit: 64Mi}
{{- if .Values.database.tlsCASecret }}
- name: database-ca
  secret: {secretName: {{ .Values.database.tlsCASecret | quote }}, defaultMode: 0440}
{{- end }}
{{- end -}}

{{- define "enrollgate.volumeMounts" -}}
- {name: tmp, mountPath: /tmp}
{{- if .Values.database.tlsCASecret }}
- {name: database-ca, mountPath: /etc/enrollgate/database-ca, readOnly: true}
{{- end }}
{{- end -}}

{{/* The container that migrates: of the hook, or of the operator's pod. */}}
{{- define "enrollgate.migrate" -}}
{{- $isHook := eq .Values.migration.mode "hook" -}}
{{- $copy := printf "%s-migrate" (include "enrollgate.fullname" .) -}}
{{- $secret := or .Values.database.existingSecret (ternary $copy (include "enrollgate.databaseSecret" .) $isHook) -}}
{{- $env := include "enrollgate.databaseEnv" (dict "root" $ "secret" $secret "secretsDir" .Values.database.secretsDir) -}}
{{- $mode := list (dict "name" "ENROLLGATE_LAUNCHER" "value" "kubernetes") -}}
{{- $image := list (dict "name" "ENROLLGATE_KUBERNETES__IMAGE" "value" (include "enrollgate.image" .)) -}}
name: migrate
image: {{ include "enrollgate.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
args: [migrate]
# With this launcher, `migrate` fails without a database address instead of migrating a local SQLite file.
env:
  {{- $ours := concat $mode $image (fromYamlArray $env) | toYaml }}
  {{- include "enrollgate.env" (dict "ours" $ours "more" .Values.operator.extraEnv) | nindent 2 }}
resources: {{- toYaml .Values.operator.resources | nindent 2 }}
{{- with .Values.containerSecurityContext }}
securityContext: {{- toYaml . | nindent 2 }}
{{- end }}
volumeMounts:
  {{- include "enrollgate.volumeMounts" . | nindent 2 }}
  {{- with .Values.operator.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{/* What differs from the security context that the operator gives to its Jobs: (dict "ours" <dict> "wanted" <dict>).
     Null removes an entry there. */}}
{{- define "enrollgate.securityChanges" -}}
{{- $wanted := .wanted | default dict -}}
{{- $changes := dict -}}
{{- range $key, $value := $wanted -}}
{{- if ne (toJson $value) (get $.ours $key | toJson) }}{{ $_ := set $changes $key $value }}{{ end -}}
{{- end -}}
{{- range $key, $_ := .ours }}{{ if not (hasKey $wanted $key) }}{{ $_ := set $changes $key nil }}{{ end }}{{ end -}}
{{- toYaml $changes -}}
{{- end -}}

{{/* The partial Job that the operator merges over each Job it builds: the values of `worker`, then worker.jobTemplate. */}}
{{- define "enrollgate.jobTemplate" -}}
{{- $w := .Values.worker -}}
{{- /* Those of operator/enrollgate/launchers/kubernetes/manifest.py. */ -}}
{{- $podSecurity := dict "runAsNonRoot" true "runAsUser" 10001 "runAsGroup" 10001 "fsGroup" 10001
  "fsGroupChangePolicy" "OnRootMismatch" "seccompProfile" (dict "type" "RuntimeDefault") -}}
{{- $containerSecurity := dict "allowPrivilegeEscalation" false "readOnlyRootFilesystem" true
  "capabilities" (dict "drop" (list "ALL")) -}}
{{- $podChanges := include "enrollgate.securityChanges" (dict "ours" $podSecurity "wanted" .Values.podSecurityContext) | fromYaml -}}
{{- $containerChanges := include "enrollgate.securityChanges"
  (dict "ours" $containerSecurity "wanted" .Values.containerSecurityContext) | fromYaml -}}
{{- $worker := dict "name" "worker" "resources" $w.resources -}}
{{- with $containerChanges }}{{ $_ := set $worker "securityContext" . }}{{ end -}}
{{- $pod := dict "containers" (list $worker) -}}
{{- with $podChanges }}{{ $_ := set $pod "securityContext" . }}{{ end -}}
{{- range $key := list "imagePullSecrets" "dnsPolicy" "dnsConfig" "hostAliases" -}}
{{- with get $.Values $key }}{{ $_ := set $pod $key . }}{{ end -}}
{{- end -}}
{{- range $key := list "nodeSelector" "tolerations" "affinity" "priorityClassName" -}}
{{- with get $w $key }}{{ $_ := set $pod $key . }}{{ end -}}
{{- end -}}
{{- if $w.automountServiceAccountToken }}{{ $_ := set $pod "automountServiceAccountToken" true }}{{ end -}}
{{- /* Without app.kubernetes.io/instance: Argo CD prunes what has this label and is not in Git. */ -}}
{{- $labels := merge dict ($w.labels | default dict) (.Values.commonLabels | default dict) -}}
{{- $annotations := merge dict ($w.annotations | default dict) (.Values.commonAnnotations | default dict) -}}
{{- $jobLabels := $labels -}}
{{- with $w.kueueQueue }}{{ $jobLabels = merge (dict "kueue.x-k8s.io/queue-name" .) $labels }}{{ end -}}
{{- $template := dict "metadata" (dict "labels" $labels "annotations" $annotations) "spec" $pod -}}
{{- $job := dict
  "metadata" (dict "labels" $jobLabels "annotations" $annotations)
  "spec" (dict "template" $template)
-}}
{{- $overlay := deepCopy $w.jobTemplate -}}
{{- $containers := dig "spec" "template" "spec" "containers" list $overlay -}}
{{- if $containers -}}
{{- /* Merge containers by name, as the operator does. Otherwise the overlay's list would replace the worker's resources. */ -}}
{{- $others := list -}}
{{- range $containers -}}
{{- if eq .name "worker" }}{{ $worker = mergeOverwrite $worker . }}{{ else }}{{ $others = append $others . }}{{ end -}}
{{- end -}}
{{- $_ := set $overlay.spec.template.spec "containers" (prepend $others $worker) -}}
{{- end -}}
{{- toYaml (mergeOverwrite $job $overlay) -}}
{{- end -}}
