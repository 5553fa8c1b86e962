{{/* Refuse values that cannot work and that values.schema.json cannot reject. Each message names the value and the fix. */}}
{{- define "enrollgate.validate" -}}
{{- include "enrollgate.validateLabels" . -}}
{{- include "enrollgate.validateDatabase" . -}}
{{- include "enrollgate.validateDestination" . -}}
{{- include "enrollgate.validateWorker" . -}}
{{- include "enrollgate.validateSizes" . -}}
{{- include "enrollgate.validateWeb" . -}}
{{- if not (or .Values.serviceAccount.create .Values.serviceAccount.name) -}}
{{- fail "serviceAccount.create is false: set serviceAccount.name to the account that the operator runs as." -}}
{{- end -}}
{{- if .Chart.IsRoot -}}
{{- /* In a chart of charts, `global` is the parent's. */ -}}
{{- range $name, $_ := .Values.global -}}
{{- fail (printf "global.%s is set, but this chart uses no global values: remove it. For the image, set image.registry, image.repository and imagePullSecrets." $name) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.serviceMonitor.enabled .Values.podMonitor.enabled -}}
{{- fail "serviceMonitor.enabled and podMonitor.enabled exclude each other, since each metric would count twice: keep one of them." -}}
{{- end -}}
{{- if and .Values.prometheusRule.enabled (not (or .Values.serviceMonitor.enabled .Values.podMonitor.enabled .Values.prometheusRule.selector)) -}}
{{- fail "prometheusRule.enabled needs the operator's metrics: set serviceMonitor.enabled or podMonitor.enabled, or prometheusRule.selector to the labels by which your Prometheus knows the operator." -}}
{{- end -}}
{{- if lt (float64 (include "enrollgate.seconds" .Values.history)) (float64 (include "enrollgate.seconds" .Values.runTTL)) -}}
{{- fail (printf "history (%v) is less than runTTL (%v), so the name of a Job that still exists would be given to another run: raise history, or lower runTTL." .Values.history .Values.runTTL) -}}
{{- end -}}
{{- $installation := include "enrollgate.installation" . -}}
{{- if not (regexMatch "^[a-z]([a-z0-9-]{0,30}[a-z0-9])?$" $installation) -}}
{{- fail (printf "The installation name would be %q, but it must begin with a letter: set installation." $installation) -}}
{{- end -}}
{{- end -}}

{{- define "enrollgate.validateLabels" -}}
{{- $overlay := .Values.worker.jobTemplate -}}
{{- $reserved := list "app.kubernetes.io/name" "app.kubernetes.io/instance" "app.kubernetes.io/component"
  "app.kubernetes.io/version" "app.kubernetes.io/managed-by" "helm.sh/chart" -}}
{{- range $label, $_ := .Values.commonLabels -}}
{{- if has $label $reserved -}}
{{- fail (printf "commonLabels sets the label %s: remove it. The chart itself sets this label." $label) -}}
{{- end -}}
{{- end -}}
{{- range $name, $_ := .Values.commonAnnotations -}}
{{- if contains "helm.sh/" $name -}}
{{- fail (printf "commonAnnotations sets %s: remove it. It would change how Helm treats every object." $name) -}}
{{- end -}}
{{- end -}}
{{- $labelSources := dict
  "commonLabels" .Values.commonLabels
  "worker.labels" .Values.worker.labels
  "worker.jobTemplate" (dig "metadata" "labels" dict $overlay)
  "worker.jobTemplate's pod" (dig "spec" "template" "metadata" "labels" dict $overlay)
-}}
{{- range $source, $labels := $labelSources -}}
{{- range $label, $_ := $labels -}}
{{- if hasPrefix "enrollgate.io/" $label -}}
{{- fail (printf "%s sets the label %s: remove it. Enrollgate identifies its Jobs by enrollgate.io/ labels." $source $label) -}}
{{- end -}}
{{- if eq $label "app.kubernetes.io/instance" -}}
{{- fail (printf "%s sets the label %s: remove it. Argo CD would delete running Jobs that have it." $source $label) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "enrollgate.validateDatabase" -}}
{{- $database := .Values.database -}}
{{- $sources := compact (list $database.existingSecret $database.secretsDir $database.url $database.host) -}}
{{- if empty $sources -}}
{{- fail "No database: set database.existingSecret (a Secret with the key `url`), or database.url for an evaluation." -}}
{{- end -}}
{{- if gt (len $sources) 1 -}}
{{- fail "database.existingSecret, database.secretsDir, database.url and database.host exclude each other: keep one of them." -}}
{{- end -}}
{{- range $other := list "url" "secretsDir" -}}
{{- if and (get $database $other) (eq $database.form "parts") -}}
{{- fail (printf "database.form applies to database.existingSecret only, but database.%s is set: remove one of them." $other) -}}
{{- end -}}
{{- end -}}
{{- if and $database.host (not (and $database.user $database.name)) -}}
{{- fail "database.host also needs database.user and database.name: set both." -}}
{{- end -}}
{{- if and (not $database.host) (or $database.user $database.password $database.name) -}}
{{- fail "database.user, database.password and database.name need database.host, which is not set: remove them." -}}
{{- end -}}
{{- end -}}

