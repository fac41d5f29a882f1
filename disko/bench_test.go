package disko

import (
	"encoding/json"
	"fmt"
	"testing"
)

// BenchmarkPlan plans a pool of 24 disks in six raidz2 with 200 datasets, from JSON.
func BenchmarkPlan(b *testing.B) {
	data := bigPool(b)
	l, err := Parse(data)
	if err != nil {
		b.Fatal(err)
	}
	facts := blank(b, l)
	b.Run("parse", func(b *testing.B) {
		for b.Loop() {
			if _, err := Parse(data); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("plan", func(b *testing.B) {
		for b.Loop() {
			if _, err := NewPlan(l, facts, Options{}); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func bigPool(b *testing.B) []byte {
	type m = map[string]any
	disks, datasets := m{}, m{}
	var vdevs []any
	for i := range 24 {
		name := fmt.Sprintf("d%02d", i)
		device, label := "/dev/sd"+string(rune('a'+i)), "disk-"+name+"-zfs"
		link := "/dev/disk/by-partlabel/" + label
		disks[name] = m{"type": "disk", "device": device, "destroy": true, "content": m{
			"type": "gpt", "device": device, "efiGptPartitionFirst": true, "partitions": m{"zfs": m{
				"type": "BF01", "label": label, "device": link, "size": "100%", "start": "0", "end": "-0", "priority": 9001,
				"content": m{"type": "zfs", "device": link, "pool": "tank"},
			}},
		}}
		if i%4 == 0 {
			vdevs = append(vdevs, m{"mode": "raidz2", "members": []string{}})
		}
		v := vdevs[len(vdevs)-1].(m)
		v["members"] = append(v["members"].([]string), name)
	}
	for i := range 200 {
		name := "root"
		if i > 0 {
			name = fmt.Sprintf("root/data%03d", i)
		}
		datasets[name] = m{"type": "zfs_fs", "name": name, "options": m{"compression": "zstd"},
			"mountOptions": []string{"noatime"}, "mountpoint": "/" + name[min(len(name), len("root/")):]}
	}
	data, err := json.Marshal(m{"disk": disks, "zpool": m{"tank": m{"type": "zpool", "name": "tank", "options": m{}, "rootFsOptions": m{"mountpoint": "none"},
		"datasets": datasets, "mode": m{"topology": m{"type": "topology", "vdev": vdevs}}}}})
	if err != nil {
		b.Fatal(err)
	}
	return data
}
