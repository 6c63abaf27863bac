package netserver

import (
	"sync"
	"sync/atomic"
)

// The C side knows objects of this package by a number alone: they live in this
// table until C drops the number. So nothing that C may name is collected.
//
// It has parts, so that loops do not wait for each other.
const parts = 64

type part struct {
	sync.RWMutex
	objects map[uint64]any
	last    uint64
	_       [64]byte // the next part has cache lines of its own
}

var table [parts]part

// next spreads the objects over the parts.
var next atomic.Uint64

func init() {
	for i := range table {
		table[i].objects = make(map[uint64]any)
	}
}

// keep returns the number of an object: never 0, never used again.
func keep(object any) uint64 {
	i := next.Add(1) % parts
	p := &table[i]
	p.Lock()
	defer p.Unlock()
	p.last++
	number := p.last*parts + i
	p.objects[number] = object
	return number
}

// kept returns the object with a number; nil where it was dropped.
func kept(number uint64) any {
	p := &table[number%parts]
	p.RLock()
	defer p.RUnlock()
	return p.objects[number]
}

// drop forgets an object, and returns it.
func drop(number uint64) any {
	p := &table[number%parts]
	p.Lock()
	defer p.Unlock()
	object := p.objects[number]
	delete(p.objects, number)
	return object
}

// Objects returns how many objects of this package the C side may name now:
// connections, watches, timers, tasks, loops, and errors on their way to a
// handler. It is for tests: when all servers have stopped it is 0.
func Objects() int {
	count := 0
	for i := range table {
		p := &table[i]
		p.RLock()
		count += len(p.objects)
		p.RUnlock()
	}
	return count
}

// each calls f for all objects, without a lock.
func each(f func(number uint64, object any)) {
	for i := range table {
		p := &table[i]
		p.RLock()
		numbers := make([]uint64, 0, len(p.objects))
		objects := make([]any, 0, len(p.objects))
		for number, object := range p.objects {
			numbers, objects = append(numbers, number), append(objects, object)
		}
		p.RUnlock()
		for j, number := range numbers {
			f(number, objects[j])
		}
	}
}
