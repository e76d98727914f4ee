package ruleset

import "slices"

// objects are sets, maps and chains in the making, by name.
type objects struct {
	sets   map[string]*gathering
	maps   map[string]*mapping
	chains map[string]*Chain
}

func newObjects() *objects {
	return &objects{map[string]*gathering{}, map[string]*mapping{}, map[string]*Chain{}}
}

// finished gives them in order.
func (o *objects) finished() (sets []*Set, maps []*Map, chains []*Chain) {
	for _, name := range sortedNames(o.sets) {
		sets = append(sets, o.sets[name].sorted())
	}
	for _, name := range sortedNames(o.maps) {
		maps = append(maps, o.maps[name].sorted())
	}
	for _, name := range sortedNames(o.chains) {
		chains = append(chains, o.chains[name])
	}
	return sets, maps, chains
}

// gathering is a set in the making: what is gathered is put into its elements in the end, in order and once.
type gathering struct {
	Set
	gathered []Elem
}

// mapping is a map in the making, its entries in the order in which they are found.
type mapping struct{ Map }

// set returns the set of that name, empty if it is new.
func (o *objects) set(name string, t Type, interval bool) *gathering {
	if o.sets[name] == nil {
		o.sets[name] = &gathering{Set: Set{Name: name, Type: t, Interval: interval}}
	}
	return o.sets[name]
}

func (o *objects) ifaceMap(name string) *mapping {
	if m := o.maps[name]; m != nil {
		return m
	}
	return o.newMap(name, TypeIface)
}

func (o *objects) newMap(name string, t Type) *mapping {
	m := &mapping{Map{Name: name, Type: t}}
	o.maps[name] = m
	return m
}

// add an entry; what came first for a key counts.
func (m *mapping) add(key Elem, v Verdict) { m.Entries = append(m.Entries, Entry{key, v}) }

func (m *mapping) sorted() *Map {
	slices.SortStableFunc(m.Entries, func(a, b Entry) int { return a.Key.Compare(b.Key) })
	m.Entries = slices.CompactFunc(m.Entries, func(a, b Entry) bool { return a.Key == b.Key })
	return &m.Map
}

func (s *gathering) sorted() *Set {
	if len(s.gathered) > 0 {
		slices.SortFunc(s.gathered, Elem.Compare)
		s.gathered = slices.Compact(s.gathered) // several guards may ask
		s.Elems = ElemsOf(s.gathered...)
	}
	return &s.Set
}
