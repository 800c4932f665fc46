package tls13

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"encoding/binary"
	"hash"
)

const (
	// nonceLen and tagLen are of AES-GCM, in bytes. Source: RFC 5116, section 5.
	nonceLen, tagLen = 12, 16
	// maxSecret is the longest traffic secret, that of SHA-384, in bytes.
	maxSecret = 48
)

// suite is a cipher suite of TLS 1.3. Source: RFC 8446, appendix B.4.
type suite struct {
	keyLen, secretLen int
	hash              func() hash.Hash
}

// suiteOf returns the suite with an id; false when we do not speak it.
func suiteOf(id uint16) (suite, bool) {
	switch id {
	case tls.TLS_AES_128_GCM_SHA256:
		return suite{keyLen: 16, secretLen: sha256.Size, hash: sha256.New}, true
	case tls.TLS_AES_256_GCM_SHA384:
		return suite{keyLen: 32, secretLen: sha512.Size384, hash: sha512.New384}, true
	}
	return suite{}, false
}

// keys are what protects one direction.
type keys struct {
	suite suite
	aead  cipher.AEAD
	mask  [nonceLen]byte
	nonce [nonceLen]byte // of the current record; here so that it is not allocated
	next  [maxSecret]byte
	seq   uint64 // records since the keys are in use
}

// use derives the keys of a traffic secret, and the secret of the keys after
// them. It wipes secret. Source: RFC 8446, sections 7.2 and 7.3.
func (k *keys) use(secret []byte) error {
	defer clear(secret)
	key, err := k.suite.expand(secret, "key", k.suite.keyLen)
	if err != nil {
		return err
	}
	defer clear(key)
	mask, err := k.suite.expand(secret, "iv", nonceLen)
	if err != nil {
		return err
	}
	defer clear(mask)
	next, err := k.suite.expand(secret, "traffic upd", k.suite.secretLen)
	if err != nil {
		return err
	}
	defer clear(next)
	block, err := aes.NewCipher(key)
	if err != nil {
		return err
	}
	if k.aead, err = cipher.NewGCM(block); err != nil {
		return err
	}
	copy(k.mask[:], mask)
	copy(k.next[:], next)
	k.seq = 0
	return nil
}

// update goes on to the next keys.
func (k *keys) update() error {
	secret := k.next // use wipes what it is given
	return k.use(secret[:k.suite.secretLen])
}

// number is the nonce of the current record. Source: RFC 8446, section 5.3.
func (k *keys) number() []byte {
	k.nonce = k.mask
	low := k.nonce[nonceLen-8:]
	binary.BigEndian.PutUint64(low, binary.BigEndian.Uint64(low)^k.seq)
	return k.nonce[:]
}

// wipe clears what is secret.
func (k *keys) wipe() {
	k.aead = nil
	clear(k.mask[:])
	clear(k.nonce[:])
	clear(k.next[:])
}

// expand is HKDF-Expand-Label with an empty context. Source: RFC 8446, section
// 7.1.
func (s suite) expand(secret []byte, label string, length int) ([]byte, error) {
	label = "tls13 " + label
	info := binary.BigEndian.AppendUint16(make([]byte, 0, 32), uint16(length))
	info = append(info, byte(len(label)))
	info = append(info, label...)
	info = append(info, 0)
	return hkdf.Expand(s.hash, secret, string(info), length)
}