{{- define "enrollgate.validateDestination" -}}
{{- $volume := .Values.destinationVolume -}}
{{- $drive := .Values.drive -}}
{{- $hasVolume := or $volume.existingClaim $volume.create -}}
{{- $isDirectory := hasPrefix "directory:" .Values.destination -}}
{{- if not .Values.destination -}}
{{- fail "No destination: set destination to drive:<folder id>, or to directory:/path with destinationVolume." -}}
{{- end -}}
{{- if and $isDirectory (not $hasVolume) (not .Values.worker.jobTemplate) -}}
{{- fail (print "destination is a directory without a volume, so its files would be lost with the pod: "
  "set destinationVolume.existingClaim or destinationVolume.create.") -}}
{{- end -}}
{{- if and $hasVolume (not $isDirectory) -}}
{{- fail "destinationVolume is set, but destination is not a directory: remove one of them." -}}
{{- end -}}
{{- if and $volume.existingClaim $volume.create -}}
{{- fail "destinationVolume.existingClaim and destinationVolume.create exclude each other: keep one of them." -}}
{{- end -}}
{{- $folder := `[A-Za-z0-9_-]{10,}` -}}
{{- $address := printf `https://drive\.google\.com/drive/(u/[0-9]+/)?folders/%s([?#/].*)?` $folder -}}
{{- if not (or $isDirectory (regexMatch (printf `^(drive:%s|(drive:)?%s)$` $folder $address) .Values.destination)) -}}
{{- fail (printf "destination: %q is no Drive folder: write drive:<folder id>, or the folder's address, https://drive.google.com/drive/folders/<folder id>. An id has at least 10 letters, digits, _ and -." .Values.destination) -}}
{{- end -}}
{{- if gt (len (compact (list $drive.existingSecret $drive.credentialsFile $drive.credentials))) 1 -}}
{{- fail "drive.existingSecret, drive.credentialsFile and drive.credentials exclude each other: keep one of them." -}}
{{- end -}}
{{- if and $isDirectory (or $drive.existingSecret $drive.credentialsFile $drive.credentials $drive.subject) -}}
{{- fail "drive is set, but destination is not a Drive folder: remove one of them." -}}
{{- end -}}
{{- end -}}

{{- define "enrollgate.validateWorker" -}}
{{- $worker := .Values.worker -}}
{{- $overlay := $worker.jobTemplate -}}
{{- $cookies := .Values.cookies -}}
{{- if gt (len (compact (list $cookies.existingSecret $cookies.dir (empty $cookies.files | ternary "" "files")))) 1 -}}
{{- fail "cookies.existingSecret, cookies.dir and cookies.files exclude each other: keep one of them." -}}
{{- end -}}
{{- range $value, $path := dict "cookies.dir" $cookies.dir "drive.credentialsFile" .Values.drive.credentialsFile -}}
{{- if and $path (not $worker.jobTemplate) (not $worker.annotations) -}}
{{- fail (printf "%s is set, but workers have no volume with it: mount one in worker.jobTemplate, or let the Vault agent do so by worker.annotations." $value) -}}
{{- end -}}
{{- end -}}
{{- if and $worker.automountServiceAccountToken (not $worker.serviceAccountName) -}}
{{- fail "worker.automountServiceAccountToken needs worker.serviceAccountName: set the account whose token workers get." -}}
{{- end -}}
{{- if dig "metadata" "namespace" "" $overlay -}}
{{- fail "worker.jobTemplate sets metadata.namespace: remove it. The operator finds its Jobs in its own namespace only." -}}
{{- end -}}
{{- if dig "metadata" "name" "" $overlay -}}
{{- fail "worker.jobTemplate sets metadata.name: remove it. Each run needs a name of its own." -}}
{{- end -}}
{{- if and (eq .Values.downloader "command") (not .Values.downloadCommand) -}}
{{- fail "downloader is `command`: set downloadCommand." -}}
{{- end -}}
{{- if and .Values.downloadCommand (ne .Values.downloader "command") -}}
{{- fail "downloadCommand is set but unused: set downloader to `command`, or remove downloadCommand." -}}
{{- end -}}
{{- end -}}

