# Runs the steps that come on standard input, see batch.go: words, each followed by NUL. Their
# number comes first; then, for each step, its bound in seconds, the file that is fed to it
# (or nothing), the number of its arguments and these; then "end". What the steps say goes to
# stderr, with a line that is NUL before each; how they fare goes to stdout, each line behind the
# mark $1, for start-up files of the shell print there, too. $2: go on after a step that failed.
mapfile -d '' -t words
# A connection that broke leaves the beginning of it.
[[ ${#words[@]} -gt 1 && ${#words[@]} -eq ${words[0]} && ${words[-1]} = end ]] || exit 1
unset secret # nothing exports it
step=0
for ((i = 1; i < ${#words[@]} - 1; i += 3 + ${words[i + 2]})); do
	file=${words[i + 1]}
	run=(timeout -k 10 "${words[i]}" "${words[@]:i + 3:${words[i + 2]}}")
	printf '\0\n' >&2 || exit
	printf '%s started %d\n' "$1" "$step" || exit # nobody listens any more
	if [[ -z $file ]]; then
		"${run[@]}" </dev/null >&2
	else
		# The file without the newlines at its end, as disko reads it.
		secret=$(cat -- "$file") && printf %s "$secret" | "${run[@]}" >&2
	fi
	status=$?
	printf '%s ended %d %d\n' "$1" "$step" "$status" || exit
	[[ $status -eq 0 || -n $2 ]] || exit
	step=$((step + 1))
done
printf '%s done\n' "$1"
