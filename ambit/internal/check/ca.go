package check

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"strings"
	"time"
)

// ExpiryWarning is how long before its end a certificate of the authority is
// reported: time for a rotation that is planned and put off once.
const ExpiryWarning = 60 * 24 * time.Hour

// authority checks how long the certificates last that all others rest on.
func authority(w *World, now time.Time) (out []Finding) {
	if w.Inventory == nil {
		return nil
	}
	for _, cert := range parsePEM(w.Root) {
		if f, ok := ends("root certificate "+nameOfCert(cert), cert.NotAfter, now); ok {
			out = append(out, f)
		}
	}
	issuers := map[string]bool{}
	for _, i := range w.Istiods {
		where := "pod " + w.Namespace + "/" + i.Pod
		switch {
		case i.Err != nil:
			out = append(out, Finding{Level: Warning, Where: where, What: fmt.Sprintf("it could not be asked for its certificates: %v", i.Err), Do: "you need the right to create pods/portforward in " + w.Namespace})
			continue
		case i.CA == nil:
			continue
		case i.CA.Error != "":
			out = append(out, Finding{Level: Error, Where: where, What: "it refused the last change of its CA and keeps the one before: " + i.CA.Error, Do: "correct the Secret " + i.CA.Secret})
		}
		if f, ok := ends("certificate that signs, in "+i.CA.Secret, i.CA.NotAfter, now); ok && !issuers[i.CA.Issuer] {
			out = append(out, f)
		}
		issuers[i.CA.Issuer] = true
	}
	if len(issuers) > 1 {
		out = append(out, Finding{Level: Error, Where: "deployment istiod-lite", What: "its replicas sign with different certificates", Do: "kubectl -n " + w.Namespace + " rollout restart deployment istiod-lite"})
	}
	return out
}

// ends reports a certificate that ends soon, or has.
func ends(where string, at, now time.Time) (Finding, bool) {
	left := at.Sub(now)
	if at.IsZero() || left > ExpiryWarning {
		return Finding{}, false
	}
	f := Finding{Level: Warning, Where: where, What: fmt.Sprintf("it ends in %d days, on %s", int(left.Hours()/24), at.Format(time.DateOnly)), Do: "ambit ca rotate: no connection is lost by it"}
	if left <= 0 {
		f.Level, f.What = Error, "it has ended on "+at.Format(time.DateOnly)+": nobody can connect"
	}
	return f, true
}

// parsePEM reads certificates; what is none is left out.
func parsePEM(text string) (certs []*x509.Certificate) {
	rest := []byte(text)
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return certs
		}
		if cert, err := x509.ParseCertificate(block.Bytes); err == nil {
			certs = append(certs, cert)
		}
	}
}

// nameOfCert is the subject of cert, or its serial number.
func nameOfCert(cert *x509.Certificate) string {
	if name := strings.TrimSpace(cert.Subject.String()); name != "" {
		return name
	}
	return cert.SerialNumber.String()
}
