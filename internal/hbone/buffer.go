package hbone

import "sync"

// The sizes of buffers: for small frames, for one TLS record, and for bulk.
// Measured: BenchmarkTwoHops; one system call per MiB is worth a quarter of the
// CPU against one per 16 KiB.
const (
	tiny = iota
	record
	large
	huge
	classes
)

// frameHead is the size of an HTTP/2 frame header, in bytes.
// Source: RFC 9113, section 4.1.
const frameHead = 9

// recordPayload is the most plaintext one TLS record holds, in bytes.
// Source: RFC 8446, section 5.1.
const recordPayload = 16 << 10

// recordOverhead is the most a record adds to its plaintext, in bytes: 5 of
// header, 1 of type and 16 of tag in TLS 1.3, rounded up.
const recordOverhead = 32

// classPayload is what a buffer is meant to hold, in bytes; classSlack is room
// beyond it for a frame header and for the overhead of its TLS records.
var (
	classPayload = [classes]int{1 << 10, 16 << 10, 256 << 10, 1 << 20}
	classSlack   = [classes]int{64, 512, 1 << 10, 4 << 10}
)

// pools hold the buffers that nobody uses; the garbage collector empties them.
var pools [classes]sync.Pool

// A buffer holds the bytes b[r:w]. It has one owner at a time.
type buffer struct {
	b      []byte
	r, w   int
	class  int
	shared bool // small frames may still be appended; guarded by conn.mu
	budget *Budget
}

// grab returns an empty buffer of the class, or of a smaller one down to
// record when the budget does not have it.
func grab(budget *Budget, class int) *buffer {
	for class > record && !budget.try(classPayload[class]+classSlack[class]) {
		class--
	}
	if class <= record {
		budget.force(classPayload[class] + classSlack[class])
	}
	return newBuffer(budget, class)
}

// grabWait returns an empty buffer of the class, after waiting for the budget;
// nil when it did not come.
func grabWait(budget *Budget, class int, stop <-chan struct{}) *buffer {
	if !budget.wait(classPayload[class]+classSlack[class], stop) {
		return nil
	}
	return newBuffer(budget, class)
}

// newBuffer takes a buffer from the pool. Its budget has been taken.
func newBuffer(budget *Budget, class int) *buffer {
	b, ok := pools[class].Get().(*buffer)
	if !ok {
		b = &buffer{b: make([]byte, classPayload[class]+classSlack[class]), class: class}
	}
	b.budget = budget
	b.r, b.w, b.shared = 0, 0, false
	return b
}

// free gives b back. Nil is fine.
func (b *buffer) free() {
	if b == nil {
		return
	}
	budget := b.budget
	b.budget = nil
	pools[b.class].Put(b)
	budget.release(len(b.b))
}

// len is how many bytes there are; none in nil.
func (b *buffer) len() int {
	if b == nil {
		return 0
	}
	return b.w - b.r
}

// bytes are those there are.
func (b *buffer) bytes() []byte {
	if b == nil {
		return nil
	}
	return b.b[b.r:b.w]
}

// room is what may still be filled.
func (b *buffer) room() []byte { return b.b[b.w:] }

// add appends as much of p as there is room for.
func (b *buffer) add(p []byte) int {
	n := copy(b.b[b.w:], p)
	b.w += n
	return n
}

// compact moves the bytes to the front.
func (b *buffer) compact() {
	if b.r > 0 {
		copy(b.b, b.b[b.r:b.w])
		b.w -= b.r
		b.r = 0
	}
}

// classFor is the smallest class that is meant for n bytes, or the largest.
func classFor(n int) int {
	for class, size := range classPayload {
		if n <= size {
			return class
		}
	}
	return huge
}

// adapt is the class to use after n bytes came at once into a buffer of class:
// one larger when it was full, one smaller when the smaller one would have had
// room to spare.
func adapt(class, n, least, most int) int {
	switch {
	case n >= classPayload[class]:
		class++
	case class > 0 && n <= classPayload[class-1]/2:
		class--
	}
	return clamp(class, least, most)
}
