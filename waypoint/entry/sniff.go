package entry

import "strings"

// guess is what the first bytes of a stream look like.
type guess uint8

const (
	unsure  guess = iota // more bytes are needed
	isHTTP1              // a request line of HTTP/1
	isHTTP2              // the preface of HTTP/2
	isBytes              // anything else
)

// preface is how HTTP/2 begins. Source: RFC 9113, section 3.4.
const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// maxMethod is the longest method that is taken for one: our choice. Registered
// ones have at most 17 letters.
const maxMethod = 20

// sniff guesses by the first bytes: a method in capital letters, a space, and
// what begins a target.
func sniff(p []byte) guess {
	if n := min(len(p), len(preface)); string(p[:n]) == preface[:n] {
		if n == len(preface) {
			return isHTTP2
		}
		return unsure
	}
	for i, c := range p {
		switch {
		case c == ' ' && i > 0:
			return sniffTarget(string(p[i+1:]))
		case c != '-' && (c < 'A' || c > 'Z') || i >= maxMethod:
			return isBytes
		}
	}
	return unsure
}

// sniffTarget guesses by what follows the method.
func sniffTarget(rest string) guess {
	if rest == "" {
		return unsure
	}
	if rest[0] == '/' || rest[0] == '*' {
		return isHTTP1
	}
	for _, scheme := range []string{"http://", "https://"} {
		n := min(len(rest), len(scheme))
		if strings.EqualFold(rest[:n], scheme[:n]) {
			if n == len(scheme) {
				return isHTTP1
			}
			return unsure
		}
	}
	return isBytes
}