{{/* A size that the operator cannot read, or a scratch volume that is too small, would keep it from starting. */}}
{{- define "enrollgate.validateSizes" -}}
{{- $worker := .Values.worker -}}
{{- $sizes := dict
  "drive.chunkSize" .Values.drive.chunkSize
  "worker.scratchLimit" $worker.scratchLimit
  "worker.scratchVolume" $worker.scratchVolume
  "worker.downloadRate" $worker.downloadRate
  "worker.uploadRate" $worker.uploadRate
  "worker.minDownloadRate" $worker.minDownloadRate
-}}
{{- range $name, $size := $sizes -}}
{{- if hasSuffix "i" (toString $size) -}}
{{- fail (printf "%s is %q: write the unit in full, %sB." $name $size $size) -}}
{{- end -}}
{{- end -}}
{{- $limit := $worker.scratchLimit | default "5GiB" -}}
{{- $volume := $worker.scratchVolume | default "10GiB" -}}
{{- if le (include "enrollgate.bytes" $volume | float64) (include "enrollgate.bytes" $limit | float64) -}}
{{- fail (printf "worker.scratchVolume (%s) must be more than worker.scratchLimit (%s): raise it, or lower the limit. Otherwise workers are evicted."
  (include "enrollgate.toSetting" $volume) (include "enrollgate.toSetting" $limit)) -}}
{{- end -}}
{{- if lt (include "enrollgate.bytes" $volume | float64) 1048576.0 -}}
{{- fail (printf "worker.scratchVolume (%s) must be at least 1MiB." (include "enrollgate.toSetting" $volume)) -}}
{{- end -}}
{{- end -}}

{{/* The bytes of a size such as 10GiB, 5GB or 4096. */}}
{{- define "enrollgate.bytes" -}}
{{- $text := include "enrollgate.toSetting" . | lower | nospace | trimSuffix "b" -}}
{{- $base := hasSuffix "i" $text | ternary 1024.0 1000.0 -}}
{{- $text = trimSuffix "i" $text -}}
{{- $bytes := regexFind "^[0-9.]+" $text | float64 -}}
{{- range $power, $unit := list "k" "m" "g" "t" -}}
{{- if hasSuffix $unit $text -}}
{{- range until (add1 $power | int) -}}{{- $bytes = mulf $bytes $base -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- printf "%f" $bytes -}}
{{- end -}}

{{- define "enrollgate.validateWeb" -}}
{{- $web := .Values.web -}}
{{- if $web.enabled -}}
{{- if not (or $web.databaseSecret $web.secretsDir) -}}
{{- fail "web.enabled needs web.databaseSecret: set it to a Secret with a database user that may only read, or set web.secretsDir." -}}
{{- end -}}
{{- if and $web.databaseSecret $web.secretsDir -}}
{{- fail "web.databaseSecret and web.secretsDir exclude each other: keep one of them." -}}
{{- end -}}
{{- if not (or $web.tokenSecret $web.secretsDir $web.behindProxy) -}}
{{- fail "web.enabled would show the page to everyone in the cluster: set web.tokenSecret, or web.behindProxy if a proxy decides who may open it." -}}
{{- end -}}
{{- if and $web.tokenSecret $web.behindProxy -}}
{{- fail "web.tokenSecret and web.behindProxy exclude each other: keep one of them." -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The seconds of a duration: a number, or a text such as 90s, 15m, 24h or 180d. */}}
{{- define "enrollgate.seconds" -}}
{{- if kindIs "string" . -}}
{{- $text := trim . -}}
{{- $units := dict "s" 1 "m" 60 "h" 3600 "d" 86400 -}}
{{- mulf (float64 (regexFind "^[0-9.]+" $text)) (get $units (regexFind "[smhd]$" $text)) -}}
{{- else -}}
{{- float64 . -}}
{{- end -}}
{{- end -}}
