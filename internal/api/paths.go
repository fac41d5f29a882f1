package api

import (
	"fmt"
	"net/url"
)

// The paths of requests. Below those of hosts, images, firmware and traces, a name follows.
const (
	HostsPath      = "/v1/hosts"
	ForgottenPath  = "/v1/forgotten"
	DiscoveredPath = "/v1/discovered"
	ReachPath      = "/v1/reach"
	TracesPath     = "/v1/traces"
	SlowLoadsPath  = "/v1/slow-loads"
	ImagesPath     = "/v1/images"
	FirmwarePath   = "/v1/firmware"
	MediaPath      = "/v1/media"
	ServerPath     = "/v1/server"
	StatePath      = "/v1/state"
	SetAsidePath   = StatePath + "/set-aside"

	watchPath   = "/v1/watch"
	metricsPath = "/metrics"
)

// HostPath returns the path of a host, followed by rest, which is "" or such as "/plan".
func HostPath(name, rest string) string { return below(HostsPath, name) + rest }

// WatchPath returns the path of the stream of News: of one host, or of all hosts if host is empty. With replay, the
// host's events with numbers greater than after are sent first.
func WatchPath(host string, after uint64, replay bool) string {
	q := url.Values{}
	if host != "" {
		q.Set("host", host)
	}
	if replay {
		q.Set("after", fmt.Sprint(after))
	}
	return watchPath + "?" + q.Encode()
}

// ImagePath returns the path of an image.
func ImagePath(name string) string { return below(ImagesPath, name) }

// FirmwareTreePath returns the path of a firmware tree.
func FirmwareTreePath(name string) string { return below(FirmwarePath, name) }

// TracePath returns the path of a machine's last netboot. The machine is named by its MAC or its host's name.
func TracePath(machine string) string { return below(TracesPath, machine) }

func below(path, name string) string { return path + "/" + url.PathEscape(name) }
