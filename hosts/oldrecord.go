package hosts

import "encoding/json"

// UnmarshalJSON reads a host's record, including records of older versions, in which some choices had other names and
// places.
func (h *Host) UnmarshalJSON(data []byte) error {
	type plainHost Host       // without methods, so that decoding does not recurse
	type plainChoices Choices // the same for Choices
	var host struct {
		*plainHost
		Image   string `json:"image"`
		Board   string `json:"board"`
		Options struct {
			*plainChoices
			Method            Method            `json:"method"`
			Hardware          map[string]string `json:"hardware"`
			TargetSubstitutes bool              `json:"target_substitutes"`
			DiskKeys          []string          `json:"disk_keys"`
			Generated         []string          `json:"generated"`
		} `json:"options"`
	}
	host.plainHost = (*plainHost)(h)
	host.Options.plainChoices = (*plainChoices)(&h.Choices)
	if err := json.Unmarshal(data, &host); err != nil {
		return err
	}

	old := host.Options
	if host.Image != "" {
		h.Image = host.Image
	}
	if host.Board != "" {
		h.Board = host.Board
	}
	if old.Method != (Method{}) {
		h.BootMethod = old.Method
	}
	if old.Hardware["tool"] != "" {
		h.Hardware = Hardware{Tool: old.Hardware["tool"], Path: old.Hardware["path"]}
	}
	if old.TargetSubstitutes {
		h.TargetSubstitutes = true
	}
	if old.DiskKeys != nil {
		h.DiskKeys = old.DiskKeys
	}
	if old.Generated != nil {
		h.Generated = old.Generated
	}
	return nil
}
