package kube

import (
	"errors"
	"slices"
	"testing"

	authentication "k8s.io/api/authentication/v1"
)

// good is the answer about a token of a pod.
func good() *authentication.TokenReviewStatus {
	return &authentication.TokenReviewStatus{
		Authenticated: true, Audiences: []string{"istio-ca"},
		User: authentication.UserInfo{
			Username: "system:serviceaccount:mesh:ztunnel", Groups: []string{"system:serviceaccounts", "system:serviceaccounts:mesh"},
			Extra: map[string]authentication.ExtraValue{podNameExtra: {"zt-1"}, podUIDExtra: {"u1"}},
		},
	}
}

func TestReviews(t *testing.T) {
	tests := []struct {
		name   string
		change func(*authentication.TokenReviewStatus)
		want   Holder // zero: it does not hold
	}{
		{"of a pod", func(*authentication.TokenReviewStatus) {}, Holder{"mesh", "ztunnel", "zt-1", "u1"}},
		{"of an account, for no pod", func(s *authentication.TokenReviewStatus) { s.User.Extra = nil }, Holder{"mesh", "ztunnel", "", ""}},
		{"of two pods at once", func(s *authentication.TokenReviewStatus) { s.User.Extra[podNameExtra] = []string{"a", "b"} }, Holder{"mesh", "ztunnel", "", "u1"}},
		{"does not hold", func(s *authentication.TokenReviewStatus) { s.Authenticated = false }, Holder{}},
		{"an error beside", func(s *authentication.TokenReviewStatus) { s.Error = "no" }, Holder{}},
		{"for another audience", func(s *authentication.TokenReviewStatus) { s.Audiences = []string{"other"} }, Holder{}},
		{"for no audience that the server says", func(s *authentication.TokenReviewStatus) { s.Audiences = nil }, Holder{}},
		{"a person who calls itself an account", func(s *authentication.TokenReviewStatus) { s.User.Groups = []string{"system:authenticated"} }, Holder{}},
		{"a node", func(s *authentication.TokenReviewStatus) { s.User.Username = "system:node:n1" }, Holder{}},
		{"an account of no namespace", func(s *authentication.TokenReviewStatus) { s.User.Username = "system:serviceaccount::x" }, Holder{}},
		{"one with a part too many", func(s *authentication.TokenReviewStatus) { s.User.Username = "system:serviceaccount:a:b:c" }, Holder{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := good()
			tt.change(s)
			got, err := readReview(s, "istio-ca")
			if got != tt.want || (err != nil) != (tt.want == Holder{}) || err != nil && !errors.Is(err, ErrNotAuthenticated) {
				t.Errorf("got %+v, %v, want %+v", got, err, tt.want)
			}
		})
	}
}

// Whatever stands in an answer: who is let through is an account of a namespace,
// for this audience.
func FuzzReview(f *testing.F) {
	f.Add("system:serviceaccount:a:b", "istio-ca", "system:serviceaccounts", true)
	f.Add("system:serviceaccount:a:b:c", "x", "", false)
	f.Fuzz(func(t *testing.T, user, audience, group string, authenticated bool) {
		s := &authentication.TokenReviewStatus{Authenticated: authenticated, Audiences: []string{audience}, User: authentication.UserInfo{Username: user, Groups: []string{group}}}
		h, err := readReview(s, "istio-ca")
		if err == nil && (!authenticated || audience != "istio-ca" || !slices.Contains(s.User.Groups, accountGroup) ||
			user != accountUser+h.Namespace+":"+h.ServiceAccount || h.Namespace == "" || h.ServiceAccount == "") {
			t.Errorf("%q passes as %+v", user, h)
		}
	})
}
