package policy

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

type number int

func (n number) Compare(o number) int { return int(n - o) }

// A sorted list is what a plain one would be after any changes, its elders stay what they were, and Since is the difference.
func TestSorted(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		list := SortedOf(rapid.Custom(distinct).Draw(t, "base")...)
		plain := slices.Clone(list.Slice())
		elders := []Sorted[number]{list}
		copies := [][]number{slices.Clone(plain)}
		for range rapid.IntRange(0, 40).Draw(t, "changes") {
			x := number(rapid.IntRange(0, 30).Draw(t, "x"))
			if i, ok := slices.BinarySearch(plain, x); ok {
				list, plain = list.without(x), slices.Delete(plain, i, i+1)
			} else {
				list, plain = list.with(x), slices.Insert(plain, i, x)
			}
			if rapid.IntRange(0, 9).Draw(t, "settle") == 0 {
				list = SortedOf(list.Slice()...)
			}
			elders, copies = append(elders, list), append(copies, slices.Clone(plain))
		}
		for i, e := range elders {
			have := slices.Collect(e.All())
			if !slices.Equal(have, copies[i]) || !slices.Equal(e.Slice(), copies[i]) || e.Len() != len(copies[i]) {
				t.Fatalf("%v is %v", copies[i], have)
			}
			gone, come := list.Since(e)
			for x := number(0); x <= 30; x++ {
				was, is := slices.Contains(copies[i], x), slices.Contains(plain, x)
				if e.Has(x) != was || slices.Contains(gone, x) != (was && !is) || slices.Contains(come, x) != (is && !was) {
					t.Fatalf("%d: from %v to %v: gone %v, come %v", x, copies[i], plain, gone, come)
				}
			}
			if !slices.IsSorted(gone) || !slices.IsSorted(come) {
				t.Fatalf("gone %v, come %v", gone, come)
			}
		}
	})
}

func distinct(t *rapid.T) []number {
	out := rapid.SliceOfDistinct(rapid.Map(rapid.IntRange(0, 30), func(i int) number { return number(i) }), rapid.ID[number]).Draw(t, "numbers")
	slices.Sort(out)
	return out
}

// However many changes there are, what is kept beside the base stays short.
func TestSortedSettles(t *testing.T) {
	list := SortedOf([]number(nil)...)
	for x := range 3 * most {
		list = list.with(number(x))
	}
	if list.Len() != 3*most || len(list.more)+len(list.less) > most {
		t.Fatalf("%d elements, %d and %d beside the base", list.Len(), len(list.more), len(list.less))
	}
}
