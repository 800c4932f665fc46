package report

import "regexp"

// struck is what stands where a secret stood.
const struck = "[struck out]"

// secrets are what must not leave the cluster: private keys in PEM, tokens of
// service accounts (three parts in base64url, the first a JSON object), and
// credentials of HTTP headers.
var secrets = [...]*regexp.Regexp{
	regexp.MustCompile(`(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|$)`),
	regexp.MustCompile(`eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]*`),
	regexp.MustCompile(`(?i)(authorization["':= ]+)(bearer|basic)[ +]+[^\s"',]+`),
	// A key in PEM that was put into base64 once more, as in Secrets.
	regexp.MustCompile(`LS0tLS1CRUdJTi[A-Za-z0-9+/]{0,16}(BSSVZBVEUg|UFJJVkFURS|QUklWQVRFI)[A-Za-z0-9+/=]*`),
}

// Redact strikes out what looks like a secret.
func Redact(text []byte) []byte {
	for _, s := range secrets {
		text = s.ReplaceAll(text, []byte(struck))
	}
	return text
}
