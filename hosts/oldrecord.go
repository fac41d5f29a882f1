package hosts

import "encoding/json"

// UnmarshalJSON reads a host's record, also one of before the choices had the names that requests have.
func (h *Host) UnmarshalJSON(data []byte) error {
	type plainHost Host
	type plainChoices Choices
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
