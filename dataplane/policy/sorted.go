package policy

import (
	"iter"
	"slices"
)

// Sorted is a sorted list without duplicates that shares memory with the one it was made from: a copy with one element more or
// less costs the same whatever its size. It is a value: whoever has one keeps it as it is.
type Sorted[T interface{ Compare(T) int }] struct {
	base       []T
	more, less []T // what base has not, and what it has and is not meant; both sorted, and short
}

// most is how many elements are kept beside the base before a new base is made: its cost is shared by so many changes.
const most = 1024

// SortedOf elements that are in order and without duplicates; the list is theirs from now on.
func SortedOf[T interface{ Compare(T) int }](elems ...T) Sorted[T] { return Sorted[T]{base: elems} }

func search[T interface{ Compare(T) int }](in []T, x T) (int, bool) {
	return slices.BinarySearchFunc(in, x, T.Compare)
}

// Has tells whether x is in the list.
func (s Sorted[T]) Has(x T) bool {
	if _, ok := search(s.more, x); ok {
		return true
	}
	if _, ok := search(s.less, x); ok {
		return false
	}
	_, ok := search(s.base, x)
	return ok
}

// Len is how many elements there are.
func (s Sorted[T]) Len() int { return len(s.base) + len(s.more) - len(s.less) }

// All gives the elements in order.
func (s Sorted[T]) All() iter.Seq[T] {
	return func(yield func(T) bool) {
		more, less := s.more, s.less
		for _, x := range s.base {
			for len(more) > 0 && more[0].Compare(x) < 0 {
				if !yield(more[0]) {
					return
				}
				more = more[1:]
			}
			if len(less) > 0 && less[0].Compare(x) == 0 {
				less = less[1:]
				continue
			}
			if !yield(x) {
				return
			}
		}
		for _, x := range more {
			if !yield(x) {
				return
			}
		}
	}
}

// Same tells at once whether two lists are one value: one that was made from the other by nothing. Others may be equal all the same.
func (s Sorted[T]) Same(o Sorted[T]) bool {
	return same(s.base, o.base) && same(s.more, o.more) && same(s.less, o.less)
}

func same[T any](a, b []T) bool { return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0]) }

// Equal tells whether two lists have the same elements.
func (s Sorted[T]) Equal(o Sorted[T]) bool {
	if s.Same(o) {
		return true
	}
	gone, come := o.Since(s)
	return len(gone)+len(come) == 0
}

// Changed is the list without what has gone, which it has, and with what has come, which it has not; both in order.
func (s Sorted[T]) Changed(gone, come []T) Sorted[T] {
	const few = 64 // for which one after the other costs less than a new base
	if len(gone)+len(come) > few {
		kept, _ := split(s.Slice(), gone)
		return SortedOf(merged(kept, come)...)
	}
	for _, x := range gone {
		s = s.without(x)
	}
	for _, x := range come {
		s = s.with(x)
	}
	return s
}

// Slice is the elements in order; it may be shared and must not be changed.
func (s Sorted[T]) Slice() []T {
	if len(s.more)+len(s.less) == 0 {
		return s.base
	}
	return slices.AppendSeq(make([]T, 0, s.Len()), s.All())
}

// with is the list with x, which it has not.
func (s Sorted[T]) with(x T) Sorted[T] {
	if i, ok := search(s.less, x); ok {
		s.less = without(s.less, i)
		return s
	}
	i, _ := search(s.more, x)
	s.more = slices.Insert(slices.Clone(s.more), i, x)
	return s.settled()
}

// without is the list without x, which it has.
func (s Sorted[T]) without(x T) Sorted[T] {
	if i, ok := search(s.more, x); ok {
		s.more = without(s.more, i)
		return s
	}
	i, _ := search(s.less, x)
	s.less = slices.Insert(slices.Clone(s.less), i, x)
	return s.settled()
}

func without[T any](in []T, i int) []T { return slices.Delete(slices.Clone(in), i, i+1) }

func (s Sorted[T]) settled() Sorted[T] {
	if len(s.more)+len(s.less) <= most {
		return s
	}
	return SortedOf(s.Slice()...)
}

// Since is what has gone and what has come since another list, in order. It costs little if one was made from the other.
func (s Sorted[T]) Since(old Sorted[T]) (gone, come []T) {
	if len(s.base) != len(old.base) || len(s.base) > 0 && &s.base[0] != &old.base[0] {
		return split(old.Slice(), s.Slice())
	}
	unsaid, said := split(old.more, s.more)
	back, lost := split(old.less, s.less)
	return merged(unsaid, lost), merged(said, back)
}

// split walks two sorted lists and gives what is only in the first, and only in the second.
func split[T interface{ Compare(T) int }](a, b []T) (only, other []T) {
	for len(a) > 0 && len(b) > 0 {
		switch c := a[0].Compare(b[0]); {
		case c == 0:
			a, b = a[1:], b[1:]
		case c < 0:
			only, a = append(only, a[0]), a[1:]
		default:
			other, b = append(other, b[0]), b[1:]
		}
	}
	return append(only, a...), append(other, b...)
}

func merged[T interface{ Compare(T) int }](a, b []T) []T {
	if len(a) == 0 {
		return b
	}
	out := make([]T, 0, len(a)+len(b))
	for len(a) > 0 && len(b) > 0 {
		if a[0].Compare(b[0]) < 0 {
			out, a = append(out, a[0]), a[1:]
		} else {
			out, b = append(out, b[0]), b[1:]
		}
	}
	return append(append(out, a...), b...)
}
