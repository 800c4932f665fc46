package identity

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// maxIDSize is the longest SPIFFE ID that is read, in bytes.
// Source: SPIFFE-ID, section 2.3.
const maxIDSize = 2048

// ID is the identity of a workload: a trust domain, a namespace and a service
// account. The zero ID means "none" (plaintext). It is comparable.
//
// [ParseID] and [NewID] are the ways from outside input to an ID.
type ID struct {
	TrustDomain    string // lower case
	Namespace      string
	ServiceAccount string
}

// ParseID reads spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT, exactly
// this form and no other.
func ParseID(s string) (ID, error) {
	if len(s) > maxIDSize {
		return ID{}, fmt.Errorf("SPIFFE ID of %d bytes: want at most %d", len(s), maxIDSize)
	}
	sid, err := spiffeid.FromString(s)
	if err != nil {
		return ID{}, fmt.Errorf("SPIFFE ID %q: %w", s, err)
	}
	return fromSPIFFE(sid)
}

// NewID puts an ID together from its parts and checks each of them.
func NewID(trustDomain, namespace, serviceAccount string) (ID, error) {
	if trustDomain == "" {
		return ID{}, errors.New("SPIFFE ID without a trust domain")
	}
	for _, segment := range []string{namespace, serviceAccount} {
		if err := spiffeid.ValidatePathSegment(segment); err != nil {
			return ID{}, fmt.Errorf("SPIFFE ID segment %q: %w", segment, err)
		}
	}
	return ParseID(ID{trustDomain, namespace, serviceAccount}.String())
}

// fromSPIFFE narrows a SPIFFE ID to the form that names a workload.
func fromSPIFFE(sid spiffeid.ID) (ID, error) {
	if len(sid.String()) > maxIDSize {
		return ID{}, fmt.Errorf("SPIFFE ID of %d bytes: want at most %d", len(sid.String()), maxIDSize)
	}
	part := strings.Split(sid.Path(), "/") // the path starts with a slash, or is empty
	if len(part) != 5 || part[1] != "ns" || part[3] != "sa" {
		return ID{}, fmt.Errorf("SPIFFE ID %q: want spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT", sid)
	}
	return ID{TrustDomain: sid.TrustDomain().Name(), Namespace: part[2], ServiceAccount: part[4]}, nil
}

// String returns the full SPIFFE ID, or "" for the zero ID.
func (id ID) String() string {
	if id.IsZero() {
		return ""
	}
	return "spiffe://" + id.Principal()
}

// Append appends what String returns to p.
func (id ID) Append(p []byte) []byte {
	if id.IsZero() {
		return p
	}
	p = append(append(p, "spiffe://"...), id.TrustDomain...)
	p = append(append(p, "/ns/"...), id.Namespace...)
	return append(append(p, "/sa/"...), id.ServiceAccount...)
}

// Principal returns the ID without its scheme, as authorization policies write
// it, or "" for the zero ID.
func (id ID) Principal() string {
	if id.IsZero() {
		return ""
	}
	return id.TrustDomain + "/ns/" + id.Namespace + "/sa/" + id.ServiceAccount
}

// IsZero reports whether id names nobody.
func (id ID) IsZero() bool { return id == ID{} }
