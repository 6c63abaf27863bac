//! Replays `fuzz/corpus/calls`: sequences of calls of the C functions that `make fuzz` has found.

use std::path::Path;

#[path = "fuzzing/calls.rs"]
mod calls;

#[test]
fn corpus_of_calls() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/calls");
    let mut count = 0;
    for file in std::fs::read_dir(&folder).unwrap() {
        let path = file.unwrap().path();
        let result = std::panic::catch_unwind(|| calls::target(&std::fs::read(&path).unwrap()));
        assert!(result.is_ok(), "{}", path.display());
        count += 1;
    }
    assert!(count > 0, "{folder:?} is empty");
}
