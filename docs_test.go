package provision

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	mdLink    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	mdFence   = regexp.MustCompile("(?ms)^```.*?^```$")
	mdHeading = regexp.MustCompile(`(?m)^#+ +(.+)$`)
	notSlug   = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

// TestDocs: every link in the documentation leads to a file and a heading that there are, and every page of docs/ can be
// reached from README.md.
func TestDocs(t *testing.T) {
	pages := make(map[string]string) // text by path
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "testdata" || strings.HasPrefix(path, ".") && path != "."):
			return filepath.SkipDir
		case filepath.Ext(path) != ".md":
			return nil
		}
		text, err := os.ReadFile(path)
		pages[path] = mdFence.ReplaceAllString(string(text), "")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}

	seen := map[string]bool{"README.md": true}
	for next := []string{"README.md"}; len(next) > 0; next = next[1:] {
		for _, to := range linked(next[0], pages[next[0]]) {
			file, _, _ := strings.Cut(to, "#")
			if _, page := pages[file]; page && !seen[file] {
				seen[file] = true
				next = append(next, file)
			}
		}
	}
	for path, text := range pages {
		if strings.HasPrefix(path, "docs/") && !seen[path] {
			t.Errorf("%s cannot be reached from README.md", path)
		}
		for _, to := range linked(path, text) {
			file, anchor, _ := strings.Cut(to, "#")
			if _, err := os.Stat(file); err != nil {
				t.Errorf("%s links to %s, which there is not", path, file)
			}
			if anchor != "" && !slices.Contains(anchors(pages[file]), anchor) {
				t.Errorf("%s links to %s, which has no heading of that name", path, to)
			}
		}
	}
}

// linked are where the relative links of a page lead, from the top of the project.
func linked(path, text string) (targets []string) {
	for _, m := range mdLink.FindAllStringSubmatch(text, -1) {
		to := m[1]
		switch {
		case strings.Contains(to, "://"):
		case strings.HasPrefix(to, "#"):
			targets = append(targets, path+to)
		default:
			targets = append(targets, filepath.Join(filepath.Dir(path), to))
		}
	}
	return targets
}

// anchors are the headings of a page as GitHub names them.
func anchors(text string) (names []string) {
	for _, m := range mdHeading.FindAllStringSubmatch(text, -1) {
		slug := notSlug.ReplaceAllString(strings.ToLower(m[1]), "")
		names = append(names, strings.ReplaceAll(slug, " ", "-"))
	}
	return names
}
