package complete

import (
	"strings"

	"github.com/tierwall/tierwall/controllers/store/key"
)

// Key is the name of an object of a store.
type Key = key.Key

// livePart is one of the kinds whose objects a Noun stands for, and how they are called there.
type livePart struct {
	kind  string
	where func(k Key, namespace string) string // "" when it is not
}

func name(k Key, _ string) string { return k.Name }

func full(k Key, _ string) string {
	if k.Namespace == "" {
		return k.Name
	}
	return k.Namespace + "/" + k.Name
}

// ref is what a Ref is as text.
func ref(k Key, _ string) string { return k.Kind + "/" + full(k, "") }

var endpoints = []livePart{{"Pod", full}, {"WorkloadEndpoint", full}, {"HostEndpoint", name}}

// live are the Nouns whose words are names of objects.
var live = map[Noun][]livePart{
	Namespace: {{"Namespace", name}},
	Node:      {{"Node", name}},
	Tier:      {{"Tier", name}},
	Endpoint:  endpoints,
	End:       append([]livePart{{"Node", name}}, endpoints...),
	Policy: {{"NetworkPolicy", ref}, {"GlobalNetworkPolicy", ref}, {"KubernetesNetworkPolicy", ref}, {"KubernetesClusterNetworkPolicy", ref},
		{"StagedNetworkPolicy", ref}, {"StagedGlobalNetworkPolicy", ref}, {"StagedKubernetesNetworkPolicy", ref}},
}

// Live gives the kinds whose objects' names the last word may become; none when it stands for something else.
func (l *Line) Live() (kinds []string) {
	for _, part := range l.parts() {
		kinds = append(kinds, part.kind)
	}
	return kinds
}

func (l *Line) parts() []livePart {
	if k := l.Kind(); l.Want == Name && k != nil {
		return []livePart{{k.Kind, inNamespace(k.Namespaced)}}
	}
	return live[l.Want]
}

// inNamespace is the name of an object that the command would look for.
func inNamespace(namespaced bool) func(Key, string) string {
	return func(k Key, namespace string) string {
		if namespaced && k.Namespace != namespace {
			return ""
		}
		return k.Name
	}
}

// Named makes candidates of objects of a store.
func (l *Line) Named(all []Key) (out []Candidate) {
	namespace := l.Flag("namespace")
	if namespace == "" {
		namespace = "default"
	}
	parts := l.parts()
	for _, part := range parts {
		for _, k := range all {
			word := part.where(k, namespace)
			if k.Kind != part.kind || word == "" || strings.ContainsFunc(word, unprintable) {
				continue
			}
			c := Candidate{Word: word}
			if len(parts) > 1 {
				c.Usage = k.Kind
			}
			out = append(out, c)
		}
	}
	return out
}

// unprintable is what no name has that was admitted.
func unprintable(r rune) bool { return r <= ' ' || r > '~' }
