package message

import "fmt"

// Error is why a message is refused.
type Error struct {
	// Status is what to answer, when it was a request.
	Status int
	// Text says what is wrong, without words of the sender.
	Text string
}

func (e *Error) Error() string { return e.Text }

// Bad is an error of a request that is answered 400.
func Bad(format string, args ...any) *Error {
	return &Error{Status: 400, Text: fmt.Sprintf(format, args...)}
}
