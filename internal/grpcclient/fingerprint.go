package grpcclient

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"strings"
)

// RootFingerprints names the roots by which new connections will know the control
// plane: SHA-256 of the DER of each, in hexadecimal, in the order of the file. It
// is empty for the roots of the operating system, and when there are none to be
// had now. Somebody who changes roots can see by it who has the new ones.
func RootFingerprints(rootCA string) []string {
	text := []byte(rootCA)
	switch {
	case rootCA == systemRoots:
		return nil
	case !strings.Contains(rootCA, pemBegin):
		var err error
		if text, err = readFile(rootCA, maxRootFile); err != nil {
			return nil
		}
	}
	var out []string
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if _, err := x509.ParseCertificate(block.Bytes); block.Type != "CERTIFICATE" || err != nil {
			continue
		}
		sum := sha256.Sum256(block.Bytes)
		out = append(out, hex.EncodeToString(sum[:]))
	}
	return out
}
