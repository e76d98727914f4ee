package leftovers

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Names in the folder of a backup.
const (
	RestoreScript = "restore.sh"
	filesArchive  = "files.tar.gz"
	itemsFile     = "leftovers.json"
)

// backup is one that is being written: what is put into it, by name, and the lines that put it back.
type backup struct {
	*search
	ctx     context.Context
	dir     string // as this process sees it
	sums    map[string][sha256.Size]byte
	restore []string
}

// scriptHead has what the lines of a script use. A rule in a chain of others goes back to its place by number, or behind all if there are fewer; everything
// else of others' is left as it is then.
const scriptHead = `#!/bin/sh -e
# Puts back what tierctl cleanup node has removed here: sh restore.sh [ROOT]. What others have changed since stays. It does no harm to run it again.
root=$(cd "${1:-/}" && pwd)
cd "$(dirname "$0")"
failed=0
lost() { echo "not put back: $*" >&2; failed=1; }
# away IPTABLES TABLE RULE...
away() {
	iptables=$1 table=$2; shift 2
	while $iptables -w 10 -t $table -D "$@" 2>/dev/null; do :; done
}
# rule IPTABLES TABLE POSITION PACKETS BYTES CHAIN RULE...
rule() {
	iptables=$1 table=$2 position=$3 packets=$4 bytes=$5 chain=$6; shift 6
	$iptables -w 10 -t $table -I "$chain" $position "$@" -c $packets $bytes 2>/dev/null ||
		$iptables -w 10 -t $table -A "$chain" "$@" -c $packets $bytes || lost "$iptables -t $table -A $chain $*"
}
route() { ip $1 route replace $2 || lost "route $2"; }
iprule() {
	ip $1 rule delete $2 2>/dev/null || true
	ip $1 rule add $2 || lost "ip rule $2"
}
`

// Backup writes to a new folder of the machine's whatever Steps would remove, with a script that puts it back, and reads it back. Beside that are whole
// tables, rules, routes and interfaces, to read.
func Backup(ctx context.Context, o Options, l *Leftovers, dir string) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("backup to %s: %w", dir, err)
		}
	}()
	s, err := begin(o)
	if err != nil {
		return err
	}
	dir = s.path(dir)
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	items, err := json.Marshal(l.Items)
	if err != nil {
		return err
	}
	b := &backup{search: s, ctx: ctx, dir: dir, sums: map[string][sha256.Size]byte{}}
	if err := b.write(itemsFile, items, 0o600); err != nil {
		return err
	}
	for _, part := range []func(*Leftovers) error{b.sets, b.legacy, b.nft, b.network, b.files} {
		if err := part(l); err != nil {
			return err
		}
	}
	if err := b.write(RestoreScript, []byte(scriptHead+strings.Join(b.restore, "\n")+"\nexit $failed\n"), 0o700); err != nil {
		return err
	}
	return b.verify()
}

