package store

import (
	"errors"
	"testing"

	v3 "github.com/tierwall/tierwall/apis/v3"
)

// A file that brings its own namespace and tier is written to a cluster that has neither.
func TestKubeWritesWhatStandsTogether(t *testing.T) {
	k := kubeStore(t)
	docs := Read([]string{"../../config/samples/shop.yaml"}, ReadOptions{})
	if _, err := k.Transact(t.Context(), func(w Writer) error {
		for _, d := range docs {
			if _, err := w.Create(d.Object); err != nil && !errors.Is(err, ErrExists) {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for _, d := range docs {
		if _, err := k.Get(t.Context(), v3.RefOf(d.Object.(v3.Object))); err != nil {
			t.Error(err)
		}
	}
}
