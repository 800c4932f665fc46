package streamio

import (
	"errors"
	"io"
	"sync"
	"syscall"
)

const (
	// pipeSize is how much one step takes from a socket, in bytes: the most an
	// ordinary process may ask of a pipe (/proc/sys/fs/pipe-max-size).
	pipeSize = 1 << 20

	// idlePipes is how many empty pipes the process keeps for the next bytes.
	// A pipe costs two descriptors and four system calls to make.
	idlePipes = 64

	// bufferSize is how much one step copies, in bytes. A stream whose steps
	// are smaller is copied, one whose steps fill the buffer is spliced.
	// Measured: BenchmarkEcho (1 KiB copied takes 8 % less than spliced) and
	// BenchmarkBulk.
	bufferSize = 32 << 10

	// setPipeSize is F_SETPIPE_SZ. Source: linux/fcntl.h.
	setPipeSize = 1031

	// spliceFlags are SPLICE_F_MOVE and SPLICE_F_NONBLOCK. Source: splice(2).
	spliceFlags = 0x1 | 0x2
)

// load is what one direction has taken and not yet given, and the thing it lies
// in: a pipe, or a buffer. The zero load is empty and holds neither. One
// goroutine uses it.
type load struct {
	len  int // bytes in it
	pipe *pipe
	buf  *buffer
	off  int // where the bytes in buf begin

	bulk   bool // the last step was a large one
	copies bool // splice is not to be had here
}

// fill takes bytes from the socket src. The load must be empty.
func (l *load) fill(src int) (int, error) {
	if l.bulk && !l.copies {
		n, err := l.splice(src)
		if !l.copies {
			return n, err
		}
	}
	if l.pipe != nil {
		l.release() // the stream has become a trickle
	}
	if l.buf == nil {
		l.buf = buffers.Get().(*buffer)
	}
	n, err := ignoringEINTR(syscall.Read, src, l.buf[:])
	l.len, l.off = n, 0
	if err == nil {
		l.bulk = n == bufferSize
	}
	return n, err
}

// splice is fill without a copy. It sets l.copies when that cannot be done;
// nothing has been taken then.
func (l *load) splice(src int) (n int, err error) {
	if l.pipe == nil {
		l.release() // of the buffer
		if l.pipe, err = pipes.get(); err != nil {
			l.copies = true // most likely there are no more descriptors
			return 0, nil
		}
	}
	n, err = splice(src, l.pipe.w, pipeSize)
	if unsupported(err) {
		l.copies = true
		return 0, nil
	}
	l.len = n
	if err == nil {
		l.bulk = n >= bufferSize
	}
	return n, err
}

// drain gives bytes to the socket dst and says how many it took.
func (l *load) drain(dst int) (n int, err error) {
	if l.pipe != nil {
		n, err = splice(l.pipe.r, dst, l.len)
	} else {
		n, err = ignoringEINTR(syscall.Write, dst, l.buf[l.off:l.off+l.len])
	}
	if n == 0 && err == nil {
		return 0, io.ErrNoProgress // or we would try for ever
	}
	l.len -= n
	l.off += n
	return n, err
}

// release gives back the pipe or the buffer. A pipe with bytes in it is closed:
// they belong to this connection.
func (l *load) release() {
	if l.pipe != nil {
		if l.len > 0 {
			l.pipe.close()
		} else {
			pipes.put(l.pipe)
		}
		l.pipe = nil
	}
	if l.buf != nil {
		buffers.Put(l.buf)
		l.buf = nil
	}
	l.len, l.off = 0, 0
}

// splice moves up to limit bytes in the kernel. n is 0 with an error.
func splice(from, to, limit int) (int, error) {
	for {
		n, err := syscall.Splice(from, nil, to, nil, limit, spliceFlags)
		if err == syscall.EINTR {
			continue
		}
		return max(0, int(n)), err
	}
}

// unsupported tells whether err means that these descriptors cannot be spliced.
func unsupported(err error) bool {
	return err == syscall.EINVAL || err == syscall.ENOSYS || err == syscall.EPERM
}

// ignoringEINTR repeats a read or write that a signal interrupted. n is 0 with
// an error.
func ignoringEINTR(do func(int, []byte) (int, error), fd int, b []byte) (int, error) {
	for {
		n, err := do(fd, b)
		if err != syscall.EINTR {
			return max(0, n), err
		}
	}
}

// buffer is what bytes lie in where there is no pipe.
type buffer [bufferSize]byte

var buffers = sync.Pool{New: func() any { return new(buffer) }}

// pipes are the idle pipes of the process.
var pipes pipePool

// pipePool keeps up to idlePipes empty pipes. Any goroutine may use it.
type pipePool struct {
	mu   sync.Mutex
	idle []*pipe
}

// get returns an empty pipe.
func (p *pipePool) get() (*pipe, error) {
	p.mu.Lock()
	if last := len(p.idle) - 1; last >= 0 {
		got := p.idle[last]
		p.idle = p.idle[:last]
		p.mu.Unlock()
		return got, nil
	}
	p.mu.Unlock()
	return newPipe()
}

// put takes an empty pipe back.
func (p *pipePool) put(got *pipe) {
	p.mu.Lock()
	if len(p.idle) < idlePipes {
		p.idle = append(p.idle, got)
		p.mu.Unlock()
		return
	}
	p.mu.Unlock()
	got.close()
}

// pipe is a kernel pipe: what enters at w leaves at r.
type pipe struct{ r, w int }

// newPipe makes a pipe of pipeSize, or smaller where the user's share of pipe
// memory is spent (/proc/sys/fs/pipe-user-pages-soft).
func newPipe() (*pipe, error) {
	var fds [2]int
	if err := syscall.Pipe2(fds[:], syscall.O_CLOEXEC|syscall.O_NONBLOCK); err != nil {
		return nil, err
	}
	// A smaller pipe works too: fill takes what fits.
	_, _, _ = syscall.Syscall(syscall.SYS_FCNTL, uintptr(fds[1]), setPipeSize, pipeSize)
	return &pipe{r: fds[0], w: fds[1]}, nil
}

// close gives the pipe's descriptors back.
func (p *pipe) close() {
	err := errors.Join(syscall.Close(p.r), syscall.Close(p.w))
	_ = err // nothing is left to do: the descriptors are gone either way
}
