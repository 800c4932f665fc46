package why

import (
	"cmp"
	"fmt"
	"io"
	"strings"
	"time"
)

// Tell writes r for people.
func (r *Report) Tell(w io.Writer) error {
	var out strings.Builder
	for _, p := range []Party{r.Source, r.Destination} {
		out.WriteString(p.tell())
	}
	out.WriteString("\n")
	tellSides(&out, "where it starts", "no ztunnel sees where it starts: the source is not in the mesh", r.Starts)
	tellSides(&out, "where it arrives", "no ztunnel sees where it arrives: the destination is not in the mesh, or nothing has been called", r.Arrives)
	_, err := io.WriteString(w, out.String())
	return err
}

// tell is one end in words.
func (p Party) tell() string {
	text := cmp.Or(p.Pod, p.Service, p.Asked)
	if p.Address != "" && p.Address != text {
		text += " (" + p.Address
		if p.Node != "" {
			text += " on " + p.Node
		}
		text += ")"
	}
	text += ": " + p.State
	if p.Identity != "" {
		text += "\n  " + p.Identity
		if p.Expires != "" {
			text += ", certificate until " + p.Expires
		}
	}
	for _, line := range p.Waypoints {
		text += "\n  " + line
	}
	return text + "\n"
}

// tellSides writes what the ztunnels of one side have said.
func tellSides(out *strings.Builder, what, none string, sides []Side) {
	if len(sides) == 0 {
		fmt.Fprintln(out, none)
	}
	for _, s := range sides {
		fmt.Fprintf(out, "%s (%s, %s):\n", what, s.Node, s.Direction)
		switch {
		case s.Error != "":
			fmt.Fprintln(out, "  could not be asked:", s.Error)
		case len(s.Connections) == 0:
			fmt.Fprintln(out, "  no connection of these two is open or among the last that have ended")
		}
		for _, c := range s.Connections {
			fmt.Fprintln(out, "  "+c.tell())
		}
	}
}

// tell is one connection in a line.
func (c Connection) tell() string {
	parts := []string{c.Opened.UTC().Format(time.TimeOnly), "to " + cmp.Or(c.Authority, c.Actual, c.Dest.Addr)}
	if c.Original != "" && c.Original != c.Authority && c.Original != c.Actual {
		parts[1] += " (called as " + c.Original + ")"
	}
	for _, part := range []struct{ word, text string }{{"for ", c.Service}, {"hop ", c.Hop}} {
		if part.text != "" {
			parts = append(parts, part.word+part.text)
		}
	}
	parts = append(parts, identities(c.Source.Identity, c.Dest.Identity))
	if c.Policy != "" {
		parts = append(parts, "decided by "+c.Policy)
	}
	bytes := fmt.Sprintf("%d bytes there, %d back", c.Sent, c.Received)
	switch {
	case c.Error != "":
		text := fmt.Sprintf("FAILED at stage %s, fault of %s: %s", cmp.Or(c.Stage, "unknown"), cmp.Or(c.Fault, "unknown"), c.Error)
		if c.Hint != "" {
			text += "\n    try: " + c.Hint
		}
		parts = append(parts, text)
	case c.State == "open":
		parts = append(parts, "open, "+bytes)
	default:
		parts = append(parts, "ended well, "+bytes)
	}
	return strings.Join(parts, ", ")
}

// identities says who was proven to be at the ends.
func identities(source, destination string) string {
	switch {
	case source == "":
		return "in plaintext"
	case destination == "":
		return "as " + source
	}
	return source + " to " + destination
}
