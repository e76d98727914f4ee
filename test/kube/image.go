package kube

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"
)

// Image is what a container runs: a few files, and nothing round them.
type Image struct {
	Ref        string            // "tierwall.test/agent:1"
	Files      map[string]string // by their path in the image the files on this machine; all of them may be executed
	Entrypoint []string
	User       string // "65532"; without one it is root
}

// Every node has these.
const (
	PodImage   = "tierwall.test/pod:1" // answers on TCP 80 and 8080, and UDP 80; see the command pod
	pauseImage = "tierwall.test/pause:1"
)

func ownImages(pod string) []Image {
	files := map[string]string{"/pod": pod}
	return []Image{
		{Ref: pauseImage, Files: files, Entrypoint: []string{"/pod", "pause"}},
		{Ref: PodImage, Files: files, Entrypoint: []string{"/pod"}},
	}
}

// writeImages writes one archive of all images, as docker save does.
func writeImages(file string, images []Image) error {
	type entry struct {
		Config           string
		RepoTags, Layers []string
	}
	var manifest []entry
	contents := map[string][]byte{}
	for _, i := range images {
		layer, err := i.layer()
		if err != nil {
			return fmt.Errorf("image %s: %w", i.Ref, err)
		}
		config, err := json.Marshal(i.config(layer))
		if err != nil {
			return fmt.Errorf("image %s: %w", i.Ref, err)
		}
		e := entry{Config: digest(config) + ".json", RepoTags: []string{i.Ref}, Layers: []string{digest(layer) + "/layer.tar"}}
		contents[e.Config], contents[e.Layers[0]] = config, layer
		manifest = append(manifest, e)
	}
	text, err := json.Marshal(manifest)
	if err != nil {
		return err
	}
	contents["manifest.json"] = text
	archive, err := archived(contents, 0o644)
	if err != nil {
		return err
	}
	return os.WriteFile(file, archive, 0o644)
}

func (i Image) layer() ([]byte, error) {
	contents := map[string][]byte{}
	for path, file := range i.Files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		contents[strings.TrimPrefix(path, "/")] = text
	}
	return archived(contents, 0o755)
}

func (i Image) config(layer []byte) any {
	type object = map[string]any
	return object{
		"architecture": runtime.GOARCH, "os": runtime.GOOS,
		"config":  object{"Entrypoint": i.Entrypoint, "User": i.User},
		"rootfs":  object{"type": "layers", "diff_ids": []string{"sha256:" + digest(layer)}},
		"history": []object{{"created_by": "tierwall's tests"}},
	}
}

func archived(contents map[string][]byte, mode int64) ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, name := range slices.Sorted(maps.Keys(contents)) {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: mode, Size: int64(len(contents[name]))}); err != nil {
			return nil, err
		}
		if _, err := w.Write(contents[name]); err != nil {
			return nil, err
		}
	}
	return out.Bytes(), w.Close()
}

func digest(text []byte) string {
	h := sha256.Sum256(text)
	return hex.EncodeToString(h[:])
}
