package caclient

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"

	"github.com/ambit-mesh/ambit/internal/identity"
)

// uriTag is the tag of a uniformResourceIdentifier in a GeneralName.
// Source: RFC 5280, section 4.2.1.6.
const uriTag = 6

// newCSR makes a signing request in PEM: an empty subject, and id as the one
// name in a critical extension.
func newCSR(id identity.ID, key crypto.Signer) (string, error) {
	names, err := asn1.Marshal([]asn1.RawValue{
		{Class: asn1.ClassContextSpecific, Tag: uriTag, Bytes: []byte(id.String())},
	})
	if err != nil {
		return "", err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		ExtraExtensions: []pkix.Extension{{
			Id:       asn1.ObjectIdentifier{2, 5, 29, 17}, // subjectAltName
			Critical: true,                                // the subject is empty
			Value:    names,
		}},
	}, key)
	if err != nil {
		return "", err
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})), nil
}
