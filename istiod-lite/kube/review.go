package kube

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	authentication "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// What the API server adds to the answer about a token that is bound to a pod.
// Source: k8s.io/apiserver/pkg/authentication/serviceaccount.
const (
	podNameExtra = "authentication.kubernetes.io/pod-name"
	podUIDExtra  = "authentication.kubernetes.io/pod-uid"

	accountUser  = "system:serviceaccount:"
	accountGroup = "system:serviceaccounts"
)

// Holder is whose a token is.
type Holder struct {
	Namespace, ServiceAccount string
	// PodName and PodUID are of the pod that the token was made for; empty when it
	// is for none.
	PodName, PodUID string
}

// ErrNotAuthenticated is in the error about a token that does not hold.
var ErrNotAuthenticated = errors.New("the token does not hold")

// Review asks the API server whose a token is. The error wraps
// [ErrNotAuthenticated] when it does not hold for the audience; any other means
// that there was no answer.
func (c *Client) Review(ctx context.Context, token, audience string) (Holder, error) {
	review, err := c.reviews.AuthenticationV1().TokenReviews().Create(ctx, &authentication.TokenReview{
		Spec: authentication.TokenReviewSpec{Token: token, Audiences: []string{audience}},
	}, metav1.CreateOptions{})
	if err != nil {
		return Holder{}, fmt.Errorf("ask the API server about a token: %w", err)
	}
	return readReview(&review.Status, audience)
}

// readReview reads the answer about a token.
func readReview(s *authentication.TokenReviewStatus, audience string) (Holder, error) {
	switch {
	case s.Error != "":
		return Holder{}, fmt.Errorf("%w: %s", ErrNotAuthenticated, s.Error)
	case !s.Authenticated:
		return Holder{}, ErrNotAuthenticated
	case !slices.Contains(s.Audiences, audience):
		return Holder{}, fmt.Errorf("%w: it is for %q, want %q", ErrNotAuthenticated, s.Audiences, audience)
	case !slices.Contains(s.User.Groups, accountGroup):
		return Holder{}, fmt.Errorf("%w: %q is no service account", ErrNotAuthenticated, s.User.Username)
	}
	rest, ok := strings.CutPrefix(s.User.Username, accountUser)
	namespace, name, both := strings.Cut(rest, ":")
	if !ok || !both || namespace == "" || name == "" || strings.Contains(name, ":") {
		return Holder{}, fmt.Errorf("%w: %q is no service account", ErrNotAuthenticated, s.User.Username)
	}
	b := Holder{Namespace: namespace, ServiceAccount: name}
	for key, into := range map[string]*string{podNameExtra: &b.PodName, podUIDExtra: &b.PodUID} {
		if values := s.User.Extra[key]; len(values) == 1 {
			*into = values[0]
		}
	}
	return b, nil
}
