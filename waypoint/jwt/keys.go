package jwt

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/go-jose/go-jose/v4"
)

// Algorithms are all by which a token may be signed. Each needs a public key.
var Algorithms = []jose.SignatureAlgorithm{
	jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512, jose.ES256, jose.ES384, jose.ES512, jose.EdDSA,
}

// Keys is a set of public keys. It never changes.
type Keys struct{ all []key }

// key is a public key with what it may be used for.
type key struct {
	id         string
	public     any
	algorithms []jose.SignatureAlgorithm
}

// ParseKeys reads a JSON Web Key Set. Keys that cannot check signatures here are
// left out: private and shared ones, those of kinds that are not known, those for
// encryption, and weak ones. A set of which nothing is left is an error.
func ParseKeys(text []byte) (*Keys, error) {
	if len(text) > MaxKeySet {
		return nil, fmt.Errorf("key set of %d bytes, want at most %d", len(text), MaxKeySet)
	}
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(text, &set); err != nil {
		return nil, fmt.Errorf("key set: %w", err)
	}
	if len(set.Keys) > maxKeys {
		return nil, fmt.Errorf("key set of %d keys, want at most %d", len(set.Keys), maxKeys)
	}
	out := &Keys{}
	var first error
	for i, raw := range set.Keys {
		k, err := parseKey(raw)
		if err != nil {
			if first == nil {
				first = fmt.Errorf("key %d: %w", i, err)
			}
			continue
		}
		out.all = append(out.all, k)
	}
	if len(out.all) == 0 {
		if first == nil {
			first = errors.New("it is empty")
		}
		return nil, fmt.Errorf("key set without a key that can be used: %w", first)
	}
	return out, nil
}

// parseKey reads one key.
func parseKey(raw []byte) (key, error) {
	var meta struct {
		Ops []string `json:"key_ops"`
	}
	if err := json.Unmarshal(raw, &meta); err != nil {
		return key{}, err
	}
	var j jose.JSONWebKey
	if err := j.UnmarshalJSON(raw); err != nil {
		return key{}, err
	}
	if j.Use != "" && j.Use != "sig" || len(meta.Ops) > 0 && !slices.Contains(meta.Ops, "verify") {
		return key{}, errors.New("not for checking signatures")
	}
	k := key{id: j.KeyID, public: j.Key}
	var err error
	if k.algorithms, err = algorithmsOf(j.Key); err != nil {
		return key{}, err
	}
	if j.Algorithm != "" {
		if !slices.Contains(k.algorithms, jose.SignatureAlgorithm(j.Algorithm)) {
			return key{}, fmt.Errorf("it is for algorithm %q, which is none of its kind", j.Algorithm)
		}
		k.algorithms = []jose.SignatureAlgorithm{jose.SignatureAlgorithm(j.Algorithm)}
	}
	return k, nil
}

// algorithmsOf are those that a public key can check. Anything else, a shared
// secret or a private key, is an error.
func algorithmsOf(public any) ([]jose.SignatureAlgorithm, error) {
	switch k := public.(type) {
	case *rsa.PublicKey:
		if n := k.N.BitLen(); n < minRSA || n > maxRSA {
			return nil, fmt.Errorf("RSA key of %d bits, want %d to %d", n, minRSA, maxRSA)
		}
		return []jose.SignatureAlgorithm{jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512}, nil
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256():
			return []jose.SignatureAlgorithm{jose.ES256}, nil
		case elliptic.P384():
			return []jose.SignatureAlgorithm{jose.ES384}, nil
		case elliptic.P521():
			return []jose.SignatureAlgorithm{jose.ES512}, nil
		}
	case ed25519.PublicKey:
		return []jose.SignatureAlgorithm{jose.EdDSA}, nil
	}
	return nil, errors.New("no public key of a known kind")
}

// Len is how many keys there are.
func (k *Keys) Len() int { return len(k.all) }

// has reports whether a key of that name is there.
func (k *Keys) has(id string) bool {
	return slices.ContainsFunc(k.all, func(x key) bool { return x.id == id })
}

// candidates are the keys by which a token may be signed that says so.
func (k *Keys) candidates(id string, alg jose.SignatureAlgorithm) []key {
	var out []key
	for _, x := range k.all {
		if (id == "" || x.id == id) && slices.Contains(x.algorithms, alg) {
			if out = append(out, x); len(out) == maxTries {
				break
			}
		}
	}
	return out
}
