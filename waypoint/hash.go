package waypoint

import (
	"net/url"
	"strings"

	"github.com/ambit-mesh/ambit/internal/meshapi/waypointapi"
	"github.com/ambit-mesh/ambit/waypoint/filter"
	"github.com/ambit-mesh/ambit/waypoint/upstream"
)

// endpoint is one of upstream's.
type endpoint = upstream.Endpoint

// hash is what equal requests have in common, where the users want them at equal
// endpoints.
func (f *flight) hash(key upstream.Key) (uint64, bool) {
	b := f.picture.Service(key.Service).Traffic(key.Port, key.Subset).GetBalancer()
	if b.GetKind() != waypointapi.Balancer_CONSISTENT_HASH {
		return 0, false
	}
	text := ""
	switch k := b.GetHash().GetKind().(type) {
	case *waypointapi.HashKey_SourceIp:
		text = f.c.addr.Addr().String()
	case *waypointapi.HashKey_Header:
		if f.req != nil {
			text = f.asked.Fields.Get(k.Header)
		}
	case *waypointapi.HashKey_Query:
		if f.req != nil {
			text = queryValue(f.asked.Query, k.Query)
		}
	case *waypointapi.HashKey_Cookie:
		if f.req != nil {
			text = filter.CookieValue(f.asked.Fields.Get("cookie"), k.Cookie.GetName())
		}
	}
	return upstream.HashText(text), text != ""
}

// queryValue is the first value of a parameter.
func queryValue(query, name string) string {
	for part := range strings.SplitSeq(query, "&") {
		key, value, _ := strings.Cut(part, "=")
		if key, err := url.QueryUnescape(key); err == nil && key == name {
			return value
		}
	}
	return ""
}
