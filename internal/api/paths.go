package api

import (
	"fmt"
	"net/url"
)

// The paths of requests. Below those of hosts, images, firmware and traces are such things by their names.
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

// HostPath is that of a host, and of what is below it: "" or such as "/plan".
func HostPath(name, rest string) string { return below(HostsPath, name) + rest }

// WatchPath is that of the stream of News: of one host, or of all if host is empty; replay has the events past after sent
// first.
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

// ImagePath is that of an image.
func ImagePath(name string) string { return below(ImagesPath, name) }

// FirmwareTreePath is that of a tree of firmware.
func FirmwareTreePath(name string) string { return below(FirmwarePath, name) }

// TracePath is that of the last netboot of a machine, by its MAC or by a host's name.
func TracePath(machine string) string { return below(TracesPath, machine) }

func below(path, name string) string { return path + "/" + url.PathEscape(name) }
