package leftovers

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
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
)

// backup is one that is being written: what is put into it, by name, and the lines that put it back.
type backup struct {
	ctx     context.Context
	dir     string
	sums    map[string][sha256.Size]byte
	restore []string
}

// Backup writes to a new folder whatever Steps would remove, with a script that puts it back, and reads it back. Beside that are the whole ruleset,
// rules, routes and interfaces, to read.
func Backup(ctx context.Context, l *Leftovers, dir string) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("backup to %s: %w", dir, err)
		}
	}()
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	b := &backup{ctx: ctx, dir: dir, sums: map[string][sha256.Size]byte{}}
	for _, part := range []func(*Leftovers) error{b.sets, b.legacy, b.nft, b.network, b.files} {
		if err := part(l); err != nil {
			return err
		}
	}
	head := "#!/bin/sh -e\n# Puts back what tierctl cleanup node has removed here. A table of iptables is put back as a whole: rules that somebody has added to it\n" +
		"# since are lost. Devices are not made anew: calico-node does that when it starts.\ncd \"$(dirname \"$0\")\"\n"
	if err := b.write(RestoreScript, []byte(head+strings.Join(b.restore, "\n")+"\n"), 0o700); err != nil {
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

// said is what a program says, kept under a name.
func (b *backup) said(name, program string, args ...string) error {
	path, err := look(program)
	if err != nil {
		return err
	}
	text, err := run(b.ctx, "", path, args...)
	if err != nil {
		return err
	}
	return b.write(name, text, 0o600)
}

// ifThere is said for what is only to be read; that it cannot be had is written instead.
func (b *backup) ifThere(name, program string, args ...string) error {
	err := b.said(name, program, args...)
	if err != nil && b.sums[name] == ([sha256.Size]byte{}) {
		return b.write(name+".missing", []byte(err.Error()+"\n"), 0o600)
	}
	return err
}

func has(l *Leftovers, kinds ...Kind) bool {
	return slices.ContainsFunc(l.Items, func(i Item) bool { return slices.Contains(kinds, i.Kind) })
}

// tables of iptables that something is removed from, by how In begins.
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

func (b *backup) sets(l *Leftovers) error {
	if !has(l, Set) {
		return nil
	}
	b.restore = append(b.restore, "ipset restore -exist <ipset.save")
	return b.said("ipset.save", "ipset", "save")
}

func (b *backup) legacy(l *Leftovers) error {
	for _, t := range tablesIn(l, "legacy") {
		f := legacyFamilies[slices.IndexFunc(legacyFamilies, func(f legacyFamily) bool { return f.family == t[0] })]
		text, err := f.save(b.ctx, t[1])
		if err != nil {
			return err
		}
		name := f.program + "-legacy-" + t[1] + ".save"
		if err := b.write(name, text, 0o600); err != nil {
			return err
		}
		restore, err := f.tool("restore")
		if err != nil {
			return err
		}
		b.restore = append(b.restore, filepath.Base(restore)+" -c -w 10 <"+name)
	}
	return nil
}

// nft keeps the owners' own tables as nft lists them, and those of iptables-nft as that gives them: nft does not know each of their rules. If
// iptables-nft does not know one of somebody else's, nft's list must do, as far as it can say it.
func (b *backup) nft(l *Leftovers) error {
	if !has(l, NFTTable, NFTChain, Chain, Rule) {
		return nil
	}
	if err := b.ifThere("ruleset.nft", "nft", "list", "ruleset"); err != nil {
		return err
	}
	var own []string
	for _, i := range slices.Concat(l.Items, l.Kept) {
		if i.Kind == NFTTable && !slices.Contains(own, i.Name) {
			own = append(own, i.Name)
		}
	}
	for _, name := range own {
		file := "nft-" + strings.ReplaceAll(name, " ", "-") + ".nft"
		if err := b.said(file, "nft", append([]string{"list", "table"}, strings.Fields(name)...)...); err != nil {
			return err
		}
		b.restore = append(b.restore, "nft delete table "+name+" 2>/dev/null || true", "nft -f "+file)
	}
	for _, t := range tablesIn(l, "nft") {
		program := map[string]string{"ip": "iptables", "ip6": "ip6tables"}[t[0]]
		name := program + "-nft-" + t[1] + ".save"
		refused := b.said(name, program+"-nft-save", "-c", "-t", t[1])
		if refused == nil {
			b.restore = append(b.restore, program+"-nft-restore -c <"+name)
			continue
		}
		path, err := look("nft")
		if err != nil {
			return errors.Join(refused, err)
		}
		text, err := run(b.ctx, "", path, "list", "table", t[0], t[1])
		if err != nil || bytes.Contains(text, []byte("xt match")) || bytes.Contains(text, []byte("xt target")) {
			return fmt.Errorf("%w; and nft cannot list table %s %s so that it could be put back", refused, t[0], t[1])
		}
		name = "nft-" + t[0] + "-" + t[1] + ".nft"
		if err := b.write(name, text, 0o600); err != nil {
			return err
		}
		b.restore = append(b.restore, "nft delete table "+t[0]+" "+t[1], "nft -f "+name)
	}
	return nil
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
		if err := b.said(s.name, "ip", s.args...); err != nil {
			return err
		}
	}
	for _, i := range l.Items {
		family := map[string]string{"ip": "-4", "ip6": "-6"}[i.In]
		switch i.Kind {
		case Route:
			b.restore = append(b.restore, "ip "+family+" route replace "+i.Name+" || true # its device may be missing")
		case IPRule:
			b.restore = append(b.restore, "ip "+family+" rule add "+i.Name+" || true # it may be there")
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
			return addFile(w, path, e)
		})
		if err != nil {
			return err
		}
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		return err
	}
	b.restore = append(b.restore, "tar -xzpf "+filesArchive+" -C /")
	return b.write(filesArchive, out.Bytes(), 0o600)
}

func addFile(w *tar.Writer, path string, e fs.DirEntry) error {
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
	head.Name = strings.TrimPrefix(path, "/")
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
