//! The objects of a thread, in places that never move, and the ways to reach one
//! of them while the program's code runs: the loop may have another one in hand.

use std::collections::TryReserveError;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

const CHUNK: usize = 256;

type Chunk<T> = NonNull<[T; CHUNK]>;

/// Objects in numbered places. No reference to a whole chunk is ever made: so
/// one object may be in use while [`Reach::other`] lends another one.
pub(crate) struct Slots<T> {
    chunks: Vec<Chunk<T>>,
}

// SAFETY: the slots own their objects.
unsafe impl<T: Send> Send for Slots<T> {}

impl<T> Slots<T> {
    pub fn new() -> Slots<T> {
        Slots { chunks: Vec::new() }
    }

    #[inline]
    pub fn get(&mut self, slot: u32) -> Option<&mut T> {
        let slot = slot as usize;
        let chunk = self.chunks.get(slot / CHUNK)?;
        // SAFETY: the chunk lives as long as `self`, which is borrowed. What
        // `Reach::other` lends is another object.
        Some(unsafe { &mut (*chunk.as_ptr())[slot % CHUNK] })
    }

    /// Returns the object of a place. Makes it and those before it with `vacant`,
    /// if they are not there, and then calls `grown`. On failure nothing has
    /// moved, but `grown` has been called.
    pub fn place(
        &mut self,
        slot: u32,
        vacant: impl Fn() -> T,
        grown: impl FnOnce(&Slots<T>),
    ) -> Result<&mut T, TryReserveError> {
        let slot = slot as usize;
        if slot / CHUNK >= self.chunks.len() {
            let made = self.grow_to(slot / CHUNK, vacant);
            // The list of the chunks may have moved in any case.
            grown(self);
            made?;
        }
        // SAFETY: as in `get`.
        Ok(unsafe { &mut (*self.chunks[slot / CHUNK].as_ptr())[slot % CHUNK] })
    }

    #[cold]
    fn grow_to(&mut self, last: usize, vacant: impl Fn() -> T) -> Result<(), TryReserveError> {
        while self.chunks.len() <= last {
            self.chunks.try_reserve(1)?;
            let mut chunk = Vec::new();
            chunk.try_reserve_exact(CHUNK)?;
            chunk.resize_with(CHUNK, &vacant);
            self.chunks.push(NonNull::from(Box::leak(chunk.into_boxed_slice())).cast());
        }
        Ok(())
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        let places = self.chunks.iter().flat_map(|chunk| (0..CHUNK).map(move |i| (chunk, i)));
        // SAFETY: as in `get`; each place comes once.
        places.map(|(chunk, i)| unsafe { &mut (*chunk.as_ptr())[i] })
    }
}

impl<T> Drop for Slots<T> {
    fn drop(&mut self) {
        for chunk in &self.chunks {
            // SAFETY: `place` has leaked it, and nothing refers to it any more.
            drop(unsafe { Box::from_raw(chunk.as_ptr()) });
        }
    }
}

/// How code that a thread calls reaches the objects of that thread.
pub(crate) struct Reach<T> {
    /// The object whose callback runs, or ran last.
    current: AtomicPtr<T>,
    chunks: AtomicPtr<Chunk<T>>,
    len: AtomicUsize,
}

impl<T> Reach<T> {
    pub fn new() -> Reach<T> {
        Reach {
            current: AtomicPtr::new(ptr::null_mut()),
            chunks: AtomicPtr::new(ptr::null_mut()),
            len: AtomicUsize::new(0),
        }
    }

    /// Notes the object of the callback that begins. It stays in its place until
    /// [`Reach::forget`].
    #[inline(always)]
    pub fn note(&self, object: *mut T) {
        self.current.store(object, Ordering::Relaxed);
    }

    /// No callback of an object runs.
    pub fn note_none(&self) {
        self.note(ptr::null_mut());
    }

    /// Notes the slots of the thread, to be called each time they have grown.
    pub fn note_slots(&self, slots: &Slots<T>) {
        self.chunks.store(slots.chunks.as_ptr().cast_mut(), Ordering::Relaxed);
        self.len.store(slots.chunks.len(), Ordering::Relaxed);
    }

    /// The objects may be freed or moved from now on.
    pub fn forget(&self) {
        self.note_none();
        self.len.store(0, Ordering::Relaxed);
    }

    /// Lends the object of a slot; not the one whose callback runs. Only code that
    /// the thread of the slots calls, in a callback of the program, may call this:
    /// the thread then has no object in hand but that one, and does not change the
    /// slots.
    #[inline]
    pub fn other<R>(&self, slot: u32, body: impl FnOnce(&mut T) -> R) -> Option<R> {
        let slot = slot as usize;
        if slot / CHUNK >= self.len.load(Ordering::Relaxed) {
            return None;
        }
        // SAFETY: the slots are there (`forget`) and have as many chunks, and no
        // other thread changes them. The place is in the chunk.
        let object = unsafe {
            let chunk = *self.chunks.load(Ordering::Relaxed).add(slot / CHUNK);
            &raw mut (*chunk.as_ptr())[slot % CHUNK]
        };
        if ptr::eq(object, self.current.load(Ordering::Relaxed)) {
            return None;
        }
        // SAFETY: the only object that is in use is the current one.
        Some(body(unsafe { &mut *object }))
    }

    /// Changes the current object, in a child of fork(2), inside fork(3).
    pub fn change_in_child(&self, change: impl FnOnce(&mut T)) {
        // SAFETY: the object is in its place. A callback that runs has it as
        // the C layer's pointer has it, and this is the only thread.
        if let Some(object) = unsafe { self.current.load(Ordering::Relaxed).as_mut() } {
            change(object);
        }
    }
}
