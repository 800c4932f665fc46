package labapp

import (
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"io"
	"math/rand/v2"
)

// newPattern is an endless stream that does not repeat and is the same each
// time: bytes that are lost, doubled or swapped change its checksum.
func newPattern() io.Reader { return rand.NewChaCha8([32]byte{'a', 'm', 'b', 'i', 't'}) }

// summer counts and sums what is written to it.
type summer struct {
	hash  hash.Hash
	bytes int64
}

func newSummer() *summer { return &summer{hash: sha256.New()} }

func (s *summer) Write(p []byte) (int, error) {
	s.bytes += int64(len(p))
	return s.hash.Write(p)
}

func (s *summer) sum() Sum {
	return Sum{Bytes: s.bytes, SHA256: hex.EncodeToString(s.hash.Sum(nil))}
}
