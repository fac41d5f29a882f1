package installer

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"provision/cache"
)

// TestPullError: what is told of a fetch that failed tells no token, and is still known for what it is.
func TestPullError(t *testing.T) {
	share := &cache.Share{Token: "SECRETSECRET"}
	err := error(pullError{fmt.Errorf("nix copy --from http://192.0.2.1/cache/%s: %w", share.Token, errLost), share})
	if text := fmt.Errorf("copy: %w", err).Error(); strings.Contains(text, share.Token) || !strings.Contains(text, "/cache/TOKEN: ") {
		t.Error(text)
	}
	if !errors.Is(err, errLost) {
		t.Error("it is not known any more that the session was lost")
	}
}