func (b *backup) write(name string, text []byte, mode fs.FileMode) error {
	b.sums[name] = sha256.Sum256(text)
	f, err := os.OpenFile(filepath.Join(b.dir, name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	return errors.Join(err, f.Sync(), f.Close())
}

// said is what a program says.
func (b *backup) said(name string, args ...string) ([]byte, error) {
	p, err := b.program(name)
	if err != nil {
		return nil, err
	}
	return p.run(b.ctx, "", args...)
}

// keep what a program says, under a name.
func (b *backup) keep(name, program string, args ...string) error {
	text, err := b.said(program, args...)
	if err != nil {
		return err
	}
	return b.write(name, text, 0o600)
}

// ifThere is said for what is only to be read; that it cannot be had is written instead.
func (b *backup) ifThere(name, program string, args ...string) error {
	text, err := b.said(program, args...)
	if err != nil {
		return b.write(name+".missing", []byte(err.Error()+"\n"), 0o600)
	}
	return b.write(name, text, 0o600)
}

func has(l *Leftovers, kinds ...Kind) bool {
	return slices.ContainsFunc(l.Items, func(i Item) bool { return slices.Contains(kinds, i.Kind) })
}

// tables of iptables that something is removed from, by how In begins: family and name.
func tablesIn(l *Leftovers, variant string) (tables [][2]string) {
	for _, i := range l.Items {
		words := strings.Fields(i.In)
		if (i.Kind == Chain || i.Kind == Rule) && words[0] == variant {
			if t := [2]string{words[1], words[2]}; !slices.Contains(tables, t) {
				tables = append(tables, t)
			}
		}
	}
	return tables
}

// sets that go, and of those of others nothing: they have changed by the time that these are put back.
func (b *backup) sets(l *Leftovers) error {
	if !has(l, Set) {
		return nil
	}
	text, err := b.said("ipset", "save")
	if err != nil {
		return err
	}
	var own strings.Builder
	for line := range strings.Lines(string(text)) {
		words := strings.Fields(line)
		if len(words) > 1 && slices.ContainsFunc(l.Items, func(i Item) bool { return i.Kind == Set && i.Name == words[1] }) {
			own.WriteString(line)
		}
	}
	b.restore = append(b.restore, "ipset restore -exist <ipset.save")
	return b.write("ipset.save", []byte(own.String()), 0o600)
}

func (b *backup) legacy(l *Leftovers) error {
	for _, t := range tablesIn(l, "legacy") {
		f := legacyFamilies[slices.IndexFunc(legacyFamilies, func(f legacyFamily) bool { return f.family == t[0] })]
		text, err := b.legacySave(b.ctx, f, t[1])
		if err != nil {
			return err
		}
		restore, err := b.legacyTool(f, "restore")
		if err != nil {
			return err
		}
		edit, err := b.legacyTool(f, "")
		if err != nil {
			return err
		}
		if err := b.iptables(f.program+"-legacy-"+t[1], text, t[1], restore.name()+" -w 10", edit.name()); err != nil {
			return err
		}
	}
	return nil
}

// iptables keeps a table, and what of it goes so that it can be put back into whatever the table is by then: chains are made anew, or emptied first.
func (b *backup) iptables(name string, text []byte, table, restore, edit string) error {
	theirs := b.owned(parseSaved(text))
	var own strings.Builder
	fmt.Fprintf(&own, "*%s\n", table)
	for _, c := range theirs.chains {
		if owner, _ := b.chain(c); b.stays(owner, table) == "" {
			fmt.Fprintf(&own, ":%s - [0:0]\n", c)
		}
	}
	for _, r := range theirs.inside {
		if owner, _ := b.chain(r.chain); b.stays(owner, table) == "" {
			fmt.Fprintf(&own, "[%s] -A %s\n", r.counters, r.text)
		}
	}
	own.WriteString("COMMIT\n")
	b.restore = append(b.restore, fmt.Sprintf("%s --noflush -c <%s.restore", restore, name))
	var away, back []string
	for _, r := range theirs.rules {
		if owner, _ := b.rule(r.jumps, r.comments); b.stays(owner, table) != "" {
			continue
		}
		rule := quoted(append([]string{r.chain}, r.words...))
		packets, bytes, _ := strings.Cut(r.counters, ":")
		away = append(away, fmt.Sprintf("away %s %s %s", edit, table, rule))
		back = append(back, fmt.Sprintf("rule %s %s %d %s %s %s", edit, table, r.position, packets, bytes, rule))
	}
	b.restore = slices.Concat(b.restore, away, back)
	return errors.Join(b.write(name+".save", text, 0o600), b.write(name+".restore", []byte(own.String()), 0o600))
}

// quoted for a shell.
func quoted(words []string) string {
	var out []string
	for _, w := range words {
		out = append(out, "'"+strings.ReplaceAll(w, "'", `'\''`)+"'")
	}
	return strings.Join(out, " ")
}

// nft keeps the owners' own tables as nft lists them, and those of iptables-nft as that gives them: nft does not know each of their rules. If
// iptables-nft is not there or refuses a table, nft's list of it must do, as far as it can say it; that is put back as a whole.
func (b *backup) nft(l *Leftovers) error {
	if !has(l, NFTTable, NFTChain, Chain, Rule) {
		return nil
	}
	if err := b.ifThere("ruleset.nft", "nft", "list", "ruleset"); err != nil {
		return err
	}
	own := map[string]bool{}
	for _, i := range slices.Concat(l.Items, l.Kept) {
		name := i.Name
		if i.Kind == NFTChain {
			name = i.In
		}
		if (i.Kind != NFTTable || i.Stays != "") && i.Kind != NFTChain || own[name] {
			continue
		}
		own[name] = true
		if err := b.nftTable(name, nil); err != nil {
			return err
		}
	}
	for _, t := range tablesIn(l, "nft") {
		program := map[string]string{"ip": "iptables", "ip6": "ip6tables"}[t[0]] + "-nft"
		text, refused := b.said(program+"-save", "-c", "-t", t[1])
		if refused != nil {
			if err := b.nftTable(t[0]+" "+t[1], refused); err != nil {
				return err
			}
			continue
		}
		if err := b.iptables(program+"-"+t[1], text, t[1], program+"-restore", program); err != nil {
			return err
		}
	}
	return nil
}

// nftTable keeps a table as nft lists it. Why it is not kept otherwise is told if nft cannot say it either.
func (b *backup) nftTable(name string, because error) error {
	text, err := b.said("nft", append([]string{"list", "table"}, strings.Fields(name)...)...)
	switch {
	case err != nil:
		return errors.Join(because, err)
	case bytes.Contains(text, []byte("xt match")) || bytes.Contains(text, []byte("xt target")):
		return errors.Join(because, fmt.Errorf("nft cannot list table %s so that it could be put back: install iptables", name))
	}
	file := "nft-" + strings.ReplaceAll(name, " ", "-") + ".nft"
	b.restore = append(b.restore, "nft -f "+file)
	return b.write(file, fmt.Appendf(nil, "table %s\ndelete table %s\n%s", name, name, text), 0o600)
}

func (b *backup) network(l *Leftovers) error {
	if !has(l, IPRule, Interface, Route) {
		return nil
	}
	for _, s := range []struct {
		name string
		args []string
	}{{"ip-link.txt", []string{"-d", "link"}}, {"ip-address.txt", []string{"address"}}, {"ip-route.txt", []string{"route", "show", "table", "all"}},
		{"ip6-route.txt", []string{"-6", "route", "show", "table", "all"}}, {"ip-rule.txt", []string{"rule"}}, {"ip6-rule.txt", []string{"-6", "rule"}}} {
		if err := b.keep(s.name, "ip", s.args...); err != nil {
			return err
		}
	}
	for _, i := range l.Items {
		if i.Kind == Interface {
			lines, err := deviceLines(i.Name)
			if err != nil {
				return fmt.Errorf("interface %s: %w", i.Name, err)
			}
			b.restore = append(b.restore, lines...)
		}
	}
	for _, i := range l.Items {
		if line := map[Kind]string{Route: "route", IPRule: "iprule"}[i.Kind]; line != "" {
			b.restore = append(b.restore, fmt.Sprintf("%s %s %s", line, map[string]string{"ip": "-4", "ip6": "-6"}[i.In], quoted([]string{i.Name})))
		}
	}
	return nil
}

// files and folders, but for sockets and the like, and for what is mounted in them.
func (b *backup) files(l *Leftovers) error {
	if !has(l, File) {
		return nil
	}
	mounts, err := mountPoints()
	if err != nil {
		return err
	}
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	w := tar.NewWriter(z)
	for _, i := range l.Items {
		if i.Kind != File {
			continue
		}
		err := filepath.WalkDir(i.Name, func(path string, e fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if slices.ContainsFunc(mounts, func(m mount) bool { return m.path == path }) && e.IsDir() {
				return fs.SkipDir
			}
			name, err := filepath.Rel(b.path("/"), path)
			if err != nil {
				return err
			}
			return addFile(w, path, name, e)
		})
		if err != nil {
			return err
		}
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		return err
	}
	b.restore = append(b.restore, "tar -xzpf "+filesArchive+` -C "$root"`)
	return b.write(filesArchive, out.Bytes(), 0o600)
}

func addFile(w *tar.Writer, path, name string, e fs.DirEntry) error {
	info, err := e.Info()
	if err != nil {
		return err
	}
	link := ""
	switch {
	case info.Mode()&fs.ModeSymlink != 0:
		if link, err = os.Readlink(path); err != nil {
			return err
		}
	case !info.IsDir() && !info.Mode().IsRegular():
		return nil
	}
	head, err := tar.FileInfoHeader(info, link)
	if err != nil {
		return err
	}
	head.Name = name
	if err := w.WriteHeader(head); err != nil || !info.Mode().IsRegular() {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.CopyN(w, f, head.Size) // a log may grow meanwhile
	return err
}

// verify reads everything back, and the archive to its end.
func (b *backup) verify() error {
	for name, sum := range b.sums {
		text, err := os.ReadFile(filepath.Join(b.dir, name))
		if err != nil {
			return err
		}
		if sha256.Sum256(text) != sum {
			return fmt.Errorf("%s does not read back as it was written", name)
		}
		if name != filesArchive {
			continue
		}
		z, err := gzip.NewReader(bytes.NewReader(text))
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		for r := tar.NewReader(z); err == nil; {
			if _, err = r.Next(); err == nil {
				_, err = io.Copy(io.Discard, r)
			}
		}
		if !errors.Is(err, io.EOF) {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}
