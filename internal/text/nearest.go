package text

// Nearest is the name that was probably meant by a word, or "" if none resembles it. A name further off than two
// letters is not a typing error.
func Nearest(word string, names []string) (best string) {
	distance := 3
	for _, name := range names {
		if d := editDistance(word, name); d < distance && d < len(word) {
			best, distance = name, d
		}
	}
	return best
}

// editDistance counts the bytes to insert, delete or change to make a into b (Levenshtein).
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}

	return row[len(b)]
}
