package api

import (
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/labstack/echo/v4"

	"provision/hosts"
	"provision/images"
	"provision/internal/enroll"
	"provision/internal/store"
)

// TestCodes: what was asked wrongly is 400, and what is not the caller's fault 500.
func TestCodes(t *testing.T) {
	for want, errs := range map[int][]error{
		http.StatusBadRequest: {
			errors.New("MAC address: write six bytes"),
			&fs.PathError{Op: "lstat", Path: "/extra", Err: syscall.ENOENT},
		},
		http.StatusNotFound:         {hosts.ErrNotFound, images.ErrNotFound, echo.ErrNotFound},
		http.StatusMethodNotAllowed: {echo.ErrMethodNotAllowed},
		http.StatusConflict:         {hosts.ErrRefused, &enroll.Outdated{}},
		http.StatusInternalServerError: {
			&hosts.Fault{Err: errors.New("the disk is gone")},
			&fs.PathError{Op: "write", Path: "/var/lib/provision/images/x", Err: syscall.ENOSPC},
			&hosts.Fault{Err: &store.Damaged{Keys: []string{"host/bravo"}}},
		},
	} {
		for _, err := range errs {
			if got := code(fmt.Errorf("enroll bravo: %w", err)); got != want {
				t.Errorf("%v: %d, want %d", err, got, want)
			}
		}
	}
}

// TestStoreGone: a store that fails is the server's fault, and said so in the log.
func TestStoreGone(t *testing.T) {
	db, err := store.OpenBolt(filepath.Join(t.TempDir(), "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	inventory, err := hosts.New(db, nil, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	s := &Server{Hosts: inventory, Log: slog.New(slog.NewTextHandler(&log, nil))}
	db.Close()
	w := httptest.NewRecorder()
	s.routes().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/v1/hosts/bravo", nil))
	if w.Code != http.StatusInternalServerError || !strings.Contains(w.Body.String(), "database not open") ||
		!strings.Contains(log.String(), "level=ERROR") {
		t.Errorf("%d %s; the log: %s", w.Code, w.Body, log.String())
	}
}

// TestStatusTellsChoices: every choice is in the status, by its own name or another.
func TestStatusTellsChoices(t *testing.T) {
	for _, ch := range hosts.AllChoices() {
		var c hosts.Choices
		makeChoice(t, ch.In(&c))
		data, err := json.Marshal(statusOf(hosts.Host{Choices: c}))
		if err != nil {
			t.Fatal(err)
		}
		var st Status
		if err := json.Unmarshal(data, &st); err != nil {
			t.Fatal(err)
		}
		told := st.Choices
		told.Image = st.Image
		told.FixedAddress = st.FixedAddress
		told.BootMethod = st.Pinned
		told.Hardware = hosts.Hardware(st.Hardware)
		told.Proof = st.ProofBy
		if !reflect.DeepEqual(ch.In(&told), ch.In(&c)) {
			t.Errorf("%s: of %v is told %v", ch.Name, ch.In(&c), ch.In(&told))
		}
	}
}

// makeChoice makes a choice other than the default.
func makeChoice(t *testing.T, to any) {
	t.Helper()
	switch to := to.(type) {
	case *string:
		*to = "x"
	case *bool:
		*to = true
	case *[]string:
		*to = []string{"x"}
	case *map[string]string:
		*to = map[string]string{"main": "x"}
	case *[]hosts.SecretFile:
		*to = []hosts.SecretFile{{Path: "/x", Mode: "0400"}}
	case *[]hosts.Chown:
		*to = []hosts.Chown{{Path: "/x", UID: 1, GID: 2}}
	case encoding.TextUnmarshaler:
		text := "7" // of what takes any word, or numbers
		if words, ok := to.(interface{ Words() []string }); ok {
			text = words.Words()[1]
		}
		if err := to.UnmarshalText([]byte(text)); err != nil {
			t.Fatal(err)
		}
	default:
		t.Fatalf("a choice of a type that this test does not know: %T", to)
	}
}
