package disko

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"time"
)

// stepJSON is a step whose duration is a number of seconds.
type stepJSON struct {
	plainStep
	Usual float64 `json:"usual_seconds,omitempty"`
}

type plainStep Step

// MarshalJSON writes the step with usual_seconds, if it is known.
func (s Step) MarshalJSON() ([]byte, error) {
	return json.Marshal(stepJSON{plainStep(s), s.Usual.Seconds()})
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (s *Step) UnmarshalJSON(data []byte) error {
	var j stepJSON
	if err := json.Unmarshal(data, &j); err != nil {
		return err
	}
	*s = Step(j.plainStep)
	s.Usual = time.Duration(j.Usual * float64(time.Second))
	return nil
}

// setUsual tells how long each step takes.
func setUsual(steps []Step, places map[string]place) {
	sizes, iterations := map[string]int64{}, map[string]time.Duration{}
	for _, p := range places {
		sizes[p.device] = p.size
	}
	for i := range steps {
		s := &steps[i]
		if s.Hook != "" {
			continue
		}
		if slices.Contains(s.Argv, "luksFormat") {
			iterations[s.Device] = iterTime(s.Argv)
		}
		d := usual(s.Argv, sizes[s.Device])
		if known, ok := iterations[s.Device]; ok && slices.Contains(s.Argv, "open") {
			d = known
		}
		if d >= time.Second {
			s.Usual = d.Round(time.Second)
		}
	}
}
