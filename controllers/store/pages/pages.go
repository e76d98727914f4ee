// Package pages sees whether a file is what bbolt would have written.
package pages

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"syscall"

	"go.etcd.io/bbolt"
)

// ErrDamaged is of a file that is not.
var ErrDamaged = errors.New("its pages are not as they were written")

// pages is a file as bbolt lays it out. bbolt trusts what it reads: a damaged page number makes it go round in a circle, fill
// the memory, or fault on a goroutine of its own, where nobody can catch it. So before it follows a page, Check has seen that
// the buckets are what bbolt would have written: trees that end, of pages within the file, each in one place, with keys in
// order. What the values say is for who wrote them to see.
//
//	file    page 0, page 1, …; the first two each hold the head of a transaction, the later one counts
//	page    number 8, flags 2, elements 2, pages more that belong to it 4; then the elements, 16 bytes each; then their text
//	branch  element: where its key begins, from the element on 4, length 4, page 8
//	leaf    element: 1 for a bucket 4, where its key begins 4, length of key 4 and of the value behind it 4
//	bucket  as a value: its page 8, a number 8; when the page is 0, the one page stands here
type pages struct {
	text []byte
	size uint64 // of a page
	end  uint64 // the number behind the last page
	seen []bool // by page
}

const (
	pageHeader    = 16
	pageElement   = 16
	bucketHeader  = 16
	branchPage    = 1
	leafPage      = 2
	bucketElement = 1

	headRoot = pageHeader + 16 // where the head of a transaction has the page of the outermost bucket
	headEnd  = pageHeader + 40 // and the number behind the last page
	headTx   = pageHeader + 48 // and its number
)

// element of a page: of a branch with a child, of a leaf with a value.
type element struct {
	key, value []byte
	child      uint64
	bucket     bool
}

// Check looks at all that can be reached in the file as raw has it.
func Check(file *os.File, raw *bbolt.Tx) error {
	p := &pages{size: uint64(raw.DB().Info().PageSize)}
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if info.Size() < raw.Size() {
		return fmt.Errorf("%w: it has %d bytes of %d", ErrDamaged, info.Size(), raw.Size())
	}
	if p.text, err = syscall.Mmap(int(file.Fd()), 0, int(raw.Size()), syscall.PROT_READ, syscall.MAP_SHARED|syscall.MAP_POPULATE); err != nil {
		return fmt.Errorf("mapping its %d bytes: %w", raw.Size(), err)
	}
	defer syscall.Munmap(p.text)
	for _, head := range [][]byte{p.text[:p.size], p.text[p.size : 2*p.size]} {
		if u64(head[headTx:]) == uint64(raw.ID()) {
			if p.end = u64(head[headEnd:]); p.end > uint64(len(p.text))/p.size {
				return fmt.Errorf("%w: it says that it ends with page %d", ErrDamaged, p.end)
			}
			p.seen = append([]bool{true, true}, make([]bool, p.end)...) // the heads are in no tree
			return p.tree(u64(head[headRoot:]), nil, nil, true)
		}
	}
	return fmt.Errorf("%w: no page has the head of transaction %d", ErrDamaged, raw.ID())
}

// tree checks a page and what is below it: its keys are from low on, and below high unless that is nil.
func (p *pages) tree(id uint64, low, high []byte, outermost bool) error {
	page, err := p.page(id)
	if err != nil {
		return err
	}
	return p.elements(page, low, high, outermost)
}

// page gives a page with those that belong to it.
func (p *pages) page(id uint64) ([]byte, error) {
	if id >= p.end || (id+1)*p.size > uint64(len(p.text)) {
		return nil, fmt.Errorf("%w: page %d is behind the end", ErrDamaged, id)
	}
	page := p.text[id*p.size:]
	last := id + uint64(binary.NativeEndian.Uint32(page[12:]))
	if u64(page) != id || last >= p.end || (last+1)*p.size > uint64(len(p.text)) {
		return nil, fmt.Errorf("%w: page %d says that it is page %d to %d", ErrDamaged, id, u64(page), last)
	}
	for n := id; n <= last; n++ {
		if p.seen[n] {
			return nil, fmt.Errorf("%w: page %d is in two places", ErrDamaged, n)
		}
		p.seen[n] = true
	}
	return p.text[id*p.size : (last+1)*p.size], nil
}

func (p *pages) elements(page, low, high []byte, outermost bool) error {
	flags := binary.NativeEndian.Uint16(page[8:])
	all := make([]element, binary.NativeEndian.Uint16(page[10:]))
	for i := range all {
		if err := all[i].read(page, i, flags); err != nil {
			return err
		}
	}
	if flags == branchPage && len(all) == 0 {
		return fmt.Errorf("%w: a branch has no leaf", ErrDamaged)
	}
	for i, e := range all {
		next := high
		if i+1 < len(all) {
			next = all[i+1].key
		}
		if bytes.Compare(e.key, low) < 0 || next != nil && bytes.Compare(e.key, next) >= 0 {
			return fmt.Errorf("%w: keys are out of order", ErrDamaged)
		}
		var err error
		switch {
		case flags == branchPage:
			err = p.tree(e.child, e.key, next, outermost)
		case e.bucket != outermost:
			err = fmt.Errorf("%w: buckets are only in the outermost one, and nothing else is", ErrDamaged)
		case e.bucket:
			err = p.bucket(e.value)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (p *pages) bucket(value []byte) error {
	switch {
	case len(value) < bucketHeader:
	case u64(value) != 0:
		return p.tree(u64(value), nil, nil, false)
	case len(value) >= bucketHeader+pageHeader && binary.NativeEndian.Uint16(value[bucketHeader+8:]) == leafPage:
		return p.elements(value[bucketHeader:], nil, nil, false)
	}
	return fmt.Errorf("%w: a bucket has no page", ErrDamaged)
}

// read takes in element i of a page.
func (e *element) read(page []byte, i int, flags uint16) error {
	at := uint64(pageHeader + pageElement*i)
	if at+pageElement > uint64(len(page)) {
		return fmt.Errorf("%w: a page has more elements than it can", ErrDamaged)
	}
	word := func(n uint64) uint64 { return uint64(binary.NativeEndian.Uint32(page[at+4*n:])) }
	var start, keySize, valueSize uint64
	switch flags {
	case branchPage:
		start, keySize, e.child = at+word(0), word(1), u64(page[at+8:])
	case leafPage:
		start, keySize, valueSize, e.bucket = at+word(1), word(2), word(3), word(0) == bucketElement
	default:
		return fmt.Errorf("%w: a page is neither branch nor leaf", ErrDamaged)
	}
	if start+keySize+valueSize > uint64(len(page)) {
		return fmt.Errorf("%w: an element is longer than its page", ErrDamaged)
	}
	e.key, e.value = page[start:start+keySize], page[start+keySize:start+keySize+valueSize]
	return nil
}

func u64(b []byte) uint64 { return binary.NativeEndian.Uint64(b) }
