package installer

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	"provision/hosts"
)

// journalLimit bounds the reading of an installer's journal.
const journalLimit = 20 * time.Second

// journal prints the end of what the installer's system and kernel say.
const journal = `{ journalctl --boot --no-pager --lines=2000 2>/dev/null || dmesg; } | tail -c "$0"`

// keepJournal keeps what the installer says when an install fails: the machine may be switched off by the time that
// somebody looks.
func (i *install) keepJournal(ctx context.Context) {
	out, err := i.session.runWithin(ctx, journalLimit, nil, nil, "sh", "-c", journal, strconv.Itoa(hosts.MaxJournal))
	if err != nil || len(out) == 0 {
		i.Log.Debug("read the installer's journal", "host", i.host.Name, "err", err)
		return
	}
	text, err := i.withoutSecrets(i.host, string(out))
	if err == nil {
		err = i.Hosts.SetJournal(i.host.Name, text)
	}
	if err != nil {
		i.Log.Error("keep the installer's journal", "host", i.host.Name, "err", err)
		return
	}
	i.note("the end of its installer's journal is kept: provision logs %s --installer", i.host.Name)
}

// withoutSecrets leaves out what is in the host's secrets, should a program have told it. Shorter lines than that are
// words that a journal has anyway.
func (f *reconciler) withoutSecrets(h hosts.Host, text string) (string, error) {
	const shortest = 6
	names := []string{hosts.SecretHostKey, hosts.SecretBootKey}
	for _, path := range h.DiskKeys {
		names = append(names, hosts.SecretDisk(path))
	}
	for _, file := range h.Secrets {
		names = append(names, hosts.SecretContent(file.Path))
	}
	for _, name := range names {
		content, err := f.Hosts.Secret(h.Name, name)
		if err != nil && !errors.Is(err, hosts.ErrNotFound) {
			return "", err
		}
		for line := range strings.Lines(string(content)) {
			if line = strings.TrimSpace(line); len(line) >= shortest {
				text = strings.ReplaceAll(text, line, "(a secret)")
			}
		}
	}

	return text, nil
}
