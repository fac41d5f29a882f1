package text

// Nearest returns which of the candidates a mistyped word most likely stands for; empty: none of them is near enough.
// Near is a distance of one edit for each three letters of the word (Levenshtein), and one at least.
func Nearest(word string, candidates []string) string {
	nearest, least := "", max(1, len(word)/3)+1
	for _, c := range candidates {
		if d := distance(word, c); d < least {
			nearest, least = c, d
		}
	}
	return nearest
}

// distance is how many bytes are to be inserted, deleted or replaced to make b of a.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replaced := diagonal
			if a[i] != b[j] {
				replaced++
			}
			diagonal = row[j+1]
			row[j+1] = min(replaced, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
