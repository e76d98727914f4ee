package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/urfave/cli/v2"
)

// How long one part of an archive may take, and how large it may be: the end of a longer one is kept.
const (
	partTime = 30 * time.Second
	partSize = 16 << 20
)

// part of an archive: a file in it, and who makes that. Without an error and without text there is nothing to be said.
type part struct {
	name string
	get  func(context.Context) ([]byte, error)
}

// archive collects parts, which are redacted on their way, into a file.
type archive struct {
	top string // the folder in it

	mu      sync.Mutex
	tar     *tar.Writer
	work    *work
	missing []string
	written error
}

func archiveFlag() cli.Flag {
	return &cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "`FILE` to write, or - for standard output (default: one in the folder of temporary files)"}
}

// writeArchive makes one of all parts, some at once, and says where it is. What could not be had is named in it and on standard error.
func writeArchive(c *cli.Context, what string, parts []part, atOnce int) error {
	top := fmt.Sprintf("tierwall-%s-%s", what, time.Now().UTC().Format("20060102-150405"))
	to := c.String("output")
	if to == "" {
		to = filepath.Join(os.TempDir(), top+".tar.gz")
	}
	file, err := os.CreateTemp(filepath.Dir(to), ".diags-") // for its owner alone
	if err != nil {
		return fmt.Errorf("making the archive: %w; --output names another place", err)
	}
	defer os.Remove(file.Name()) // nothing is there after it was renamed
	zip := gzip.NewWriter(file)
	a := &archive{top: top, tar: tar.NewWriter(zip)}
	a.work = progress(c, "collecting", len(parts))
	a.collect(c.Context, parts, atOnce)
	a.work.end()
	slices.Sort(a.missing)
	a.add("MISSING.txt", []byte(strings.Join(append(a.missing, ""), "\n")))
	if err := errors.Join(a.written, a.tar.Close(), zip.Close(), c.Context.Err()); err != nil {
		_ = file.Close()
		return fmt.Errorf("writing the archive: %w", err)
	}
	if err := a.deliver(c, file, to); err != nil {
		return err
	}
	for _, m := range a.missing {
		fmt.Fprintf(c.App.ErrWriter, "missing: %s\n", m)
	}
	if n := len(a.missing); n > 0 {
		return statusError{fmt.Errorf("%d of %d parts could not be had; MISSING.txt in the archive names them", n, len(parts)), exitPartly}
	}
	return nil
}

// deliver the file to where it was asked for.
func (a *archive) deliver(c *cli.Context, file *os.File, to string) error {
	if to != "-" {
		if err := errors.Join(file.Close(), os.Rename(file.Name(), to)); err != nil {
			return fmt.Errorf("writing the archive: %w", err)
		}
		_, err := fmt.Fprintf(c.App.Writer, "%s\n", to)
		return err
	}
	defer file.Close()
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	out := c.App.Writer
	if p, ok := out.(*printable); ok { // an archive is for no terminal
		out = p.Writer
	}
	_, err := io.Copy(out, file)
	return err
}

// collect the parts. Each has its time, and none keeps another from being had.
func (a *archive) collect(ctx context.Context, parts []part, atOnce int) {
	turns := make(chan struct{}, max(1, atOnce))
	var running sync.WaitGroup
	for _, p := range parts {
		turns <- struct{}{}
		running.Go(func() {
			defer func() { <-turns }()
			ctx, stop := context.WithTimeout(ctx, partTime)
			defer stop()
			text, err := p.get(ctx)
			if len(text) > 0 {
				a.add(p.name, redacted(tail(text, partSize)))
			}
			if err != nil {
				a.lacks(p.name, err)
			}
			a.step()
		})
	}
	running.Wait()
}

func (a *archive) step() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.work.step()
}

func (a *archive) lacks(name string, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.missing = append(a.missing, string(redacted([]byte(name+": "+oneLine(err.Error(), 500)))))
}

func (a *archive) add(name string, text []byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	err := a.tar.WriteHeader(&tar.Header{Name: path.Join(a.top, name), Mode: 0o600, Size: int64(len(text)), ModTime: time.Now(), Typeflag: tar.TypeReg})
	if err == nil {
		_, err = a.tar.Write(text)
	}
	a.written = errors.Join(a.written, err)
}

// tail of a text, in whole lines.
func tail(text []byte, most int) []byte {
	if len(text) <= most {
		return text
	}
	text = text[len(text)-most:]
	return append([]byte("(what was before is left out)\n"), text[bytes.IndexByte(text, '\n')+1:]...)
}

// secrets are what looks like one in any text, and what stands in its place. What is known to have some, Secrets, kubeconfigs and values of
// variables, is not collected at all.
var secrets = []struct {
	like *regexp.Regexp
	text string
}{
	{regexp.MustCompile(`(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|$)`), "(private key left out)"},
	{regexp.MustCompile(`eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*`), "(token left out)"},
	{regexp.MustCompile(`(?i)\b(bearer|basic)\s+[A-Za-z0-9+/_.=~-]{8,}`), "$1 (left out)"},
	{regexp.MustCompile(`(?i)(["']?\b[a-z0-9_.-]*(?:password|passwd|secret[_-]?key|secretaccesskey|api[_-]?key|token|client-key-data)["']?\s*[:=]\s*["']?)[^\s"',}]{4,}`), "${1}(left out)"},
	{regexp.MustCompile(`(://[^/\s:@]+:)[^/\s@]+@`), "${1}(left out)@"},
}

func redacted(text []byte) []byte {
	for _, s := range secrets {
		text = s.like.ReplaceAll(text, []byte(s.text))
	}
	return text
}
