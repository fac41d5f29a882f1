# Lets the TPM open a LUKS2 container. $1: its device; $2: the PCRs; $3: the file that has a key of
# it (empty: that comes on standard input); $4, $5: where in that the key begins, and how many bytes
# it has (0: all that follow). The key is in no argument.
set -o pipefail
device=$1 pcrs=$2
cut=("skip=$4")
[[ -z $3 ]] || cut+=("if=$3")
[[ $5 -eq 0 ]] || cut+=("count=$5")
key() { dd iflag=fullblock,skip_bytes,count_bytes status=none "${cut[@]}"; }
# Else it would leave a slot for the same PCRs as it is, though that may be of another TPM, or of this one before it was cleared.
systemd-cryptenroll --wipe-slot=tpm2 "$device" || exit
enroll=(systemd-cryptenroll --tpm2-device=auto "--tpm2-pcrs=$pcrs")
if [[ $(systemd-cryptenroll --help) == *--unlock-key-file* ]]; then
	# It takes a file only, no pipe. This one has no name by the time that the key is in it.
	file=$(mktemp /run/key.XXXXXX) && exec 3<>"$file" && rm -- "$file" && key >&3 || exit
	"${enroll[@]}" --unlock-key-file=/proc/self/fd/3 "$device"
else # systemd before 252
	secret=$(key && echo .) || exit # the dot, so that no newline is lost
	PASSWORD=${secret%.} "${enroll[@]}" "$device"
fi
