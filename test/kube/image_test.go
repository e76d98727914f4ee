package kube

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestWriteImages(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "program")
	if err := os.WriteFile(program, []byte("#!"), 0o600); err != nil {
		t.Fatal(err)
	}
	images := []Image{
		{Ref: "test/a:1", Files: map[string]string{"/bin/a": program, "/b": program}, Entrypoint: []string{"/bin/a"}, User: "65532"},
		{Ref: "test/b:1", Files: map[string]string{"/b": program}},
	}
	archive := filepath.Join(dir, "images.tar")
	if err := writeImages(archive, images); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(archive)
	if err != nil {
		t.Fatal(err)
	}
	var layers []string
	for name, content := range unpacked(t, text) {
		if strings.HasSuffix(name, "/layer.tar") {
			files := []string{}
			for name, content := range unpacked(t, content) {
				files = append(files, name+" "+string(content))
			}
			slices.Sort(files)
			layers = append(layers, strings.Join(files, ","))
		}
	}
	slices.Sort(layers)
	if d := cmp.Diff([]string{"b #!", "b #!,bin/a #!"}, layers); d != "" {
		t.Error(d)
	}
	if err := writeImages(archive, []Image{{Ref: "test/c:1", Files: map[string]string{"/c": filepath.Join(dir, "none")}}}); err == nil || !strings.Contains(err.Error(), "image test/c:1") {
		t.Errorf("an image of a file that is not there: %v", err)
	}
}

func unpacked(t *testing.T, archive []byte) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	for r := tar.NewReader(bytes.NewReader(archive)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		if out[h.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
}
