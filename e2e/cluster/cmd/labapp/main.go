// Command labapp is an ordinary program that knows nothing of a mesh: the servers and
// clients of a lab's pods. LINGER is how long it goes on after SIGTERM; with EXIT_AFTER
// it ends by itself, as the program of a Job does; with FIRST it begins by calling that
// address once, and says what came of it.
package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/ambit-mesh/ambit/internal/lab/labapp"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "labapp:", err)
		os.Exit(1)
	}
}

func run() error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	linger, err := time.ParseDuration(cmp.Or(os.Getenv("LINGER"), "300ms"))
	if err != nil {
		return fmt.Errorf("LINGER: %w", err)
	}
	life, err := time.ParseDuration(cmp.Or(os.Getenv("EXIT_AFTER"), "0s"))
	if err != nil {
		return fmt.Errorf("EXIT_AFTER: %w", err)
	}
	if life > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, life)
		defer cancel()
	}
	const control = "/labapp.sock"
	if err := os.Remove(control); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if address := os.Getenv("FIRST"); address != "" {
		first(ctx, address)
	}
	pod := cmp.Or(os.Getenv("POD_NAME"), os.Getenv("HOSTNAME"))
	return labapp.Run(ctx, labapp.Config{Pod: pod, Control: control, Linger: linger})
}

// first makes the program's first connection, at once and once only, and writes in one
// line how it went.
func first(ctx context.Context, address string) {
	start := time.Now()
	var found, connected time.Time // the name, and the server or who stands before it
	text := "first: ok"
	dialer := net.Dialer{Timeout: 10 * time.Second, ControlContext: func(context.Context, string, string, syscall.RawConn) error {
		if found.IsZero() {
			found = time.Now()
		}
		return nil
	}}
	conn, err := dialer.DialContext(ctx, "tcp", address)
	connected = time.Now()
	if found.IsZero() {
		found = connected
	}
	if err == nil {
		defer conn.Close()
		err = conn.SetDeadline(start.Add(10 * time.Second))
	}
	if err == nil {
		_, err = fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: first\r\nX-Marker: %s\r\nConnection: close\r\n\r\n", os.Getenv("MARKER"))
	}
	var res *http.Response
	if err == nil {
		res, err = http.ReadResponse(bufio.NewReader(conn), nil)
	}
	if err == nil {
		res.Body.Close()
		if res.StatusCode != http.StatusOK {
			err = errors.New(res.Status)
		}
	}
	if err != nil {
		text = fmt.Sprintf("first: %q", err)
	}
	fmt.Printf("%s %d us, lookup %d us, connect %d us, begun %s\n", text,
		time.Since(start).Microseconds(), found.Sub(start).Microseconds(), connected.Sub(found).Microseconds(), start.UTC().Format(time.RFC3339Nano))
}
