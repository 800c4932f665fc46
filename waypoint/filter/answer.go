package filter

import (
	"strconv"

	"github.com/ambit-mesh/ambit/waypoint/message"
)

// Answer is what a waypoint says in place of an application.
type Answer struct {
	Status int
	Fields message.Fields
	Body   string
	// Grpc is the status for callers that speak gRPC; 0 derives it from Status.
	Grpc int
	// Flag is the response flag of the record.
	Flag string
	// Details says why, for the record.
	Details string
}

// Response is the answer to a request: to gRPC in its own way, which is a header
// only. Source: gRPC over HTTP/2, Responses.
func (a *Answer) Response(req *message.Request) (resp *message.Response, body string) {
	resp = &message.Response{Status: a.Status, Fields: append(message.Fields{}, a.Fields...)}
	if IsGRPC(req) && a.Status != 301 && a.Status != 302 {
		resp.Status = 200
		code := a.Grpc
		if code == 0 {
			code = grpcOf(a.Status)
		}
		resp.Fields.Add("content-type", "application/grpc")
		resp.Fields.Add("grpc-status", strconv.Itoa(code))
		if a.Body != "" {
			resp.Fields.Add("grpc-message", percent(a.Body))
		}
		return resp, ""
	}
	if a.Body != "" && !resp.Fields.Has("content-type") {
		resp.Fields.Add("content-type", "text/plain")
	}
	resp.Length = int64(len(a.Body))
	return resp, a.Body
}

// IsGRPC reports whether a request is one of gRPC.
func IsGRPC(req *message.Request) bool {
	t := req.Fields.Get("content-type")
	const grpc = "application/grpc"
	return len(t) >= len(grpc) && message.EqualName(t[:len(grpc)], grpc) && (len(t) == len(grpc) || t[len(grpc)] == '+' || t[len(grpc)] == ';')
}

// grpcOf is the status of gRPC for one of HTTP. Source: gRPC, "HTTP to gRPC
// Status Code Mapping".
func grpcOf(status int) int {
	switch status {
	case 400:
		return 13
	case 401:
		return 16
	case 403:
		return 7
	case 404:
		return 12
	case 408, 504:
		return 4
	case 429, 502, 503:
		return 14
	}
	return 2
}

// percent encodes what a message of gRPC must not hold.
func percent(text string) string {
	const hex = "0123456789ABCDEF"
	out := make([]byte, 0, len(text))
	for i := range len(text) {
		if c := text[i]; c >= ' ' && c < 0x7f && c != '%' {
			out = append(out, c)
		} else {
			out = append(out, '%', hex[c>>4], hex[c&15])
		}
	}
	return string(out)
}
