{{- /* Labels that every object of ours has. The argument is a list: context, component. */ -}}
{{- define "ambit.labels" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ index . 1 }}
app.kubernetes.io/part-of: ambit
app.kubernetes.io/version: {{ include "ambit.tag" $root | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
{{- end -}}

{{- define "ambit.tag" -}}
{{- .Values.image.tag | default .Chart.AppVersion -}}
{{- end -}}

{{- /* The name of an image. The argument is a list: context, component. */ -}}
{{- define "ambit.image" -}}
{{- $root := index . 0 -}}
{{ $root.Values.image.repository }}/{{ index . 1 }}:{{ include "ambit.tag" $root }}
{{- end -}}

{{- define "ambit.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "ambit.rootNamespace" -}}
{{- .Values.global.rootNamespace | default .Release.Namespace -}}
{{- end -}}

{{- /* Annotations of what Helm makes before it removes the rest. */ -}}
{{- define "ambit.beforeDelete" -}}
helm.sh/hook: pre-delete
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end -}}
