//! `include/netserver.h` is what cbindgen makes of `src/ffi`, its version is that of `Cargo.toml`,
//! and `tests/c/symbols.txt` has its functions. `NS_BLESS=1` writes both files anew.

use std::path::{Path, PathBuf};
use std::{env, fs};

/// In the order in which their functions appear in the header.
const SOURCES: [&str; 10] = [
    "types",
    "server",
    "config",
    "callbacks",
    "tls",
    "socket",
    "calls",
    "stats",
    "error",
    "version",
];

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn version_macros() -> String {
    format!(
        "\n/** The version of this header. */\n\
         #define NS_VERSION_MAJOR {0}\n#define NS_VERSION_MINOR {1}\n#define NS_VERSION_PATCH {2}\n\
         #define NS_VERSION_STRING \"{0}.{1}.{2}\"\n\
         /** As a number, 0xMMmmpp, to compare with `ns_version_number`. */\n\
         #define NS_VERSION_NUMBER (NS_VERSION_MAJOR << 16 | NS_VERSION_MINOR << 8 | NS_VERSION_PATCH)",
        env!("CARGO_PKG_VERSION_MAJOR"),
        env!("CARGO_PKG_VERSION_MINOR"),
        env!("CARGO_PKG_VERSION_PATCH"),
    )
}

fn header() -> String {
    let mut config = cbindgen::Config::from_file(path("cbindgen.toml")).expect("cbindgen.toml");
    config.after_includes = Some(version_macros());
    let mut builder = cbindgen::Builder::new().with_config(config);
    for source in SOURCES {
        builder = builder.with_src(path(&format!("src/ffi/{source}.rs")));
    }
    let mut text = Vec::new();
    builder.generate().expect("the sources parse").write(&mut text);
    let text = String::from_utf8(text).expect("UTF-8");
    assert!(text.is_ascii(), "the header is read by every compiler");
    short_comments(&text)
}

/// Comments of one line on one line.
fn short_comments(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let mut out = String::new();
    let mut at = 0;
    while at < lines.len() {
        let indent = lines[at].len() - lines[at].trim_start().len();
        let short =
            lines[at].trim() == "/**" && lines.get(at + 2).is_some_and(|l| l.trim() == "*/");
        if short {
            let words = lines[at + 1].trim_start().trim_start_matches("* ");
            out += &format!("{:indent$}/** {words} */\n", "");
            at += 3;
        } else {
            out += &format!("{}\n", lines[at]);
            at += 1;
        }
    }
    out
}

/// The functions that a header declares, sorted.
fn functions(header: &str) -> String {
    let mut names: Vec<&str> = header
        .lines()
        .filter(|line| !line.starts_with([' ', '/', '#']) && !line.starts_with("typedef"))
        .filter_map(|line| line.split_once('(')?.0.rsplit([' ', '*']).next())
        .collect();
    names.sort_unstable();
    names.into_iter().map(|name| format!("{name}\n")).collect()
}

fn check(name: &str, fresh: &str) {
    if env::var_os("NS_BLESS").is_some() {
        fs::create_dir_all(path(name).parent().expect("a folder")).expect(name);
        fs::write(path(name), fresh).expect(name);
    }
    let checked_in = fs::read_to_string(path(name)).unwrap_or_default();
    // Not assert_eq: it would print both files.
    assert!(checked_in == fresh, "{name} is not up to date: NS_BLESS=1 cargo test --test header");
}

#[test]
fn the_header_is_up_to_date() {
    check("include/netserver.h", &header());
}

#[test]
fn the_list_of_symbols_is_up_to_date() {
    check("tests/c/symbols.txt", &functions(&header()));
}

/// Nothing in `src/ffi` is left out because its file is not in the list above.
#[test]
fn every_exported_function_is_declared() {
    let mut exported: Vec<String> = Vec::new();
    for entry in fs::read_dir(path("src/ffi")).expect("src/ffi") {
        let text = fs::read_to_string(entry.expect("an entry").path()).expect("a source");
        let public = text.lines().filter(|line| line.starts_with("pub "));
        let names = public.filter_map(|line| line.split_once("extern \"C\" fn "));
        exported.extend(names.map(|(_, rest)| rest.split('(').next().unwrap_or(rest).to_owned()));
    }
    exported.sort_unstable();
    let exported: String = exported.into_iter().map(|name| format!("{name}\n")).collect();
    assert_eq!(exported, functions(&header()));
}
